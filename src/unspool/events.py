"""Events and records: what a run emits, what the log holds of it, and the vocabulary of types.

An `Event` is alive: its data belongs to whoever made it. A `Record` is what the store accepted: an offset and the
event's JSON as bytes, encoded once, so nothing that happens to the event afterwards can reach the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from unspool.errors import InvalidEvent

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode

CREATED: Final = "created"
STEP_STARTED: Final = "step.started"
STEP_FINISHED: Final = "step.finished"
TEXT_DELTA: Final = "text.delta"
REASONING_DELTA: Final = "reasoning.delta"
TOOL_CALL: Final = "tool.call"
TOOL_ARGS_DELTA: Final = "tool.args.delta"
TOOL_RESULT: Final = "tool.result"
TOOL_ERROR: Final = "tool.error"
TOOL_AUTH: Final = "tool.auth"
APPROVAL_REQUESTED: Final = "approval.requested"
APPROVAL_RESOLVED: Final = "approval.resolved"
STEER_QUEUED: Final = "steer.queued"
STEER_APPLIED: Final = "steer.applied"
AGENT_UPDATE: Final = "agent.update"
FILE: Final = "file"
SOURCE: Final = "source"
TITLE: Final = "title"
USAGE: Final = "usage"
RESUMED: Final = "resumed"
CUSTOM: Final = "custom"

COMPLETED: Final = "completed"
FAILED: Final = "failed"
ABORTED: Final = "aborted"
REPLACED: Final = "replaced"
TERMINAL: Final = frozenset({COMPLETED, FAILED, ABORTED, REPLACED})

SYNC: Final = "sync"
"""Not in any log: a snapshot on its way to one viewer, in the place of the records that it covers."""

DELTAS: Final = {TEXT_DELTA: "part_id", REASONING_DELTA: "part_id", TOOL_ARGS_DELTA: "call_id"}
"""Types whose `text` grows: neighbours of the same type and id merge. Value: the name of that id."""

REQUIRED: Final[dict[str, tuple[str, ...]]] = {
    STEP_STARTED: ("id",),
    STEP_FINISHED: ("id",),
    TEXT_DELTA: ("text",),
    REASONING_DELTA: ("text",),
    TOOL_CALL: ("call_id", "name"),
    TOOL_ARGS_DELTA: ("call_id", "text"),
    TOOL_RESULT: ("call_id",),
    TOOL_ERROR: ("call_id", "message"),
    TOOL_AUTH: ("call_id", "url"),
    APPROVAL_REQUESTED: ("action_id",),
    APPROVAL_RESOLVED: ("action_id", "decision"),
    STEER_QUEUED: ("id", "text"),
    STEER_APPLIED: ("id", "text"),
    AGENT_UPDATE: ("agent",),
    TITLE: ("text",),
    USAGE: ("call_id",),
    CUSTOM: ("name",),
}
"""The string fields without which an event of the vocabulary means nothing."""

MARKS: Final = ("part_id", "agent", "group", "step")
"""Optional string fields of every type: which part, agent, group of agents and run step an event belongs to."""

EVENT_BYTES: Final = 1024 * 1024
"""Bytes of JSON that the data of one event may have: what is larger would hold up all that shares its way."""

EVENT_DEPTH: Final = 256
"""Levels of arrays and objects in the data of one event: JSON much deeper could be written, and not be read again."""

_MAX_TYPE: Final = 128
_NO_STRUCTURE: Final = bytes(set(range(256)) - set(b'[]{}"'))
_ONE_KIND: Final = bytes.maketrans(b"{}", b"[]")
_RESERVED: Final = frozenset({*TERMINAL, SYNC, "open", "error"})


class Event(msgspec.Struct, frozen=True):
    """What a run emits: a type of the vocabulary or one of the application's own, and JSON data.

    `internal` keeps it on the server: it is stored, and never reaches a viewer.
    """

    type: str
    data: dict[str, Any] = {}
    internal: bool = False


class Record(msgspec.Struct, frozen=True, gc=False):
    """An event in a log. `offset` counts 1, 2, 3 … without holes within a generation; `payload` is the data's JSON."""

    offset: int
    type: str
    payload: bytes
    internal: bool = False

    @property
    def data(self) -> dict[str, Any]:
        """The data, decoded anew at each call: the caller may keep and change it."""
        return _decode(self.payload)

    @property
    def event(self) -> Event:
        return Event(self.type, self.data, self.internal)

    @property
    def terminal(self) -> bool:
        return self.type in TERMINAL


