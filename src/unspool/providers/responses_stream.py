"""Events of the Responses API → events of ours, from the beginning or a position; chat messages → its input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from unspool import events
from unspool.events import DELTAS, Event, Record
from unspool.providers import shapes
from unspool.providers.call import ModelCall
from unspool.providers.failures import classify, failure

Json = Mapping[str, Any]

POSITION: Final = "provider.position"
"""The internal event that says how far into a provider's stream a log has come."""

_TEXT: Final = frozenset({"response.output_text.delta", "response.refusal.delta"})
_REASONING: Final = frozenset(
    {"response.reasoning_summary_text.delta", "response.reasoning_text.delta", "response.reasoning.delta"}
)
_REASONS: Final = {"max_output_tokens": "length"}
_TOLD: Final = frozenset(
    {events.TEXT_DELTA, events.REASONING_DELTA, events.TOOL_CALL, events.TOOL_ARGS_DELTA, events.TOOL_RESULT,
     events.SOURCE}
)  # fmt: skip


class Tool(msgspec.Struct, frozen=True):
    """A tool call whose arguments are under way: its id, and how many characters of them came."""

    call_id: str
    size: int = 0


class Position(msgspec.Struct, frozen=True):
    """A place in the stream of a response: behind the event of this number. `calls`: by output index."""

    response_id: str
    sequence_number: int
    calls: dict[str, Tool] = {}


class Begun(msgspec.Struct):
    """What a log has of a call: its last position, and what came behind that. `finished`: why, where it came to its
    end; `usage_told`: its usage is known. See `begun_of`."""

    call_id: str
    position: Position | None = None
    told: list[Event] = []
    finished: str | None = None
    usage_told: bool = False


def begun_of(records: Iterable[Record], calls: str) -> Begun | None:
    """The last call in a log whose id begins so; None where there is none."""
    begun: Begun | None = None
    for record in records:
        if record.type not in _TOLD and record.type not in _MARKS:
            continue
        data = record.data
        match record.type:
            case events.STEP_STARTED if data["id"].startswith(calls):
                begun = Begun(data["id"])
            case "provider.position" if data["call_id"].startswith(calls):
                if begun is None or begun.call_id != data["call_id"]:  # its beginning was trimmed
                    begun = Begun(data["call_id"])
                begun.position, begun.told = msgspec.convert(data, Position), []
            case events.STEP_FINISHED if begun is not None and data["id"] == begun.call_id:
                begun.finished = data.get("finish_reason", "stop")
                begun.told.append(record.event)
            case events.USAGE if begun is not None and data["call_id"] == begun.call_id:
                begun.usage_told = True
            case _ if begun is not None and data.get("step") == begun.call_id:
                begun.told.append(record.event)
            case _:
                pass
    return begun


_MARKS: Final = frozenset({events.STEP_STARTED, POSITION, events.STEP_FINISHED, events.USAGE})


class _Skipped:
    """What the log has already, to be left out of what the provider tells again. Deltas may be cut elsewhere there."""

    def __init__(self, told: Sequence[Event]) -> None:
        self._told = list(reversed(told))
        self._at = 0  # characters of the first one that came again

    def __bool__(self) -> bool:
        return bool(self._told)

    def rest(self, event: Event) -> Event | None:
        """What of this event the log lacks. Raises RunFailed where it has something else in its place."""
        if event.type not in DELTAS:
            if not self._told:
                return event
            self._check(event)
            self._told.pop()
            return None
        text: str = event.data["text"]
        while text and self._told:
            known = self._check(event)[self._at :]
            size = min(len(known), len(text))
            if known[:size] != text[:size]:
                raise _differs()
            text = text[size:]
            self._at += size
            if size == len(known):
                self._told.pop()
                self._at = 0
        return Event(event.type, {**event.data, "text": text}) if text else None

    def _check(self, event: Event) -> str:
        known = self._told[-1]
        place = DELTAS.get(event.type, "call_id")
        if known.type != event.type or known.data.get(place) != event.data.get(place):
            raise _differs()
        return known.data["text"] if event.type in DELTAS else ""


def _differs() -> Exception:
    return failure("provider_error", "The model provider told another answer than before.")


