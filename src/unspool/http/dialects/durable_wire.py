"""The Durable Streams protocol as bytes: its headers in and out, its event stream, its cursor. No I/O."""

from __future__ import annotations

import base64
import re
import secrets
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final
from urllib.parse import unquote

import msgspec
from starlette.datastructures import Headers, QueryParams

from unspool.durable import Append, Chunk, Fork, Info, Producer, Wish, marked, number_of, token
from unspool.durable.entries import Content, is_json, is_text, media_type, messages_of
from unspool.errors import BadRequest
from unspool.http.requests import is_whole, whole

EPOCH: Final = datetime(2024, 10, 9, tzinfo=UTC).timestamp()
"""Cursors count intervals from here on."""
INTERVAL: Final = 20.0

ALWAYS: Final = {
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "cross-origin",
}
PREFLIGHT: Final = {
    "access-control-allow-methods": "GET, HEAD, POST, PUT, DELETE, OPTIONS",
    "access-control-allow-headers": (
        "Authorization, Content-Type, If-None-Match, Stream-Seq, Stream-TTL, Stream-Expires-At, Stream-Closed, "
        "Stream-Forked-From, Stream-Fork-Offset, Stream-Fork-Sub-Offset, Producer-Id, Producer-Epoch, Producer-Seq"
    ),
    "access-control-max-age": "600",
}
EXPOSED: Final = (
    "ETag, Location, Stream-Next-Offset, Stream-Cursor, Stream-Up-To-Date, Stream-Closed, Stream-TTL, "
    "Stream-Expires-At, Stream-SSE-Data-Encoding, Producer-Epoch, Producer-Seq, Producer-Expected-Seq, "
    "Producer-Received-Seq"
)

_TOLD: Final = {
    "next_offset": "stream-next-offset",
    "closed": "stream-closed",
    "producer_epoch": "producer-epoch",
    "expected_seq": "producer-expected-seq",
    "received_seq": "producer-received-seq",
}
_NAME: Final = 256
"""Characters of a producer's id: a stream remembers thousands of them."""
_number: Final = partial(whole, refusal=BadRequest)
_LINE: Final = re.compile(r"\r\n|\r|\n")


# what a request says


def wish_of(headers: Headers, prefix: str) -> Wish:
    """What a PUT asks for. Raises BadRequest."""
    ttl, at = headers.get("stream-ttl"), headers.get("stream-expires-at")
    if ttl is not None and at is not None:
        raise BadRequest("Stream-TTL and Stream-Expires-At exclude each other", field="Stream-TTL")
    content_type = headers.get("content-type") or None
    if content_type is not None:
        media_type(content_type)
    return Wish(
        content_type=content_type,
        ttl=None if ttl is None else _number("Stream-TTL", ttl),
        expires_at=None if at is None else _moment(at),
        close=flag(headers, "stream-closed"),
        fork=_fork(headers, prefix, inherits=ttl is None and at is None),
    )


def _fork(headers: Headers, prefix: str, *, inherits: bool) -> Fork | None:
    source, at, sub = (headers.get(f"stream-fork{name}") for name in ("ed-from", "-offset", "-sub-offset"))
    if source is None:
        if at is not None or sub is not None:
            raise BadRequest("a place to fork at needs Stream-Forked-From", field="Stream-Forked-From")
        return None
    path = unquote(source)
    if not path.startswith(prefix):
        raise BadRequest(f"Stream-Forked-From must begin with {prefix}", field="Stream-Forked-From")
    return Fork(
        source=path.removeprefix(prefix),
        at=None if at is None else number_of(at, field="Stream-Fork-Offset"),
        sub=0 if sub is None else _number("Stream-Fork-Sub-Offset", sub),
        inherits=inherits,
    )


def append_of(headers: Headers, body: bytes) -> Append:
    """What a POST asks for. Raises BadRequest."""
    close = flag(headers, "stream-closed")
    content_type = headers.get("content-type") or None
    if not body and not close:
        raise BadRequest("the body is empty; to close the stream send Stream-Closed: true")
    if body and content_type is None:
        raise BadRequest("an append needs a Content-Type", field="Content-Type")
    seq = headers.get("stream-seq")
    if seq == "":
        raise BadRequest("Stream-Seq must not be empty", field="Stream-Seq")
    return Append(
        content=content_of(body, content_type or "") if body else None,
        content_type=content_type,
        producer=_producer(headers),
        seq=seq,
        close=close,
    )


def content_of(body: bytes, content_type: str, *, empty: bool = False) -> Content:
    """A body as content. `empty`: an empty JSON array is allowed. Raises BadRequest."""
    if not is_json(content_type):
        return body
    messages = messages_of(body)
    if not messages and not empty:
        raise BadRequest("an empty array appends nothing")
    return messages


def _producer(headers: Headers) -> Producer | None:
    given = [headers.get(f"producer-{name}") for name in ("id", "epoch", "seq")]
    name, epoch, seq = given
    if name is None and epoch is None and seq is None:
        return None
    if not name or epoch is None or seq is None:
        raise BadRequest("Producer-Id, Producer-Epoch and Producer-Seq belong together", field="Producer-Id")
    if len(name) > _NAME:
        raise BadRequest(f"Producer-Id has {_NAME} characters at most", field="Producer-Id")
    return Producer(name, _number("Producer-Epoch", epoch), _number("Producer-Seq", seq))


