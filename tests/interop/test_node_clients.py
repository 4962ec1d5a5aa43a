"""JavaScript clients under Node through a bad network, ours and those of others: exactly what was written."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conftest import Serving
from tests.interop import programs
from tests.interop.story import PATH, STREAM, TYPES, Got, cut_off
from tests.js.packages import HERE
from tests.unit.client.log_server import LOG, LogServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.usefixtures("node")]
Tell = Callable[[str], None]


async def run(program: str, *arguments: str) -> list[Got]:
    """What one of the programs in tests/js/clients was given."""
    return [Got(*event) for event in await programs.node(HERE / "clients" / program, *arguments)]


async def test_our_client(serving: Serving, tell: Tell) -> None:
    """`unspool-client`, installed from npm's point of view as a user would."""
    async with cut_off(serving, seed=5) as story:
        got = await run("unspool.mjs", story.url, STREAM)
        tell(await story.verdict("unspool-client in Node", got))


async def test_eventsource(serving: Serving, tell: Tell) -> None:
    """`eventsource`, which stops by itself once the server says that nothing follows."""
    async with cut_off(serving, seed=6) as story:
        got = await run("eventsource.mjs", story.url + PATH, *TYPES)
        tell(await story.verdict("eventsource in Node", got))


async def test_fetch_event_source(serving: Serving, tell: Tell) -> None:
    """`@microsoft/fetch-event-source`, with the position of the last event that was whole: see the program."""
    async with cut_off(serving, seed=7) as story:
        got = await run("fetch-event-source.mjs", story.url + PATH)
        tell(await story.verdict("@microsoft/fetch-event-source in Node", got))


@pytest.mark.parametrize("bare", [True, False], ids=["bare", "with the position of the last whole event"])
async def test_fetch_event_source_cut_at_the_worst_byte(bare: bool) -> None:
    """Bare, it loses an event whose last byte is missing; no server can help that. Its `fetch` option can."""
    cut = len(b": ka\n" + b"".join(LOG[:3])) - 1
    async with LogServer(LOG, cuts=[cut]).running() as server:
        got = await run("fetch-event-source.mjs", f"{server.url}/v1/streams/s/events", *(["bare"] if bare else []))
    assert server.resumed_at == [None, "1-3" if bare else "1-2"]
    assert [event.id for event in got] == [f"1-{offset}" for offset in range(1, 9) if not (bare and offset == 3)]
