"""The fold: records → message parts, run steps, usage, text. Incremental, serialisable, and the only one there is.

`Fold` is applied record by record, live or from the store, and gives a `Snapshot` labelled with the offset it covers.
The law: a fold of records 1..k continued with those after k equals the fold of 1..n, also when the first half went
through `dump` and `load`, or reached the other side as a `sync` frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any, Final

import msgspec

from unspool import events
from unspool.errors import UnspoolError
from unspool.events import Record

Json = dict[str, Any]

_MARKS: Final = ("step", "agent", "group")
_decode_state = msgspec.json.Decoder(Json).decode
_encode = msgspec.json.Encoder().encode


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The content folded from records 1..`offset`: a copy, never changed afterwards.

    `parts`: message parts in the order in which they began (`type` is text, reasoning, tool, agent, user, file, source
    or error). `steps`: run steps, latest version of each. `usage`: one entry per reported model call. `prompts`: open
    login prompts. `approvals`: pending actions. `steering`: user messages that wait to be applied.
    """

    offset: int = 0
    parts: list[Json] = []
    steps: list[Json] = []
    usage: list[Json] = []
    prompts: list[Json] = []
    approvals: list[Json] = []
    steering: list[Json] = []
    title: str | None = None

    @property
    def text(self) -> str:
        """All text parts, joined as they were streamed."""
        return "".join(part["text"] for part in self.parts if part["type"] == "text")

    def public(self) -> Snapshot:
        """The same without what is internal: usage that was reported as internal."""
        return msgspec.structs.replace(self, usage=[entry for entry in self.usage if not entry.get("internal")])


class _Part(msgspec.Struct):
    # What the fold itself relies on, part by part; all else in a part is the application's.
    type: str
    agent: str | None = None
    part_id: str | None = None
    call_id: Any = None
    text: Any = None
    arguments: Any = None

    def __post_init__(self) -> None:
        grows = {"text": self.text, "reasoning": self.text, "tool": self.arguments}.get(self.type, "")
        if not isinstance(grows, str) or (self.type == "tool" and not isinstance(self.call_id, str)):
            raise ValueError(f"a part of type {self.type!r} lacks its text, arguments or call id")


class _Step(msgspec.Struct):
    id: str


class _Prompt(msgspec.Struct):
    call_id: str


class _Approval(msgspec.Struct):
    action_id: str


class _State(msgspec.Struct):
    # The shape of a dumped fold.
    offset: Annotated[int, msgspec.Meta(ge=0)]
    parts: list[_Part]
    steps: list[_Step]
    usage: list[Json]
    prompts: list[_Prompt]
    approvals: list[_Approval]
    steering: list[_Step]
    title: str | None = None


