"""Following through cuts: each record once, in order, wherever the connection breaks. Both clients, one behaviour."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.client.log_server import BODY, LOG, WORDS, LogServer, frame
from unspool import Fold
from unspool.client import Client, Received, Refused, State, SyncClient, UnexpectedAnswer, Unreachable
from unspool.client.follow import Following
from unspool.client.retry import Retry
from unspool.errors import InvalidArgument, NotFound

Collect = Callable[..., Awaitable[list[Received]]]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time passes between attempts."""
    monkeypatch.setattr("unspool.client.retry._FIRST", 0.0)


async def _asynchronously(server: LogServer, **options: Any) -> list[Received]:
    async with Client(server.url) as client, aclosing(client.follow("s", **options)) as records:
        return [record async for record in records]


async def _blocking(server: LogServer, **options: Any) -> list[Received]:
    def whole() -> list[Received]:
        with SyncClient(server.url) as client:
            return list(client.follow("s", **options))

    return await asyncio.to_thread(whole)


@pytest.fixture(params=[_asynchronously, _blocking], ids=["async", "sync"])
def collect(request: pytest.FixtureRequest) -> Collect:
    """All records of one of the clients, following this server."""
    return request.param


def text_of(records: Sequence[Received]) -> str:
    return "".join(record.data["text"] for record in records if record.type == "text.delta")


def offsets(records: Sequence[Received]) -> list[int]:
    return [record.offset for record in records]


ALL = [1, 2, 3, 4, 5, 6, 7, 8]


async def test_without_a_cut_everything_comes_once(collect: Collect) -> None:
    states: list[State] = []
    async with LogServer(LOG).running() as server:
        records = await collect(server, on_state=states.append)
    assert offsets(records) == ALL
    assert text_of(records) == "".join(WORDS)
    assert [(state.name, state.offset) for state in states] == [("connecting", 0), ("live", 0)]


@pytest.mark.parametrize("clean", [False, True], ids=["broken", "clean"])
async def test_a_cut_at_any_byte_loses_and_repeats_nothing(clean: bool) -> None:
    """A clean end without a terminal event counts as a cut, too."""
    async with LogServer(LOG, clean=clean).running() as server, Client(server.url) as client:
        for cut in range(BODY):
            server.cuts = [cut]
            records = [record async for record in client.follow("s")]
            assert offsets(records) == ALL, f"cut at byte {cut}"
            assert text_of(records) == "".join(WORDS), f"cut at byte {cut}"


