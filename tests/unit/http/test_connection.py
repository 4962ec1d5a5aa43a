"""What our own server gives to its HTTP parser: whole bodies in few pieces, and nothing of the next request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from unspool.http.connection import HEAD, LATE, ChunkedBody, Lending, Protocol

CHUNKED = b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"
MANY = 100_000


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What parsers were given."""
    given = list[bytes]()
    parse = HttpToolsProtocol.data_received

    def counted(self: HttpToolsProtocol, data: bytes) -> None:
        given.append(data)
        parse(self, data)

    monkeypatch.setattr(HttpToolsProtocol, "data_received", counted)
    return given


def connected(app: ASGIApp) -> tuple[Protocol, Wire]:
    config = uvicorn.Config(Lending(app), http=Protocol, lifespan="off", log_config=None)
    config.load()
    wire, connection = Wire(), Protocol(config, ServerState(), {})
    connection.connection_made(wire)
    return connection, wire


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer without a look at the body."""
    await Response("no", 401)(scope, receive, send)


async def read(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the number of bytes of the body, and the headers that the request has then."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    names = b",".join(name for name, _ in scope["headers"])
    await Response(b"%d %b" % (size, names))(scope, receive, send)


async def answered(connection: Protocol) -> None:
    await asyncio.gather(*connection.tasks)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


ENDS: dict[str, bytes] = {
    "plain": chunk(b"abc") + b"0\r\n\r\n",
    "empty lines in a chunk": chunk(b"\r\n\r\n0\r\n\r\n") + b"0\r\n\r\n",
    "many": chunk(b"x") * 30 + chunk(b"y" * 300) + b"0\r\n\r\n",
    "extensions": b'3;a=b;c="d"\r\nabc\r\n0;last\r\n\r\n',
    "zeros": b"0003\r\nabc\r\n000\r\n\r\n",
    "trailers": chunk(b"abc") + b"0\r\nA: b\r\nC: \r\n\r\n",
    "nothing": b"0\r\n\r\n",
}


@pytest.mark.parametrize("step", [1, 2, 3, 7, 10_000])
@pytest.mark.parametrize("name", ENDS)
def test_a_chunked_body_ends_where_it_ends(name: str, step: int) -> None:
    """Whatever the segments, and whatever comes behind it."""
    whole = ENDS[name]
    data, ahead, body, taken = whole + b"GET / HTTP/1.1\r\n\r\n", bytearray(), ChunkedBody(), 0
    for at in range(0, len(whole), step):
        ahead += data[at : at + step]
        end = body.end(ahead)
        del ahead[:end]
        taken += end
    assert taken == len(whole)


@pytest.mark.parametrize(
    ("begun", "data", "most"),
    [
        (CHUNKED, b"%x\r\n" % (3 * MANY) + b"\n\r\n" * MANY, 1),
        (CHUNKED, chunk(b"\n\r\n") * MANY, 1),
        (CHUNKED, chunk(b"x") * MANY, 1),
        (CHUNKED, b"0\r\n" + b"A: b\r\n" * MANY, 1),
        (b"", b"\r\n" * MANY, 0),
        (b"", b"\r\n" * MANY + CHUNKED, 1),
    ],
    ids=["empty lines in a chunk", "a chunk each", "one byte each", "trailers", "before a request", "and a request"],
)
async def test_a_parser_is_given_input_in_few_pieces(pieces: list[bytes], begun: bytes, data: bytes, most: int) -> None:
    """However many empty lines it has: each piece costs as much as a thousand bytes."""
    connection, wire = connected(read)
    connection.data_received(begun)
    pieces.clear()
    connection.data_received(data)
    assert len(pieces) <= most
    assert not wire.closed


async def test_a_body_that_comes_after_its_answer_does_not_keep_the_connection_open() -> None:
    """It has the time of an idle connection; what belongs to the next request stops the clock again."""
    connection, _ = connected(refuse)
    connection.data_received(CHUNKED)
    await answered(connection)
    clock = connection.timeout_keep_alive_task
    assert clock is not None
    connection.data_received(chunk(b"more"))
    assert connection.timeout_keep_alive_task is clock
    assert not clock.cancelled()
    connection.data_received(b"0\r\n\r\n")
    connection.data_received(CHUNKED)
    assert clock.cancelled()


async def test_small_chunks_without_end_after_the_answer_are_read_and_not_parsed(pieces: list[bytes]) -> None:
    """Until the keep-alive time is over: a connection closed at once would take the answer from who still sends."""
    connection, wire = connected(refuse)
    connection.data_received(CHUNKED)
    await answered(connection)
    for _ in range(MANY):
        connection.data_received(chunk(b"x") * 1_000)
    assert sum(map(len, pieces)) < LATE + 10_000
    assert len(connection._ahead) < LATE
    assert not wire.closed


@pytest.mark.parametrize("line", [b"GET /%b", b"GET / HTTP/1.1\r\nName: %b", CHUNKED + b"3;%b", CHUNKED + b"%b"])
@pytest.mark.parametrize("step", [1_000, 200_000])
async def test_a_line_without_end_is_refused(line: bytes, step: int) -> None:
    connection, wire = connected(read)
    data = line % (b"a" * 2 * HEAD)
    for at in range(0, len(data), step):
        connection.data_received(data[at : at + step])
    assert wire.written.startswith(b"HTTP/1.1 400 ")
    assert wire.closed


async def test_trailers_are_no_headers() -> None:
    """A proxy in front has checked the headers alone."""
    connection, wire = connected(read)
    connection.data_received(CHUNKED + chunk(b"abc") + b"0\r\nX-User: root\r\n\r\n")
    await answered(connection)
    assert wire.written.endswith(b"3 host,transfer-encoding")


@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("cut", [1, 10_000])
async def test_an_upgrade_to_what_is_not_spoken_here_is_ignored(framing: str, cut: int) -> None:
    """The request has its body, and the next one its own."""
    body = b"x" * 40
    framed: dict[str, Callable[[], tuple[bytes, bytes]]] = {
        "length": lambda: (b"Content-Length: 40", body),
        "chunks": lambda: (b"Transfer-Encoding: chunked", chunk(body) + b"0\r\n\r\n"),
    }
    header, sent = framed[framing]()
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA"
    data = b"POST / HTTP/1.1\r\nHost: test\r\n%b\r\n%b\r\n\r\n%b" % (upgrade, header, sent)
    connection, wire = connected(read)
    for times in (1, 2):
        for at in range(0, len(data), cut):
            connection.data_received(data[at : at + cut])
        await answered(connection)
        await asyncio.sleep(0)
        assert wire.written.count(b"HTTP/1.1 200 ") == times
        assert wire.written.count(b"40 host,connection,http2-settings") == times
    assert not wire.closed


async def test_a_tunnel_is_refused_before_the_application_runs() -> None:
    ran = list[Any]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        ran.append(scope)

    connection, wire = connected(app)
    connection.data_received(b"CONNECT /v1/streams/s/abort HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\n{}")
    await answered(connection)
    assert wire.written.startswith(b"HTTP/1.1 400 ")
    assert not ran
