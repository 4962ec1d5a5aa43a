"""What one record of a durable stream's log says: its configuration, an append, a fork that was made or is gone.

A stream is nothing but its log. Everything about it is in there, and what is true of it now is folded from the log
(`state.py`). A record is JSON, as in every log: text stays readable, other bytes are base64, and JSON messages are
kept as they were written, without the white space between their tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from unspool.errors import BadRequest
from unspool.events import Record
from unspool.jobs import GenerationKey

OPENED: Final = "ds.opened"
"""The first record: the configuration, and what the stream was created with."""
APPENDED: Final = "ds.appended"
LINKED: Final = "ds.linked"
"""A fork was made; what it took from here is kept until it is gone."""
UNLINKED: Final = "ds.unlinked"
DELETED: Final = "ds.deleted"
"""Nobody may use the stream any more; forks may still need what is in it."""

Content = bytes | Sequence[msgspec.Raw]
"""What is appended: bytes or, in a JSON stream, messages."""


class Producer(msgspec.Struct, frozen=True, array_like=True):
    """An append of an idempotent producer: who, in which of its lives, and which one there."""

    id: str
    epoch: int
    seq: int


class Ref(msgspec.Struct, frozen=True, array_like=True):
    """The log of another stream."""

    stream_id: str
    generation: int

    @property
    def key(self) -> GenerationKey:
        return GenerationKey(self.stream_id, self.generation)


class Segment(msgspec.Struct, frozen=True, array_like=True):
    """A stretch of a stream: its records number `base + 1` to `upto` are the first ones of the log `ref`."""

    ref: Ref
    base: int
    upto: int


class Fork(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a stream was forked, as it was asked for. `inherits`: it said nothing of a lifetime of its own."""

    source: str
    at: int | None = None
    sub: int = 0
    inherits: bool = True


class Config(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a stream is created with. `ttl`: seconds without a read or a write; `expires_at`: Unix seconds.

    `parent`: the log of which it is a fork. `base`: the number before the first record of its own, after what it
    `inherited`.
    """

    path: str
    content_type: str
    ttl: int | None = None
    expires_at: float | None = None
    fork: Fork | None = None
    parent: Ref | None = None
    base: int = 0
    inherited: tuple[Segment, ...] = ()

    @property
    def json(self) -> bool:
        return is_json(self.content_type)


class Entry(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A record without its content. `size`: the bytes or the messages of that. `nonce`: no two attempts are equal;
    `after`: that of the record before it, as far as its writer knew."""

    nonce: str
    after: str = ""
    size: int = 0
    config: Config | None = None
    producer: Producer | None = None
    seq: str | None = None
    closed: bool = False
    fork: Ref | None = None


class _Whole(Entry, frozen=True, omit_defaults=True, kw_only=True):
    text: str | None = None
    data: bytes | None = None
    messages: Sequence[msgspec.Raw] | None = None


class _Content(msgspec.Struct, frozen=True):
    text: str | None = None
    data: bytes | None = None
    messages: list[msgspec.Raw] | None = None


_encode: Final = msgspec.json.Encoder().encode
_entry: Final = msgspec.json.Decoder(Entry)
_content: Final = msgspec.json.Decoder(_Content)
_messages: Final = msgspec.json.Decoder(list[msgspec.Raw])
_TYPE: Final = re.compile(r"[!#-'*+.^-`|~\w-]+/[!#-'*+.^-`|~\w-]+", re.ASCII)


def record_of(offset: int, type: str, entry: Entry, content: Content | None = None) -> Record:
    """The record of an entry and its content."""
    if not content:
        return Record(offset, type, _encode(entry))
    fields = {name: getattr(entry, name) for name in entry.__struct_fields__}
    fields["size"] = len(content)
    if not isinstance(content, bytes):
        return Record(offset, type, _encode(_Whole(**fields, messages=content)))
    try:
        return Record(offset, type, _encode(_Whole(**fields, text=content.decode())))
    except UnicodeDecodeError:
        return Record(offset, type, _encode(_Whole(**fields, data=content)))


def entry_of(record: Record) -> Entry:
    """What a record says, its content left aside."""
    return _entry.decode(record.payload)


def content_of(record: Record) -> Content | None:
    """The content of a record, where it has one."""
    if record.type not in (OPENED, APPENDED):
        return None
    found = _content.decode(record.payload)
    if found.messages is not None:
        return found.messages
    return found.text.encode() if found.text is not None else found.data


def messages_of(body: bytes) -> Sequence[msgspec.Raw]:
    """The messages of a JSON body: the elements of an array, or the one value. Raises BadRequest."""
    try:
        msgspec.json.decode(body)  # all of it is looked at
        compact = msgspec.json.format(body, indent=-1)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from error
    return _messages.decode(compact) if compact.startswith(b"[") else [msgspec.Raw(compact)]


# content types


def media_type(content_type: str) -> str:
    """The type that is compared: in lower case, without parameters. Raises BadRequest."""
    found = content_type.partition(";")[0].strip().lower()
    if not _TYPE.fullmatch(found) or not content_type.isprintable():
        raise BadRequest(f"Content-Type {content_type[:80]!r} is not a media type", field="Content-Type")
    return found


def is_json(content_type: str) -> bool:
    """Whether a stream of this type holds messages instead of bytes."""
    return content_type.partition(";")[0].strip().lower() == "application/json"


def is_text(content_type: str) -> bool:
    """Whether its content can travel in an event stream as it is."""
    return is_json(content_type) or content_type.strip().lower().startswith("text/")
