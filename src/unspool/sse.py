"""Server-sent events, to the letter of the WHATWG: an encoder and a decoder, both pure.

A frame is one block with `id:` as its last field: clients that commit the id when they parse its line must not do so
before the event is whole. `retry:` only ever stands inside a block that has data, and a keep-alive is one comment line
without a blank line, because some clients turn anything else into an empty message.
"""

from __future__ import annotations

import codecs
from typing import Final, NamedTuple

from unspool.events import Record
from unspool.jobs import GenerationKey

KEEP_ALIVE: Final = b": ka\n"
HEADERS: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
    (b"content-encoding", b"identity"),
)


def native_frame(key: GenerationKey, record: Record) -> bytes:
    """The native dialect: the record's type, its JSON, and the position `generation-offset`."""
    # The payload is JSON as msgspec writes it: one line.
    return b"event: %b\ndata: %b\nid: %d-%d\n\n" % (
        record.type.encode(),
        record.payload,
        key.generation,
        record.offset,
    )


def with_retry(frames: bytes, milliseconds: int) -> bytes:
    """The same frames, the first of which also tells the client how long to wait before it reconnects."""
    return b"retry: %d\n%b" % (milliseconds, frames)


class Message(NamedTuple):
    """An event as a client dispatches it. `id`: the last event id at that moment; `retry`: its block's, in ms."""

    event: str
    data: str
    id: str | None
    retry: int | None = None


class Decoder:
    """An incremental decoder: feed it bytes as they come, cut anywhere; it gives the messages that are complete.

    `last_event_id` and `retry` (ms) are what a client must remember for its reconnect. A block that the end of the
    stream leaves incomplete is never dispatched, and does not move the position: make a new decoder per connection.
    """

    def __init__(self, last_event_id: str = "") -> None:
        self.last_event_id = last_event_id
        self.retry: int | None = None
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        self._rest = ""
        self._started = False
        self._skip_newline = False
        self._event = ""
        self._data: list[str] = []
        self._id = last_event_id
        self._block_retry: int | None = None

    def feed(self, chunk: bytes) -> list[Message]:
        """The messages that this chunk completed."""
        text = self._decode(chunk)
        if not text:
            return []
        if not self._started:
            self._started = True
            text = text.removeprefix("\ufeff")
        if self._skip_newline and text:
            self._skip_newline = False
            text = text.removeprefix("\n")
        if text.endswith("\r"):
            # The line is over whatever follows; a newline that belongs to it may come with the next chunk.
            self._skip_newline = True
        lines = (self._rest + text).replace("\r\n", "\n").replace("\r", "\n").split("\n")
        self._rest = lines.pop()
        messages: list[Message] = []
        for line in lines:
            if line:
                self._field(line)
            else:
                self._dispatch(messages)
        return messages

    def _field(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "data":
                self._data.append(value)
            case "event":
                self._event = value
            case "id" if "\0" not in value:
                self._id = value
            case "retry" if value.isascii() and value.isdigit() and len(value) < 16:
                self.retry = self._block_retry = int(value)
            case _:
                pass

    def _dispatch(self, messages: list[Message]) -> None:
        self.last_event_id = self._id
        if self._data:
            messages.append(
                Message(self._event or "message", "\n".join(self._data), self._id or None, self._block_retry)
            )
        self._event = ""
        self._data = []
        self._block_retry = None
