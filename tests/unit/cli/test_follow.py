"""Following through cuts: each event once, in order, wherever the connection breaks; and the command around it."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from unspool.cli.follow import Backoff, Follower, Received
from unspool.cli.remote import Refused, Remote, Unreachable

Command = Callable[..., Awaitable[Any]]

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"


def frame(generation: int, offset: int, kind: str, data: dict[str, Any]) -> bytes:
    """One block of the native dialect, its id last."""
    text = json.dumps(data, ensure_ascii=False)
    return f"event: {kind}\ndata: {text}\nid: {generation}-{offset}\n\n".encode()


@dataclass
class LogServer:
    """Serves one sealed log as an event stream. `cuts` has one entry for each connection: after how many bytes of the
    body it is cut, None for never, or an error status. `clean`: a cut looks like the proper end of the response."""

    frames: Sequence[bytes]
    generation: int = 1
    cuts: list[int | str | None] = field(default_factory=list)
    clean: bool = False
    state: dict[str, Any] = field(default_factory=dict)
    prefix: bytes = b": ka\n"
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    url: str = ""

    @property
    def resumed_at(self) -> list[str | None]:
        """The `Last-Event-ID` of each connection to the event stream."""
        return [headers.get("last-event-id") for path, headers in self.asked if "/events" in path]

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[LogServer]:
        """Serve on a free port for the length of the block."""
        listening = await asyncio.start_server(self.handle, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        async with listening:
            yield self

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            path = head[0].split()[1]
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
            self.asked.append((path, headers))
            if "/events" in path:
                await self.stream(writer, path, headers)
            else:
                writer.write(_response(200, self.state))
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def stream(self, writer: asyncio.StreamWriter, path: str, headers: dict[str, str]) -> None:
        cut = self.cuts.pop(0) if self.cuts else None
        if isinstance(cut, str):
            status, _, detail = cut.partition(" ")
            writer.write(_response(int(status), {"detail": detail}))
            return
        after = re.search(r"[?&]after=(\d+)", path)
        position = headers.get("last-event-id", f"{self.generation}-{after[1] if after else 0}")
        frames = self.frames[int(position.partition("-")[2]) :]
        if not frames:
            writer.write(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
            return
        body = self.prefix + b"".join(frames)
        if self.clean:
            # Without a length the end of the connection is the end of the body.
            writer.write(HEAD + b"connection: close\r\n\r\n" + body[:cut])
        elif cut is None:
            writer.write(HEAD + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        else:
            writer.write(HEAD + b"content-length: %d\r\n\r\n" % (len(body) + 1) + body[:cut])


def _response(status: int, body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    kind = b"application/json" if status == 200 else b"application/problem+json"
    head = b"HTTP/1.1 %d X\r\nconnection: close\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n"
    return head % (status, kind, len(data)) + data


WORDS = ["Rivers ", "run — ", "日本語 ", "🧵 ", "to\nthe ", "sea."]
LOG = [
    frame(1, 1, "created", {"user_message": {"text": "Rivers?"}}),
    *(frame(1, offset, "text.delta", {"text": word, "part_id": "1"}) for offset, word in enumerate(WORDS, 2)),
    frame(1, 8, "completed", {"finish_reason": "stop"}),
]
BODY = len(b": ka\n" + b"".join(LOG))


async def no_wait(_: float) -> None:
    """Time passes at once."""


async def collect(server: LogServer, **options: Any) -> tuple[list[Received], list[str]]:
    """All events of a follower of this server, and what it told."""
    async with Remote(server.url) as remote:
        return await collect_from(remote, **options)


async def collect_from(remote: Remote, **options: Any) -> tuple[list[Received], list[str]]:
    notes: list[str] = []
    follower = Follower(remote, "s", sleep=no_wait, random=Random(1), notify=notes.append, **options)
    async with aclosing(follower.events()) as received:
        return [event async for event in received], notes


def text_of(received: Sequence[Received]) -> str:
    return "".join(event.data["text"] for event in received if event.type == "text.delta")


def offsets(received: Sequence[Received]) -> list[int]:
    return [event.offset for event in received]


async def test_without_a_cut_everything_comes_once() -> None:
    async with LogServer(LOG).running() as server:
        received, notes = await collect(server)
    assert offsets(received) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert text_of(received) == "".join(WORDS)
    assert notes == []


@pytest.mark.parametrize("clean", [False, True], ids=["broken", "clean"])
async def test_a_cut_at_any_byte_loses_and_repeats_nothing(clean: bool) -> None:
    """A clean end without a terminal event counts as a cut, too."""
    async with LogServer(LOG, clean=clean).running() as server, Remote(server.url) as remote:
        for cut in range(BODY):
            server.cuts = [cut]
            received, _ = await collect_from(remote)
            assert offsets(received) == [1, 2, 3, 4, 5, 6, 7, 8], f"cut at byte {cut}"
            assert text_of(received) == "".join(WORDS), f"cut at byte {cut}"


async def test_many_cuts_in_a_row() -> None:
    """The position moves on with each connection, and is sent back with the next."""
    random = Random(2)
    cuts: list[int | str | None] = [random.randint(0, BODY // 2) for _ in range(30)]
    async with LogServer(LOG, cuts=cuts).running() as server:
        received, notes = await collect(server, patience=1e9)
    assert offsets(received) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert server.resumed_at[-1] is not None
    assert any(note.startswith("connection lost at offset") for note in notes)
    assert any(note.startswith("connected again, resumed at offset") for note in notes)


async def test_the_generation_is_named_from_the_first_event_on() -> None:
    """Else a reconnect could find itself in a later generation of the stream."""
    log = [block.replace(b"id: 1-", b"id: 3-") for block in LOG]
    async with LogServer(log, generation=3, cuts=[200]).running() as server:
        await collect(server)
    first, second = (path for path, _ in server.asked)
    assert "generation" not in first
    assert "generation=3" in second


async def test_what_a_server_repeats_is_not_shown_again() -> None:
    doubled = [block for pair in zip(LOG, LOG, strict=True) for block in pair]
    async with LogServer(doubled).running() as server:
        received, _ = await collect(server)
    assert offsets(received) == [1, 2, 3, 4, 5, 6, 7, 8]


async def test_events_of_another_generation_are_not_mixed_in() -> None:
    log = [*LOG[:3], frame(2, 4, "text.delta", {"text": "stray"}), *LOG[3:]]
    async with LogServer(log).running() as server:
        received, _ = await collect(server)
    assert text_of(received) == "".join(WORDS)


async def test_a_start_after_an_offset() -> None:
    async with LogServer(LOG).running() as server:
        received, _ = await collect(server, after=5, generation=1)
    assert offsets(received) == [6, 7, 8]


async def test_a_position_behind_the_end_is_an_end_without_events() -> None:
    async with LogServer(LOG).running() as server:
        received, _ = await collect(server, after=8, generation=1)
    assert received == []


async def test_a_busy_server_is_asked_again_but_a_refusal_is_final() -> None:
    async with LogServer(LOG, cuts=[150, "503 shutting down", "502 no gateway", None]).running() as server:
        received, _ = await collect(server)
        assert offsets(received) == [1, 2, 3, 4, 5, 6, 7, 8]
    async with LogServer(LOG, cuts=[150, "404 no such stream"]).running() as server:
        with pytest.raises(Refused, match=r"after a reconnect at position 1-\d: no such stream"):
            await collect(server)


async def test_the_first_connection_has_one_attempt() -> None:
    async with LogServer(LOG, cuts=["503 shutting down"]).running() as server:
        with pytest.raises(Unreachable, match="shutting down"):
            await collect(server)
    assert len(server.asked) == 1


async def test_it_gives_up_when_the_server_stays_away() -> None:
    now = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    async with LogServer(LOG, cuts=[150, *[0] * 100]).running() as server, Remote(server.url) as remote:
        follower = Follower(remote, "s", patience=60, sleep=sleep, clock=lambda: now, random=Random(3))
        with pytest.raises(Unreachable, match="no contact for 60 seconds, giving up at offset 2"):
            async for _ in follower.events():
                pass
    assert 40 < now <= 60


async def test_a_snapshot_that_covers_the_end_is_the_end() -> None:
    sync = frame(1, 8, "sync", {"offset": 8, "status": "complete", "text": "x", "content": [], "reason": "trimmed"})
    async with LogServer([sync]).running() as server:
        received, notes = await collect(server)
    assert [event.type for event in received] == ["sync"]
    assert notes == []


async def test_leaving_early_closes_the_connection() -> None:
    async with LogServer(LOG).running() as server, Remote(server.url) as remote:
        follower = Follower(remote, "s")
        async with aclosing(follower.events()) as received:
            async for _ in received:
                break
    assert follower.position == 1


def test_waits_double_up_to_a_bound_and_vary() -> None:
    backoff = Backoff(Random(4), first=1.0, most=8.0)
    waits = [backoff.next() for _ in range(6)]
    for wait, whole in zip(waits, [1, 2, 4, 8, 8, 8], strict=True):
        assert whole / 2 <= wait <= whole
    assert len(set(waits)) == 6
    backoff.reset(0.2)
    assert backoff.next() <= 0.2


# The command


async def test_the_command_prints_the_answer_and_how_it_ended(unspool: Command) -> None:
    async with LogServer(LOG, cuts=[300]).running() as server:
        ran = await unspool("tail", "conv-71", "--url", server.url)
    assert ran.code == 0
    assert ran.out == "> Rivers?\n" + "".join(WORDS) + "\n"
    assert "reconnecting" in ran.err
    assert "[1-8] completed" in ran.err
    assert server.asked[0][0] == "/v1/streams/conv-71/events"


async def test_with_json_each_event_is_a_line(unspool: Command) -> None:
    async with LogServer(LOG, cuts=[300]).running() as server:
        ran = await unspool("tail", "conv-71", "--json", "--url", server.url)
    events = [json.loads(line) for line in ran.out.splitlines()]
    assert [event["id"] for event in events] == [f"1-{offset}" for offset in range(1, 9)]
    assert events[-1] == {"id": "1-8", "type": "completed", "data": {"finish_reason": "stop"}}


@pytest.mark.parametrize(
    ("kind", "data", "code", "told"),
    [
        ("completed", {"finish_reason": "length"}, 0, "completed (length)"),
        (
            "failed",
            {"code": "owner_lost", "message": "The owner is gone."},
            1,
            "failed: The owner is gone. (owner_lost)",
        ),
        ("aborted", {"by": "user", "reason": "enough"}, 3, "stopped by user: enough"),
        ("replaced", {"by_generation": 2}, 3, "replaced by generation 2"),
    ],
)
async def test_the_exit_code_says_how_it_ended(
    unspool: Command, kind: str, data: dict[str, Any], code: int, told: str
) -> None:
    async with LogServer([*LOG[:3], frame(1, 4, kind, data)]).running() as server:
        ran = await unspool("tail", "s", "--url", server.url)
    assert (ran.code, told in ran.err) == (code, True)


async def test_an_end_before_the_position_still_has_its_exit_code(unspool: Command) -> None:
    state = {"generation": 1, "last_offset": 8, "status": "aborted"}
    async with LogServer(LOG, state=state).running() as server:
        ran = await unspool("tail", "s", "--after", "8", "--url", server.url)
    assert (ran.code, ran.out) == (3, "")
    assert "[1-8] stopped" in ran.err


async def test_a_token_is_sent(unspool: Command) -> None:
    async with LogServer(LOG).running() as server:
        await unspool("tail", "a b/c", "--url", server.url, UNSPOOL_TOKEN="sesame,other")
    path, headers = server.asked[0]
    assert headers["authorization"] == "Bearer sesame"
    assert path.startswith("/v1/streams/a%20b%2Fc/events")


async def test_ctrl_c_leaves_and_says_how_to_stop_the_run(serve: Command, spawn: Command) -> None:
    served = await serve("--model", "scripted", "--delay", "0.2")
    async with Remote(served.url) as remote:
        body = {"messages": [{"role": "user", "content": "hello"}]}
        await remote.post("/v1/streams/conv-1/generations", body)
        process = await spawn("tail", "conv-1", "--url", served.url)
        async with asyncio.timeout(30):
            assert await process.stdout.readline() == b"> hello\n"
            process.send_signal(signal.SIGINT)
            _, err = await process.communicate()
        assert process.returncode == 130
        assert b"unspool stop conv-1" in err
        assert b"Traceback" not in err
        assert (await remote.get("/v1/streams/conv-1"))["status"] == "running"
