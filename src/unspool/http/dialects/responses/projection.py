"""A log as the events of OpenAI's Responses API, numbered from 0, and as the response that they make."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec

from unspool import events
from unspool.events import Record
from unspool.http.dialects.openai_api import add_usage, usage_of
from unspool.http.dialects.responses.resource import DEFAULTS, PREFIX
from unspool.projection import REQUEST, Projection

Json = dict[str, Any]
Kind = Literal["message", "reasoning", "function_call", "function_call_output"]

_INCOMPLETE: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Reasons to finish that leave an answer incomplete, and what OpenAI calls them."""


class Item(msgspec.Struct, omit_defaults=True):
    """An output item. `chunks`: its text, arguments or output; `size`: the characters in them. `part`: the id of the
    part that it is. `notes`: annotations. `answered`: of a call, that its output is known."""

    kind: Kind
    id: str
    agent: str = ""
    part: str = ""
    status: str = "in_progress"
    chunks: list[str] = []
    size: int = 0
    name: str = ""
    call_id: str = ""
    notes: list[Json] = []
    answered: bool = False

    def grow(self, text: str) -> None:
        self.chunks.append(text)
        self.size += len(text)

    @property
    def text(self) -> str:
        if len(self.chunks) > 1:
            self.chunks = ["".join(self.chunks)]
        return self.chunks[0] if self.chunks else ""

    def shown(self) -> Json:
        """The item as it stands."""
        item: Json = {"type": self.kind, "id": self.id}
        match self.kind:
            case "message":
                content = [] if self.status == "in_progress" and not self.chunks else [self.content()]
                item |= {"status": self.status, "role": "assistant", "content": content}
            case "reasoning":
                begun = self.status != "in_progress" or self.chunks
                item |= {"summary": [{"type": "summary_text", "text": self.text}] if begun else []}
            case "function_call":
                item |= {"call_id": self.call_id, "name": self.name, "arguments": self.text, "status": self.status}
            case "function_call_output":
                item |= {"call_id": self.call_id, "output": self.text, "status": self.status}
        return item | {"agent": self.agent} if self.agent else item

    def content(self) -> Json:
        return {"type": "output_text", "text": self.text, "annotations": list(self.notes), "logprobs": []}