def encode_data(data: object, *, where: str = "data") -> bytes:
    """JSON bytes of an event's data. Raises InvalidEvent where it is not JSON; NaN and infinities become null."""
    try:
        return _encode(data)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidEvent(f"{where} cannot be written as JSON: {error}") from error


def encode_bounded(data: object, *, where: str = "data") -> bytes:
    """JSON bytes of what a run emits. Raises InvalidEvent, also for what is too large or nested too deeply."""
    payload = encode_data(data, where=where)
    if len(payload) > EVENT_BYTES:
        raise InvalidEvent(
            f"{where} has {len(payload)} bytes of JSON, and an event may have {EVENT_BYTES}: "
            "keep the content in a file or an object store, and emit a link to it"
        )
    return check_depth(payload, where=where)


def check_depth(payload: bytes, *, where: str) -> bytes:
    """`payload` itself when no reader is too deep in its own calls to decode it. Raises InvalidEvent."""
    if payload.count(b"[") + payload.count(b"{") <= EVENT_DEPTH:
        return payload
    bare = payload.replace(rb"\\", b"").replace(rb"\"", b"") if b"\\" in payload else payload
    # Brackets of one kind and quotes; then what is between quotes goes, and pairs of brackets level by level.
    brackets = b"".join(bare.translate(_ONE_KIND, _NO_STRUCTURE).replace(b'""', b"").split(b'"')[::2])
    for _ in range(EVENT_DEPTH):
        brackets = brackets.replace(b"[]", b"")
    if brackets:
        raise InvalidEvent(f"{where} is nested more than {EVENT_DEPTH} levels deep: emit it as a string of JSON")
    return payload


def check_text(text: object, *, where: str = "text") -> str:
    """`text` itself when it is a string that UTF-8 can carry. Raises InvalidEvent."""
    if not isinstance(text, str):
        raise InvalidEvent(f"{where} must be a string, not {type(text).__name__}")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidEvent(f"{where} holds a lone surrogate at index {error.start}") from error
    return text


def check_marks(kind: str, data: Mapping[str, Any]) -> None:
    """Refuse marks that are no strings: the fold finds parts by them. Raises InvalidEvent."""
    for mark, value in data.items():
        if mark in MARKS and value is not None and not isinstance(value, str):
            raise InvalidEvent(f"{mark!r} of {kind!r} must be a string, not {type(value).__name__}")


def check_event(event: Event) -> None:
    """Refuse what no log may hold: an invalid or reserved type, data without the fields its type needs.

    Raises InvalidEvent, naming the field and the remedy.
    """
    kind, data = event.type, event.data
    if not isinstance(kind, str):
        raise InvalidEvent(f"the type of an event must be printable ASCII characters, not {type(kind).__name__}")
    if kind in _RESERVED:
        remedy = "return from the run or raise RunFailed to end it" if kind in TERMINAL else "choose another name"
        raise InvalidEvent(f"type {kind!r} is reserved: {remedy}")
    if not kind or len(kind) > _MAX_TYPE or not kind.isascii() or not kind.isprintable():
        raise InvalidEvent(f"type {kind!r} must be 1 to {_MAX_TYPE} printable ASCII characters")
    if not isinstance(data, dict):
        raise InvalidEvent(f"data of {kind!r} must be an object, not {type(data).__name__}")
    check_marks(kind, data)
    for field in REQUIRED.get(kind, ()):
        if not isinstance(data.get(field), str):
            raise InvalidEvent(f"{kind!r} needs the string field {field!r}")
