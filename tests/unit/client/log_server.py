"""A server of one sealed log, which cuts its connections where it is told to."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

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
    status: str = "complete"
    prefix: bytes = b": ka\n"
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    url: str = ""

    @property
    def state(self) -> dict[str, Any]:
        """What it answers when it is asked for the stream's status."""
        offset = len(self.frames)
        return {
            "stream_id": "s", "generation": self.generation, "status": self.status, "active": False, "created_at": 1.0,
            "elapsed": 2.0, "last_offset": offset, "offset": offset - 1,
        }  # fmt: skip

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
            writer.write(_response(int(status), {"detail": detail, "code": "planned"}))
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
