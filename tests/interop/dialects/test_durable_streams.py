"""Durable Streams as others see them: the protocol's conformance suite, and clients behind a network that cuts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import httpx
import httpx2
import pytest
from durable_streams import DurableStreamError, astream
from starlette.applications import Starlette

from tests.conftest import Serving
from tests.interop.dialects.conformance import run_suite
from tests.interop.programs import node
from tests.interop.story import port_of
from unspool import GenerationManager
from unspool.durable import DurableOptions
from unspool.http.dialects.durable_live import LiveOptions
from unspool.http.dialects.durable_streams import SubscriptionOptions, durable_routes
from unspool.testing.proxy import Faults, Proxy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
Tell = Callable[[str], None]

CORE = "^(?!.*(Fork -|Reserved))"
FORKS = "Fork -"
SUBSCRIPTIONS = "Reserved"

CUTS = 25
LATE = 5
MESSAGES = 400
CONNECTION = 6_000
"""Bytes that a connection carries at most, until there were cuts enough."""


@asynccontextmanager
async def served(
    serving: Serving, stores: Collection[str], faults: Faults | None = None, **options: Any
) -> AsyncGenerator[tuple[Proxy, httpx2.AsyncClient]]:
    """A replica for each store, behind a proxy that takes them by turns; and a client of the first."""
    async with AsyncExitStack() as stack:
        clients: list[httpx2.AsyncClient] = []
        for store in stores:
            manager = await stack.enter_async_context(GenerationManager.from_url(store))
            app = Starlette(routes=durable_routes(manager, live=LiveOptions(long_poll=0.5), **options))
            app.state.manager = manager
            clients.append(await stack.enter_async_context(serving(app)))
        yield await stack.enter_async_context(Proxy([port_of(client) for client in clients], faults)), clients[0]


async def conform(
    serving: Serving, stores: Collection[str], modules: Path, report: Path, tests: str, tell: Tell,
    subscriptions: SubscriptionOptions | None = None,
) -> tuple[int, int]:  # fmt: skip
    """How many of these tests of the suite pass, and how many fail."""
    async with served(serving, stores, subscriptions=subscriptions) as (proxy, _):
        verdict = await run_suite(modules, proxy.url, tests, report / "report.json", subscriptions is not None)
    tell(f"Durable Streams conformance, {len(stores)} replicas, {tests}: {verdict}")
    return verdict.passed, verdict.failed


async def test_core(serving: Serving, stores: Collection[str], modules: Path, tmp_path: Path, tell: Tell) -> None:
    """Everything but forks and subscriptions."""
    assert await conform(serving, stores, modules, tmp_path, CORE, tell) == (250, 0)


async def test_forks(serving: Serving, stores: Collection[str], modules: Path, tmp_path: Path, tell: Tell) -> None:
    assert await conform(serving, stores, modules, tmp_path, FORKS, tell) == (82, 0)


async def test_subscriptions(
    serving: Serving, stores: Collection[str], modules: Path, tmp_path: Path, tell: Tell
) -> None:
    pytest.importorskip("cryptography", reason="webhooks need the extra `webhooks`")
    options = SubscriptionOptions(signing_key=bytes(32), local_webhooks=True)
    assert await conform(serving, stores, modules, tmp_path, SUBSCRIPTIONS, tell, options) == (6, 0)


# clients


@asynccontextmanager
async def written(serving: Serving, stores: Collection[str], seed: int) -> AsyncGenerator[tuple[Proxy, str, list[Any]]]:
    """A JSON stream while it is written, behind a proxy that cuts: the proxy, its address there, what it will hold."""
    random = Random(seed)
    truth: list[Any] = [{"n": number, "text": "ü\n" * random.randint(0, 60)} for number in range(MESSAGES)]
    truth.append({"last": True})
    faults = Faults(seed=seed, cut_after=(1, CONNECTION), cuts=CUTS + LATE, split=True, stall=(0.3, 0.02))
    path = "/v1/stream/chats/7"
    async with served(serving, stores, faults, options=DurableOptions(chunk_bytes=1500)) as (proxy, client):
        created = await client.put(path, headers={"content-type": "application/json"})
        assert created.status_code == 201
        writer = asyncio.create_task(_write(client, path, truth, random))
        yield proxy, f"{proxy.url}{path}", truth
        await writer


async def _write(client: httpx2.AsyncClient, path: str, truth: list[Any], random: Random) -> None:
    at = 0
    while at < len(truth):
        batch = truth[at : at + random.randint(1, 4)]
        at += len(batch)
        headers = {"content-type": "application/json", **({"stream-closed": "true"} if at == len(truth) else {})}
        answer = await client.post(path, content=json.dumps(batch), headers=headers)
        assert answer.status_code == 204, answer.text
        await asyncio.sleep(random.choice((0, 0, 0.002, 0.01)))


def _verdict(client: str, proxy: Proxy, begun: list[str], got: list[Any], truth: list[Any]) -> str:
    line = f"{client}: {proxy.connections} connections, {proxy.cuts} cuts, {len(got)} of {len(truth)} messages"
    assert got == truth, line
    assert proxy.cuts >= CUTS, line
    assert begun == sorted(begun), line
    return line


@pytest.mark.parametrize("live", ["sse", "long-poll"])
async def test_python_client(serving: Serving, stores: Collection[str], live: Any, tell: Tell) -> None:
    """`durable-streams`, which leaves coming back to its user, at the offset of the last whole event."""
    got: list[Any] = []
    begun: list[str] = []
    offset = "-1"
    async with (
        written(serving, stores, 11) as (proxy, url, truth),
        httpx.AsyncClient(trust_env=False, timeout=60) as http,
    ):
        while not got or "last" not in got[-1]:
            begun.append(offset if offset != "-1" else "")
            try:
                async with astream(url, offset=offset, live=live, client=http) as response:
                    async for event in response.iter_events("json_batches"):
                        got += event.data
                        offset = event.next_offset
                        if "last" in got[-1]:
                            break
            except (httpx.TransportError, DurableStreamError):
                await asyncio.sleep(0.005)
        tell(_verdict(f"durable-streams (Python), {live}, {len(stores)} replicas", proxy, begun, got, truth))


@pytest.mark.parametrize("live", ["sse", "long-poll"])
async def test_javascript_client(
    serving: Serving, stores: Collection[str], modules: Path, live: str, tell: Tell
) -> None:
    """`@durable-streams/client` under Node: see the program."""
    async with written(serving, stores, 12) as (proxy, url, truth):
        found = await node(modules / "durable.mjs", url, live)
        begun = ["" if offset == "-1" else offset for offset in found["begun"]]
        tell(_verdict(f"@durable-streams/client, {live}, {len(stores)} replicas", proxy, begun, found["got"], truth))