class Fold:
    """Folds records in order. `offset` is the last one applied; a record at or below it is ignored."""

    __slots__ = (
        "_approvals",
        "_chunks",
        "_parts",
        "_places",
        "_prompts",
        "_steering",
        "_steps",
        "_usage",
        "offset",
        "title",
    )

    def __init__(self) -> None:
        self.offset = 0
        self.title: str | None = None
        self._parts: list[Json] = []
        self._places: dict[tuple[str, str | None, str | None], int] = {}
        self._chunks: dict[int, list[str]] = {}  # place → text that came since the part was last joined
        self._steps: dict[str, Json] = {}
        self._usage: list[Json] = []
        self._prompts: dict[str, Json] = {}
        self._approvals: dict[str, Json] = {}
        self._steering: dict[str, Json] = {}

    def __repr__(self) -> str:
        return f"<Fold offset={self.offset} parts={len(self._parts)}>"

    def apply(self, record: Record) -> None:
        """Take one record in. A `sync` record replaces everything by what it carries."""
        if record.type == events.SYNC:
            state = record.data
            self._restore({**state, "parts": state["content"]})
            return
        if record.offset <= self.offset:
            return
        step = _STEPS.get(record.type)
        if step is not None and (not record.internal or record.type == events.USAGE):
            step(self, record)
        self.offset = record.offset  # last: one that cannot be read is not covered

    def apply_all(self, records: Iterable[Record]) -> None:
        for record in records:
            self.apply(record)

    def snapshot(self) -> Snapshot:
        """A copy of the content as it is now."""
        return Snapshot(**msgspec.to_builtins(self.view()))

    def view(self) -> Snapshot:
        """The same without copying anything, for whoever encodes it at once: it changes with the fold."""
        self._join()
        return Snapshot(
            offset=self.offset,
            parts=self._parts,
            steps=list(self._steps.values()),
            usage=self._usage,
            prompts=list(self._prompts.values()),
            approvals=list(self._approvals.values()),
            steering=list(self._steering.values()),
            title=self.title,
        )

    def dump(self) -> bytes:
        """JSON from which `load` makes an equal fold."""
        return _encode(self.view())

    @classmethod
    def load(cls, state: bytes) -> Fold:
        """The fold that was dumped. Raises UnspoolError for anything else: content must never be half there."""
        try:
            found = _decode_state(state)
            msgspec.convert(found, _State)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UnspoolError(f"a checkpoint is not a dumped fold: {error}") from error
        fold = cls()
        fold._restore(found)
        return fold

    def _restore(self, state: Json) -> None:
        self.offset = state["offset"]
        self.title = state.get("title")
        self._parts = state["parts"]
        self._places = {_place(part): index for index, part in enumerate(self._parts)}
        self._chunks = {}
        self._steps = {step["id"]: step for step in state["steps"]}
        self._usage = state["usage"]
        self._prompts = {prompt["call_id"]: prompt for prompt in state["prompts"]}
        self._approvals = {action["action_id"]: action for action in state["approvals"]}
        self._steering = {message["id"]: message for message in state["steering"]}

    def _join(self) -> None:
        for place, chunks in self._chunks.items():
            part = self._parts[place]
            field = "arguments" if part["type"] == "tool" else "text"
            part[field] += "".join(chunks)
        self._chunks.clear()

    def _grow(self, place: int, text: str) -> None:
        # A list of chunks, joined when someone looks: adding to the string itself would copy it at every delta.
        chunks = self._chunks.get(place)
        if chunks is None:
            self._chunks[place] = [text]
        else:
            chunks.append(text)

    def _add(self, part: Json, data: Json) -> int:
        for mark in _MARKS:
            if mark in data:
                part[mark] = data[mark]
        self._parts.append(part)
        place = len(self._parts) - 1
        self._places[_place(part)] = place
        return place

    def _text(self, record: Record, kind: str) -> None:
        data = _decode_state(record.payload)
        part_id = data.get("part_id")
        place = self._places.get((kind, data.get("agent"), part_id))
        if place is None:
            self._add({"type": kind, "part_id": part_id, "text": data["text"]}, data)
        else:
            self._grow(place, data["text"])

    def _text_delta(self, record: Record) -> None:
        self._text(record, "text")

    def _reasoning_delta(self, record: Record) -> None:
        self._text(record, "reasoning")

    def _tool(self, data: Json) -> int:
        place = self._places.get(("tool", None, data["call_id"]))
        if place is None:
            part = {"type": "tool", "call_id": data["call_id"], "name": None, "arguments": "", "status": "running"}
            place = self._add(part, data)
        return place

    def _tool_call(self, record: Record) -> None:
        data = record.data
        place = self._tool(data)
        part = self._parts[place]
        part["name"] = data["name"]
        arguments = data.get("arguments")
        if arguments is not None:
            self._chunks.pop(place, None)
            part["arguments"] = arguments if isinstance(arguments, str) else _encode(arguments).decode()

    def _tool_args(self, record: Record) -> None:
        data = record.data
        self._grow(self._tool(data), data["text"])

    def _tool_result(self, record: Record) -> None:
        data = record.data
        self._parts[self._tool(data)].update(status="done", output=data.get("output"))
        self._prompts.pop(data["call_id"], None)

    def _tool_error(self, record: Record) -> None:
        data = record.data
        self._parts[self._tool(data)].update(status="error", error=data["message"])
        self._prompts.pop(data["call_id"], None)

    def _tool_auth(self, record: Record) -> None:
        data = record.data
        self._prompts[data["call_id"]] = data

    def _step_started(self, record: Record) -> None:
        data = record.data
        # In place where the id is known: the latest version wins, the order stays that of first sight.
        self._steps[data["id"]] = {"status": "running", **data}

    def _step_finished(self, record: Record) -> None:
        data = record.data
        self._steps[data["id"]] = {**self._steps.get(data["id"], {}), **data, "status": "finished"}

    def _approval_requested(self, record: Record) -> None:
        data = record.data
        self._approvals[data["action_id"]] = data

    def _approval_resolved(self, record: Record) -> None:
        self._approvals.pop(record.data["action_id"], None)

    def _steer_queued(self, record: Record) -> None:
        data = record.data
        self._steering[data["id"]] = data

    def _steer_applied(self, record: Record) -> None:
        data = record.data
        self._steering.pop(data["id"], None)
        self._add({"type": "user", "id": data["id"], "text": data["text"]}, data)

    def _agent_update(self, record: Record) -> None:
        data = record.data
        self._add({"type": "agent", "message": data.get("message")}, data)

    def _attachment(self, record: Record) -> None:
        data = record.data
        self._add({**data, "type": record.type}, data)

    def _title(self, record: Record) -> None:
        self.title = record.data["text"]

    def _report_usage(self, record: Record) -> None:
        data = record.data
        self._usage.append({**data, "internal": True} if record.internal else data)

    def _failed(self, record: Record) -> None:
        data = record.data
        self._add({"type": "error", "code": data.get("code"), "message": data.get("message")}, data)


def _place(part: Json) -> tuple[str, str | None, str | None]:
    """What makes a part the one that a later delta belongs to."""
    if part["type"] == "tool":
        return ("tool", None, part["call_id"])
    return (part["type"], part.get("agent"), part.get("part_id"))


_STEPS: Final[dict[str, Callable[[Fold, Record], None]]] = {
    events.TEXT_DELTA: Fold._text_delta,
    events.REASONING_DELTA: Fold._reasoning_delta,
    events.TOOL_CALL: Fold._tool_call,
    events.TOOL_ARGS_DELTA: Fold._tool_args,
    events.TOOL_RESULT: Fold._tool_result,
    events.TOOL_ERROR: Fold._tool_error,
    events.TOOL_AUTH: Fold._tool_auth,
    events.STEP_STARTED: Fold._step_started,
    events.STEP_FINISHED: Fold._step_finished,
    events.APPROVAL_REQUESTED: Fold._approval_requested,
    events.APPROVAL_RESOLVED: Fold._approval_resolved,
    events.STEER_QUEUED: Fold._steer_queued,
    events.STEER_APPLIED: Fold._steer_applied,
    events.AGENT_UPDATE: Fold._agent_update,
    events.FILE: Fold._attachment,
    events.SOURCE: Fold._attachment,
    events.TITLE: Fold._title,
    events.USAGE: Fold._report_usage,
    events.FAILED: Fold._failed,
}


def fold(records: Iterable[Record]) -> Snapshot:
    """The content of a log, from its records in order."""
    state = Fold()
    state.apply_all(records)
    return state.snapshot()