async def test_many_cuts_in_a_row(collect: Collect) -> None:
    """The position moves on with each connection, and is sent back with the next."""
    random = Random(2)
    cuts: list[int | str | None] = [random.randint(0, BODY // 2) for _ in range(30)]
    states: list[State] = []
    async with LogServer(LOG, cuts=cuts).running() as server:
        records = await collect(server, on_state=states.append)
    assert offsets(records) == ALL
    assert server.resumed_at[-1] is not None
    waits = [state for state in states if state.name == "waiting"]
    assert len(waits) == len(server.asked) - 1 > 5
    assert all(isinstance(state.error, Unreachable) for state in waits)


async def test_the_generation_is_named_from_the_first_record_on(collect: Collect) -> None:
    """Else a reconnect could find itself in a later generation of the stream."""
    log = [block.replace(b"id: 1-", b"id: 3-") for block in LOG]
    async with LogServer(log, generation=3, cuts=[200]).running() as server:
        records = await collect(server)
    first, second = (path for path, _ in server.asked)
    assert "generation" not in first
    assert "generation=3" in second
    assert {record.generation for record in records} == {3}
    assert records[-1].id == "3-8"


async def test_what_a_server_repeats_is_not_taken_again(collect: Collect) -> None:
    doubled = [block for pair in zip(LOG, LOG, strict=True) for block in pair]
    async with LogServer(doubled).running() as server:
        assert offsets(await collect(server)) == ALL


async def test_records_of_another_generation_are_not_mixed_in(collect: Collect) -> None:
    log = [*LOG[:3], frame(2, 4, "text.delta", {"text": "stray"}), *LOG[3:]]
    async with LogServer(log).running() as server:
        assert text_of(await collect(server)) == "".join(WORDS)


async def test_a_start_after_an_offset(collect: Collect) -> None:
    async with LogServer(LOG).running() as server:
        assert offsets(await collect(server, after=5, generation=1)) == [6, 7, 8]
        assert offsets(await collect(server, after=5)) == [6, 7, 8]
        assert await collect(server, after=8, generation=1) == []
        with pytest.raises(InvalidArgument, match="after"):
            await collect(server, after=-1)


async def test_a_busy_server_is_asked_again_but_a_refusal_is_final(collect: Collect) -> None:
    async with LogServer(LOG, cuts=["503 starting", 150, "503 shutting down", "502 no gateway"]).running() as server:
        assert offsets(await collect(server)) == ALL
    async with LogServer(LOG, cuts=[150, "404 no such stream"]).running() as server:
        with pytest.raises(Refused, match="no such stream"):
            await collect(server)


async def test_a_snapshot_of_what_has_ended_is_the_end(collect: Collect) -> None:
    """The next answer says that nothing follows."""
    sync = frame(1, 8, "sync", {"offset": 8, "status": "complete", "text": "x", "content": [], "reason": "trimmed"})
    async with LogServer([sync]).running() as server:
        assert [record.type for record in await collect(server)] == ["sync"]


@pytest.mark.parametrize(
    "block",
    [
        b"event: text.delta\ndata: {}\n\n",
        b"event: text.delta\ndata: {}\nid: x-1\n\n",
        b"event: text.delta\ndata: []\nid: 1-1\n\n",
        b"event: text.delta\ndata: " + b"[" * 5000 + b"\nid: 1-1\n\n",
    ],
)
async def test_what_is_no_record_is_an_error(collect: Collect, block: bytes) -> None:
    async with LogServer([block]).running() as server:
        with pytest.raises(UnexpectedAnswer, match="is this an unspool server"):
            await collect(server)


async def test_leaving_early_closes_the_connection() -> None:
    async with LogServer(LOG).running() as server, Client(server.url) as client:
        async with aclosing(client.follow("s")) as records:
            assert (await anext(records)).offset == 1
        with SyncClient(server.url) as blocking:
            records = blocking.follow("s")
            assert (await asyncio.to_thread(next, records)).offset == 1
            records.close()


async def test_the_content_is_a_fold_of_what_was_received(collect: Collect) -> None:
    """Records of a client are records: the library's own fold takes them."""
    async with LogServer(LOG, cuts=[300]).running() as server:
        fold = Fold()
        fold.apply_all(await collect(server))
    assert fold.snapshot().text == "".join(WORDS)


# without any I/O


_bytes = st.integers(0, BODY)


@given(st.lists(st.tuples(st.integers(0, 2), _bytes, st.lists(_bytes, max_size=4)), max_size=12))
def test_however_the_bytes_are_cut_and_the_connections_break(connections: list[tuple[int, int, list[int]]]) -> None:
    """Pieces of any size, a break after any of them, a server that begins where it is asked to or earlier."""
    following = Following("s", random=Random(0))
    got: list[Received] = []
    for back, length, places in [*connections, (0, BODY, [])]:
        following.request()
        body = b"".join(LOG[max(following.offset - back, 0) :])[:length]
        following.answered("u", 200, {"content-type": "text/event-stream"})
        for low, high in itertools.pairwise(sorted({0, *places, BODY})):
            got += following.feed(body[low:high])
        if following.ended:
            break
        following.lost()
    assert offsets(got) == ALL
    assert text_of(got) == "".join(WORDS)


def test_it_gives_up_when_the_server_stays_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unspool.client.retry._FIRST", 0.5)
    now = 0.0
    following = Following("s", patience=60, clock=lambda: now, random=Random(3))
    following.answered("u", 200, {"content-type": "text/event-stream"})
    assert offsets(list(following.feed(b"".join(LOG[:2])))) == [1, 2]
    error: Unreachable | None = None
    while error is None:
        try:
            now += following.lost()
        except Unreachable as raised:
            error = raised
    assert "no contact for 60 seconds, giving up at offset 2" in str(error)
    assert 40 < now <= 60


def test_waits_grow_up_to_a_bound_vary_and_obey_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unspool.client.retry._FIRST", 0.5)
    retry = Retry(random=Random(4))
    waits = [retry.after(Unreachable()) for _ in range(40)]
    for number, wait in enumerate(waits):
        assert 0 <= wait <= min(15.0, 0.5 * 2**number)
    assert max(waits) > 7
    assert len(set(waits)) == 40
    assert retry.after(Unreachable(retry_after=30.0)) >= 30
    retry.least = 3.0
    retry.succeeded()
    assert 3.0 <= retry.after(Unreachable()) <= 3.5


def test_a_number_of_attempts_is_kept_and_a_refusal_is_not_repeated() -> None:
    retry = Retry(attempts=3)
    retry.after(Unreachable("first"))
    retry.after(Unreachable("second"))
    with pytest.raises(Unreachable, match="third"):
        retry.after(Unreachable("third"))
    with pytest.raises(NotFound):
        Retry(attempts=3).after(NotFound(http_status=404))


def test_the_client_needs_no_web_framework() -> None:
    code = "import sys, unspool.client; print(*{'starlette', 'uvicorn', 'fastapi', 'typer'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_log_that_is_followed_is_named_from_the_first_record_on() -> None:
    following = Following("s")
    assert "log" not in following.request().params
    events = {"content-type": "text/event-stream"}
    following.answered("/", 200, {**events, "x-unspool-log": "early"})  # cut before it said anything
    assert "log" not in following.request().params
    for name in ("one", "two"):
        following.answered("/", 200, {**events, "x-unspool-log": name})
        list(following.feed(frame(1, following.offset + 1, "title", {})))
        assert following.request().params["log"] == "one"
    unnamed = Following("s")
    unnamed.answered("/", 200, events)
    list(unnamed.feed(frame(1, 1, "title", {})))
    assert "log" not in unnamed.request().params
