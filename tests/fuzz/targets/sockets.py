"""Raw bytes at the real server: requests that are wrong, half, odd or huge. It refuses or hangs up, and lives on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from functools import cache

from hypothesis import strategies as st

from tests.fuzz.target import Target, pieces
from tests.fuzz.targets.routes import answer
from unspool import GenerationManager, Limits, Options
from unspool.http import create_app
from unspool.http.server import bind, server_for

GOOD = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
PATIENCE = 5.0
logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # that a request was not valid is no news here
_PAUSE = 0.05  # of silence after which the client has said all that it will


@cache
def address() -> tuple[str, int]:
    """Where the server listens; it lives in a thread of its own for as long as this process does."""
    listener = bind("127.0.0.1", 0)
    ready = threading.Event()
    options = Options(max_jobs=200, sweep=0.5, poll=0.1, limits=Limits(stall=5.0))
    server = server_for(create_app(GenerationManager(options=options), run=answer), ready=ready.set)
    threading.Thread(target=lambda: asyncio.run(server._serve([listener])), daemon=True, name="server").start()
    assert ready.wait(20)
    return listener.getsockname()


async def exchange(data: bytes, *, cuts: int = 1) -> bytes:
    """What the server says to these bytes, sent in so many pieces and then followed by the client's end."""
    reader, writer = await asyncio.open_connection(*address())
    found = bytearray()
    try:
        size = max(len(data) // cuts, 1)
        with contextlib.suppress(OSError):  # it may hang up at any moment
            for at in range(0, len(data), size):
                writer.write(data[at : at + size])
                await writer.drain()
            with contextlib.suppress(TimeoutError):
                while chunk := await asyncio.wait_for(reader.read(65_536), _PAUSE):
                    found += chunk
            writer.write_eof()
            while chunk := await asyncio.wait_for(reader.read(65_536), PATIENCE):
                found += chunk
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    return bytes(found)


def _statuses(said: bytes) -> list[int]:
    """The status lines in what the server said."""
    return [int(line[9:12]) for line in said.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]


def check_bytes(sent: tuple[bytes, int]) -> None:
    """No 5xx and no hang, whatever was sent; and the next good request is answered."""
    data, cuts = sent

    async def work() -> None:
        for status in _statuses(await exchange(data, cuts=cuts)):
            assert status < 500, status
        assert _statuses(await exchange(GOOD)) == [200]

    asyncio.run(work())


_START = b"POST /v1/streams/s/generations HTTP/1.1\r\nHost: a\r\n"
_BODY = b'{"messages":[{"role":"user","content":"x"}]}'
_words = pieces(
    b"GET ", b"POST ", b"HEAD ", b"PUT ", b"OPTIONS * ", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"/v1/streams", b"/v1/streams/s/events", b"/v1/streams/s/generations", b"/v1/streams/%00/events", b"//", b"http://a",
    b"/v1/streams/" + b"a" * 300, b"?after=1", b"?generation=", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b" HTTP/9.9\r\n",
    b"Host: a\r\n", b"Host:\r\n", b"Content-Length: 44\r\n", b"Content-Length: -1\r\n", b"Content-Length: 9" + b"9" * 9,
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n", b"Content-Type: application/json\r\n",
    b"Expect: 100-continue\r\n", b"Connection: close\r\n", b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
    b"Last-Event-ID: 1-1\r\n", b"Last-Event-ID: \xff\r\n", b"X: " + b"a" * 70_000 + b"\r\n", b"X: a\r\n b\r\n",
    b"\0: \0\r\n", b"\r\n", b"\n", b"\r", b"2c\r\n" + _BODY + b"\r\n", b"0\r\n\r\n", b"fffffffffffffffff\r\n",
    b"\x16\x03\x01\x02\x00\x01", b"-1\r\n", _BODY, b"x" * 2_000_000, GOOD, _START,
    most=14,
)  # fmt: skip
_methods = st.sampled_from([b"GET", b"POST", b"HEAD", b"DELETE", b"get", b"BREW"])
_paths = st.sampled_from(
    [
        b"/v1/streams/s/generations",
        b"/v1/streams/s/events?after=%s",
        b"/v1/streams/s/abort",
        b"/v1/streams",
        b"/%",
        b"*",
    ]
)
_fields = st.sampled_from([b"content-type", b"content-length", b"last-event-id", b"idempotency-key", b"host", b"te"])
_values = st.binary(max_size=4) | st.sampled_from(
    [b"application/json", b"44", b"0", b"1-1", b"\xc3\xbc", b"", b"a, b", b"9" * 5000]
)
_heads = st.lists(st.tuples(_fields, _values), max_size=5).map(
    lambda pairs: b"".join(b"%b: %b\r\n" % pair for pair in pairs)
)
_whole = st.tuples(_methods, _paths, _heads, st.sampled_from([b"", _BODY, _BODY[:20], b"[" * 3000])).map(
    lambda four: b"%b %b HTTP/1.1\r\n%b\r\n%b" % four
)

SOCKETS = Target(
    name="sockets",
    claim="raw bytes at the real server are answered or cut off, and the next good request is answered",
    inputs=st.tuples(_words | _whole | st.binary(max_size=60), st.integers(1, 5)),
    check=check_bytes,
)

TARGETS = [SOCKETS]