class ResponseStream:
    """Turns the events of one response into ours: `feed` each. `number`: of the last one, -1 before the first;
    `ended`: there is nothing more to come. Every event names the call as its `step`, which is how it is known again."""

    def __init__(self, call: ModelCall, begun: Begun | None = None) -> None:
        self.call = call
        self.ended = False
        self._skipped = _Skipped(begun.told if begun is not None else ())
        self._usage_told = begun is not None and begun.usage_told
        at = begun.position if begun is not None else None
        self._response_id = at.response_id if at is not None else None
        self.number = at.sequence_number if at is not None else -1
        self._noted = self.number
        self._calls = dict(at.calls) if at is not None else {}
        self._item_done = False

    @property
    def position(self) -> Position | None:
        """Behind what was fed; None where nothing is known to be there."""
        return Position(self._response_id, self.number, dict(self._calls)) if self._response_id is not None else None

    def due(self, every: int) -> bool:
        """A position is worth an event, and may be told: all that it says is in the log is there, and no more."""
        if self._skipped or self.ended or self._response_id is None or self.number == self._noted:
            return False
        return self._noted < 0 or self._item_done or self.number - self._noted >= every

    def position_event(self) -> Event:
        self._noted, self._item_done = self.number, False
        data = {"call_id": self.call.call_id, **msgspec.to_builtins(self.position)}
        return Event(POSITION, data, internal=True)

    def feed(self, chunk: Json) -> Iterator[Event]:
        """The events of one event. Raises RunFailed where the response failed or was stopped."""
        chunk = shapes.an_object(chunk)
        number = chunk.get("sequence_number")
        if isinstance(number, int):
            if number <= self.number:
                return
            self.number = number
        for event in self._events(shapes.text(chunk.get("type")), chunk):
            if event.type == events.USAGE:
                if not self._usage_told:
                    yield event
                continue
            marked = Event(event.type, {**event.data, "step": self.call.call_id})
            rest = self._skipped.rest(event if event.type == events.STEP_FINISHED else marked)
            if rest is not None:
                yield rest

    def _events(self, kind: str, chunk: Json) -> Iterator[Event]:
        index = str(chunk.get("output_index", ""))
        delta = chunk.get("delta")
        text = delta if isinstance(delta, str) else ""
        if kind in _TEXT:
            if text:
                part = chunk.get("content_index", 0)
                yield self.call.event(events.TEXT_DELTA, text=text, part_id=self._part(index, part))
        elif kind in _REASONING:
            if text:
                part = chunk.get("summary_index", chunk.get("content_index", 0))
                yield self.call.event(events.REASONING_DELTA, text=text, part_id=self._part(index, part))
        elif kind == "response.function_call_arguments.delta":
            yield from self._arguments(index, text)
        elif kind == "response.output_item.added":
            item = shapes.an_object(chunk.get("item"))
            if item.get("type") == "function_call" and (name := shapes.name(item.get("name"))):
                event = self.call.tool_call(name, shapes.name(item.get("call_id")))
                self._calls[index] = Tool(event.data["call_id"])
                yield event
        elif kind == "response.output_item.done":
            self._item_done = True
            yield from self._done(index, shapes.an_object(chunk.get("item")))
        elif kind == "response.output_text.annotation.added":
            note = shapes.an_object(chunk.get("annotation"))
            if note.get("type") == "url_citation" and isinstance(note.get("url"), str):
                yield self.call.event(events.SOURCE, url=note["url"], title=shapes.name(note.get("title")))
        elif kind in ("response.created", "response.in_progress", "response.queued"):
            self._response_id = shapes.name(shapes.an_object(chunk.get("response")).get("id")) or self._response_id
        elif kind in ("response.completed", "response.incomplete", "response.failed"):
            yield from self._end(kind, shapes.an_object(chunk.get("response")))
        elif kind == "error":
            raise classify(status=None, names=(chunk.get("code"),), message=shapes.text(chunk.get("message")))

    def _part(self, index: str, part: object) -> str:
        return f"{self.call.call_id}:{index}.{part}"

    def _arguments(self, index: str, text: str) -> Iterator[Event]:
        tool = self._calls.get(index)
        if tool is not None and text:
            self._calls[index] = Tool(tool.call_id, tool.size + len(text))
            yield self.call.tool_args(tool.call_id, text)

    def _done(self, index: str, item: Json) -> Iterator[Event]:
        match item.get("type"):
            case "function_call" if index in self._calls:
                yield from self._arguments(index, shapes.json_text(item.get("arguments"))[self._calls[index].size :])
                del self._calls[index]
            case "function_call_output":
                yield self.call.event(
                    events.TOOL_RESULT, call_id=shapes.text(item.get("call_id")), output=item.get("output")
                )
            case _:
                pass

    def _end(self, kind: str, response: Json) -> Iterator[Event]:
        usage = shapes.an_object(response.get("usage"))
        if usage and (event := self.call.usage(usage)):
            yield event
        if kind == "response.failed":
            error = shapes.an_object(response.get("error"))
            raise classify(status=None, names=(error.get("code"),), message=shapes.text(error.get("message")))
        if response.get("status") == "cancelled":
            raise failure("provider_error", "The answer was stopped at the model provider.")
        self.ended = True
        output = shapes.objects(response.get("output"))
        answered = {item.get("call_id") for item in output if item.get("type") == "function_call_output"}
        called = [item.get("call_id") for item in output if item.get("type") == "function_call"]
        self.call.tools = max(self.call.tools, len(called))  # also of those before the position
        waiting = [call_id for call_id in called if call_id not in answered]
        reason = shapes.name(shapes.an_object(response.get("incomplete_details")).get("reason"))
        if reason is None:
            reason = "tool_calls" if waiting else "stop"
        yield self.call.finished(_REASONS.get(reason, reason))


# What is asked


def to_input(messages: Sequence[Any]) -> list[dict[str, Any]]:
    """Messages of the chat API as input items."""
    items: list[dict[str, Any]] = []
    for message in messages:
        role, content = message["role"], message.get("content")
        if role == "tool":
            output = content if isinstance(content, str) else _parts(content, "input_text")
            items.append({"type": "function_call_output", "call_id": message["tool_call_id"], "output": output})
            continue
        if content:
            kind = "output_text" if role == "assistant" else "input_text"
            items.append({"role": role, "content": content if isinstance(content, str) else _parts(content, kind)})
        for call in message.get("tool_calls") or ():
            function = call["function"]
            known = {"call_id": call["id"], "name": function["name"], "arguments": function["arguments"]}
            items.append({"type": "function_call", **known})
    return items


def _parts(content: Sequence[Mapping[str, Any]] | None, kind: str) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    for part in content or ():
        match part.get("type"):
            case "image_url":
                image = part["image_url"]
                parts.append({"type": "input_image", "image_url": image["url"], "detail": image.get("detail", "auto")})
            case "file":
                parts.append({"type": "input_file", **part["file"]})
            case _:
                parts.append({"type": kind, "text": part.get("text") or ""})
    return parts


def to_tools(tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Tools in the shape of the chat API as those of this one."""
    return [
        {"strict": False, "type": "function", **tool["function"]} if "function" in tool else dict(tool)
        for tool in tools
    ]