class Responses(Projection, kw_only=True):
    """`request`: what is echoed, and the input. `open`: the message or reasoning that each agent is in; `calls`: where
    each tool call is; `waiting`: annotations of agents that have no message to put them at yet."""

    name = "responses"
    request: Json = msgspec.field(default_factory=dict[str, Any])
    status: str = "queued"
    model: str | None = None
    items: list[Item] = msgspec.field(default_factory=list[Item])
    open: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    calls: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    waiting: dict[str, list[Json]] = msgspec.field(default_factory=dict[str, list[Json]])
    usage: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    error: Json | None = None
    reason: str | None = None

    def project(self, record: Record) -> Sequence[bytes]:
        data, told = record.data, list[Json]()
        if record.type == REQUEST and isinstance(data.get(self.name), dict):
            self.request = data[self.name]
        if self.status == "queued":
            self.status = "in_progress"
            told += ({"type": f"response.{what}", "response": self.resource()} for what in ("created", "in_progress"))
        self._tell(record.type, data, told)
        frames: list[bytes] = []
        for number, event in enumerate(told, self.count):
            body = msgspec.json.encode({"type": event["type"], "sequence_number": number, **event})
            frames.append(b"event: %b\ndata: %b\n\n" % (event["type"].encode(), body))
        if record.terminal:
            frames[-1] += b"data: [DONE]\n\n"
        return frames

    def resource(self) -> Json:
        """The response as it stands."""
        echoed: Json = self.request.get("echo") or {}
        return {
            "id": self.stream_id,
            "object": "response",
            "created_at": int(self.created_at),
            "completed_at": None,
            "status": self.status,
            **DEFAULTS,
            **echoed,
            "model": self.model or echoed.get("model") or "default",
            "output": [item.shown() for item in self.items],
            "usage": usage_of(self.usage, "input", "output"),
            "error": self.error,
            "incomplete_details": {"reason": self.reason} if self.reason else None,
        }

    def _tell(self, kind: str, data: Json, told: list[Json]) -> None:
        agent = data.get("agent") or ""
        match kind:
            case events.TEXT_DELTA:
                self._delta("message", agent, data, told)
            case events.REASONING_DELTA:
                self._delta("reasoning", agent, data, told)
            case events.TOOL_CALL:
                self._call(agent, data, told)
            case events.TOOL_ARGS_DELTA:
                self._arguments(self._called(agent, data["call_id"], "tool", told), data["text"], told)
            case events.TOOL_RESULT:
                self._output(agent, data["call_id"], _text(data.get("output")), "completed", told)
            case events.TOOL_ERROR:
                self._output(agent, data["call_id"], data["message"], "incomplete", told)
            case events.STEP_FINISHED:  # the arguments of its calls are whole
                for index in self.calls.values():
                    if self.items[index].agent == agent:
                        self._close(index, "completed", told)
            case events.SOURCE if isinstance(data.get("url"), str):
                self._annotate(agent, data, told)
            case events.USAGE:
                self.model = self.model or _word(data.get("model"))
                add_usage(self.usage, data)
            case events.CREATED:
                self.model = _word(data.get("model")) or self.model
            case _ if kind in events.TERMINAL:
                self._finish(kind, data, told)
            case _:  # has no counterpart there
                pass

    # items

    def _open(self, kind: Kind, agent: str, told: list[Json], **known: Any) -> int:
        index = len(self.items)
        tag = hashlib.sha256(str(self.key).encode()).hexdigest()[:24]
        item = Item(kind, f"{PREFIX[kind]}_{tag}_{index}", agent, **known)
        self.items.append(item)
        told.append({"type": "response.output_item.added", "output_index": index, "item": item.shown()})
        return index

    def _close(self, index: int, status: str, told: list[Json]) -> None:
        """The item is whole, or will not go on. Closing one twice is harmless."""
        item = self.items[index]
        if item.status != "in_progress":
            return
        item.status = status
        here = {"item_id": item.id, "output_index": index}
        match item.kind:
            case "message":
                here["content_index"] = 0
                told.append({"type": "response.output_text.done", **here, "text": item.text, "logprobs": []})
                told.append({"type": "response.content_part.done", **here, "part": item.content()})
            case "reasoning":
                here["summary_index"] = 0
                part = {"type": "summary_text", "text": item.text}
                told.append({"type": "response.reasoning_summary_text.done", **here, "text": item.text})
                told.append({"type": "response.reasoning_summary_part.done", **here, "part": part})
            case "function_call":
                done = {"type": "response.function_call_arguments.done", **here}
                told.append({**done, "name": item.name, "arguments": item.text})
            case "function_call_output":
                pass
        told.append({"type": "response.output_item.done", "output_index": index, "item": item.shown()})

    # messages and reasoning

    def _delta(self, kind: Kind, agent: str, data: Json, told: list[Json]) -> None:
        part = data.get("part_id") or ""
        index = self.open.get(agent)
        if index is None or (self.items[index].kind, self.items[index].part) != (kind, part):
            index = self._begin(kind, agent, part, told)
        if not data["text"]:
            return
        item = self.items[index]
        item.grow(data["text"])
        here = {"item_id": item.id, "output_index": index}
        if kind == "message":
            delta = {"type": "response.output_text.delta", **here, "content_index": 0}
            told.append({**delta, "delta": data["text"], "logprobs": []})
        else:
            delta = {"type": "response.reasoning_summary_text.delta", **here, "summary_index": 0}
            told.append({**delta, "delta": data["text"]})

    def _begin(self, kind: Kind, agent: str, part: str, told: list[Json]) -> int:
        self._leave(agent, "completed", told)
        index = self.open[agent] = self._open(kind, agent, told, part=part)
        item = self.items[index]
        here = {"item_id": item.id, "output_index": index}
        if kind == "message":
            added = {"type": "response.content_part.added", **here, "content_index": 0}
            told.append({**added, "part": item.content()})
            for note in self.waiting.pop(agent, ()):
                self._note(index, note, told)
        else:
            added = {"type": "response.reasoning_summary_part.added", **here, "summary_index": 0}
            told.append({**added, "part": {"type": "summary_text", "text": ""}})
        return index

    def _leave(self, agent: str, status: str, told: list[Json]) -> None:
        index = self.open.pop(agent, None)
        if index is not None:
            self._close(index, status, told)

    def _annotate(self, agent: str, data: Json, told: list[Json]) -> None:
        """A source: at the agent's message, or at its next one."""
        note = {"type": "url_citation", "url": data["url"], "title": _word(data.get("title")) or data["url"]}
        index = self.open.get(agent)
        if index is None or self.items[index].kind != "message":
            self.waiting.setdefault(agent, []).append(note)
        else:
            self._note(index, note, told)

    def _note(self, index: int, note: Json, told: list[Json]) -> None:
        item = self.items[index]
        placed = {**note, "start_index": item.size, "end_index": item.size}
        here = {"item_id": item.id, "output_index": index, "content_index": 0, "annotation_index": len(item.notes)}
        item.notes.append(placed)
        told.append({"type": "response.output_text.annotation.added", **here, "annotation": placed})

    # tools

    def _called(self, agent: str, call_id: str, name: str, told: list[Json]) -> int:
        index = self.calls.get(call_id)
        if index is None:
            self._leave(agent, "completed", told)
            index = self.calls[call_id] = self._open("function_call", agent, told, call_id=call_id, name=name)
        return index

    def _call(self, agent: str, data: Json, told: list[Json]) -> None:
        index, arguments = self._called(agent, data["call_id"], data["name"], told), data.get("arguments")
        item = self.items[index]
        if item.status == "in_progress":
            item.name = data["name"]
            if arguments is not None:
                whole, known = _text(arguments), item.text
                if whole.startswith(known):
                    self._arguments(index, whole[len(known) :], told)
                item.chunks = [whole]
                self._close(index, "completed", told)

    def _arguments(self, index: int, text: str, told: list[Json]) -> None:
        item = self.items[index]
        if text and item.status == "in_progress":
            item.grow(text)
            here = {"item_id": item.id, "output_index": index}
            told.append({"type": "response.function_call_arguments.delta", **here, "delta": text})

    def _output(self, agent: str, call_id: str, output: str, status: str, told: list[Json]) -> None:
        index = self._called(agent, call_id, "tool", told)
        self._close(index, "completed", told)
        if not self.items[index].answered:
            self.items[index].answered = True
            self._leave(agent, "completed", told)
            answer = self._open("function_call_output", agent, told, call_id=call_id, chunks=[output])
            self._close(answer, status, told)

    # the end

    def _finish(self, kind: str, data: Json, told: list[Json]) -> None:
        ended = "completed" if kind == events.COMPLETED else "incomplete"
        for agent in list(self.waiting):
            self._begin("message", agent, "", told)
        for index in sorted({*self.open.values(), *self.calls.values()}):
            self._close(index, ended, told)
        self.open.clear()
        match kind:
            case events.COMPLETED:
                self.reason = _INCOMPLETE.get(data["finish_reason"])
                event = self.status = "incomplete" if self.reason else "completed"
            case events.FAILED:
                event = self.status = "failed"
                code = {"rate_limited": "rate_limit_exceeded"}.get(data["code"], data["code"])
                self.error = {"code": code, "message": data["message"]}
            case _:  # clients know no event of a cancellation; its status they do know
                event, self.status = "incomplete", "cancelled"
        told.append({"type": f"response.{event}", "response": self.resource()})


def _text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _word(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