def flag(headers: Headers, name: str) -> bool:
    return headers.get(name, "").strip().lower() == "true"


def _moment(value: str) -> float:
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None or "T" not in value.upper():
        raise BadRequest(f"Stream-Expires-At must be an RFC 3339 time, not {value[:40]!r}", field="Stream-Expires-At")
    return found.timestamp()


class Place(msgspec.Struct, frozen=True):
    """Where a reader stands. `after` None: at the end. `live`: how it wants to wait. `mark`: of its offset, where it
    has one."""

    after: int | None
    live: str | None
    cursor: int | None
    mark: int | None = None


def place_of(query: QueryParams, *, of_generation: bool = False) -> Place:
    """From `offset`, `live` and `cursor`. Offsets of generations have marks. Raises BadRequest."""
    offsets, live, cursor = query.getlist("offset"), query.get("live"), query.get("cursor", "")
    if len(offsets) > 1:
        raise BadRequest("offset must be given once", field="offset")
    if live not in (None, "long-poll", "sse"):
        raise BadRequest(f"live must be long-poll or sse, not {live[:40]!r}", field="live")
    if live is not None and not offsets:
        raise BadRequest("live reading needs an offset; -1 is the beginning, now is the end", field="offset")
    offset = offsets[0] if offsets else "-1"
    after, mark = None if offset == "now" else 0, None
    if offset not in ("now", "-1"):
        after, mark = marked(offset) if of_generation else (number_of(offset), None)
    return Place(after, live, int(cursor) if is_whole(cursor) else None, mark)


# what an answer says


def next_cursor(given: int | None) -> int:
    """The interval of now; always ahead of what the client has, so that no cache answers the same twice."""
    now = int((time.time() - EPOCH) // INTERVAL)
    if given is None or given < now:
        return now
    return given + 1 + secrets.randbelow(180)


def about(info: Info) -> dict[str, str]:
    """The headers that tell how a stream stands."""
    headers = {"content-type": info.config.content_type, "stream-next-offset": token(info.next)}
    if info.closed:
        headers["stream-closed"] = "true"
    return headers


def lifetime(info: Info) -> dict[str, str]:
    """Those that tell how long it is kept."""
    headers: dict[str, str] = {}
    if info.config.ttl is not None:
        headers["stream-ttl"] = str(info.config.ttl)
    if info.config.expires_at is not None:
        moment = datetime.fromtimestamp(info.config.expires_at, UTC)
        headers["stream-expires-at"] = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return headers


def position(chunk: Chunk) -> dict[str, str]:
    """Those that tell where a chunk leaves its reader."""
    headers = {"content-type": chunk.content_type, "stream-next-offset": token(chunk.next, chunk.mark)}
    if chunk.up_to_date:
        headers["stream-up-to-date"] = "true"
        if chunk.closed:
            headers["stream-closed"] = "true"
    return headers


def etag_of(chunk: Chunk) -> str:
    """It changes with what is there, with a close, and with another stream at the same path."""
    end = "c" if chunk.up_to_date and chunk.closed else "t" if chunk.up_to_date else "p"
    return f'"{chunk.generation}.{chunk.mark}:{chunk.after}:{chunk.next}:{end}"'


def is_known(if_none_match: str, etag: str) -> bool:
    """Whether the client has it already."""
    tags = (tag.strip().removeprefix("W/") for tag in if_none_match.split(","))
    return any(tag in (etag, "*") for tag in tags)


def told(details: Mapping[str, Any]) -> dict[str, str]:
    """What an error tells in headers."""
    named = {_TOLD[name]: value for name, value in details.items() if name in _TOLD}
    return {name: "true" if value is True else str(value) for name, value in named.items()}


def events_of(chunk: Chunk, cursor: int) -> bytes:
    """A chunk as events: its content, where it has any, and then where its reader stands."""
    control: dict[str, Any] = {"streamNextOffset": token(chunk.next, chunk.mark)}
    closed = chunk.up_to_date and chunk.closed
    if not closed:
        control["streamCursor"] = str(cursor)
    if chunk.up_to_date:
        control["upToDate"] = True
    if closed:
        control["streamClosed"] = True
    told = b"event: control\ndata:%b\n\n" % msgspec.json.encode(control)
    return b"event: data\n%b\n%b" % (_data_lines(chunk), told) if chunk.parts else told


def _data_lines(chunk: Chunk) -> bytes:
    if not is_text(chunk.content_type):
        return b"data:%b\n" % base64.b64encode(chunk.body())
    # Every kind of line break would end a line of the event stream: what comes after it stays data. A space after the
    # colon is not part of the line; it only stands there where the line itself begins with one.
    lines = _LINE.split(chunk.body().decode(errors="replace"))
    return "".join(f"data: {line}\n" if line.startswith(" ") else f"data:{line}\n" for line in lines).encode()
