"""Live objects of a run as sources of events: what they gained since they were last read.

Some frameworks keep the answer in objects of their own: a list of message parts that grows, a list of usage entries, a
graph. A run may hand those over instead of emitting events. They are only ever read: what they gained becomes events,
those become records, and what anybody is told is folded from records, never the object itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from unspool import events
from unspool.errors import InvalidEvent
from unspool.events import Event, check_text, encode_data

Part = Mapping[str, Any]

_ONCE: Final = {
    "agent": events.AGENT_UPDATE,
    "file": events.FILE,
    "source": events.SOURCE,
    "user": events.STEER_APPLIED,
}
"""Parts that are told once, when they are first seen, with all their fields."""


class Graph(Protocol):
    """An agent graph that keeps the content itself; asked again at every reading."""

    def content_parts(self) -> Sequence[Part | None]:
        """The parts so far, as `Snapshot.parts` has them; None where one is still to come."""
        ...

    def run_steps(self) -> Sequence[Part]:
        """The steps so far: `id` and whatever else they carry; `status` becomes "finished" in the end."""
        ...


class Sources:
    """Reads live objects; `gained` gives as events what is new in them.

    `parts`: as `Snapshot.parts` has them, None where one is still to come. `usage`: the data of `usage` events, one
    entry per model call, told when it is first seen. A list may grow, a text may grow, a tool call may go on; what was
    told cannot be taken back.
    """

    def __init__(
        self,
        *,
        parts: Sequence[Part | None] | None = None,
        usage: Sequence[Mapping[str, Any]] | None = None,
        graph: Graph | None = None,
        call_id: Callable[[], str],
    ) -> None:
        if parts is not None and graph is not None:
            raise InvalidEvent("parts and graph both bring the content: hand over one of them")
        self._parts = parts
        self._usage = usage
        self._graph = graph
        self._call_id = call_id
        self._told: dict[int, Any] = {}  # place of a part → what of it was told
        self._steps: dict[str, dict[str, Any]] = {}
        self._calls = 0

    def gained(self) -> Iterator[Event]:
        """What is new since the last reading, in order; an event counts as told when the next one is asked for.

        Raises InvalidEvent where something told was changed.
        """
        graph = self._graph
        if graph is not None:
            for step in graph.run_steps():
                yield from self._step(dict(step))
        parts = graph.content_parts() if graph is not None else self._parts
        if parts is not None:
            if self._told and len(parts) <= max(self._told):
                raise InvalidEvent(f"the live parts shrank to {len(parts)}: a part that was told cannot be taken back")
            for place, part in enumerate(parts):
                if part is not None:
                    yield from self._part(place, part)
        if self._usage is not None:
            for entry in self._usage[self._calls :]:
                yield Event(
                    events.USAGE, {"call_id": self._call_id(), **entry} if "call_id" not in entry else {**entry}
                )
                self._calls += 1

    def _step(self, step: dict[str, Any]) -> Iterator[Event]:
        known = self._steps.get(step.get("id", ""))
        if step == known:
            return
        finished = step.get("status") == "finished"
        if known is None or not finished:
            yield Event(events.STEP_STARTED, step if not finished else {**step, "status": "running"})
        if finished:
            yield Event(events.STEP_FINISHED, step)
        self._steps[step["id"]] = step

    def _part(self, place: int, part: Part) -> Iterator[Event]:
        kind = part.get("type")
        if kind == "text":
            yield from self._text(place, part, events.TEXT_DELTA)
        elif kind == "reasoning":
            yield from self._text(place, part, events.REASONING_DELTA)
        elif kind == "tool":
            yield from self._tool(place, part)
        elif kind in _ONCE:
            if place not in self._told:
                yield Event(_ONCE[kind], {field: value for field, value in part.items() if field != "type"})
                self._told[place] = True
        elif kind != "error":  # an error is told by the end of the run
            raise InvalidEvent(
                f"live part {place} is of type {kind!r}: known are text, reasoning, tool, {', '.join(_ONCE)}"
            )

    def _text(self, place: int, part: Part, delta: str) -> Iterator[Event]:
        text, told = check_text(part.get("text"), where=f"text of live part {place}"), self._told.get(place, "")
        if not text.startswith(told):
            raise InvalidEvent(f"the text of live part {place} was rewritten: what was told can only grow")
        if len(text) > len(told):
            data = {"part_id": part.get("part_id") or f"live-{place + 1}", **_marks(part)}
            yield Event(delta, {**data, "text": text[len(told) :]})
            self._told[place] = text

    def _tool(self, place: int, part: Part) -> Iterator[Event]:
        name, arguments, status = part.get("name"), part.get("arguments") or "", part.get("status", "running")
        if not isinstance(arguments, str):
            arguments = encode_data(arguments, where=f"arguments of live part {place}").decode()
        told_name, told, told_status = self._told.get(place, (None, "", "running"))
        data = {"call_id": part.get("call_id"), **_marks(part)}
        if name != told_name or not arguments.startswith(told):
            whole = {"arguments": arguments} if arguments else {}
            yield Event(events.TOOL_CALL, {**data, "name": name, **whole})
        elif len(arguments) > len(told):
            yield Event(events.TOOL_ARGS_DELTA, {**data, "text": arguments[len(told) :]})
        self._told[place] = (name, arguments, told_status)
        if status != told_status and status == "done":
            yield Event(events.TOOL_RESULT, {**data, "output": part.get("output")})
        elif status != told_status and status == "error":
            yield Event(events.TOOL_ERROR, {**data, "message": str(part.get("error", "the tool failed"))})
        self._told[place] = (name, arguments, status)


def _marks(part: Part) -> dict[str, Any]:
    return {mark: part[mark] for mark in ("agent", "group", "step") if part.get(mark) is not None}
