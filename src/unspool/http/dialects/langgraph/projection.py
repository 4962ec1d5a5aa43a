"""A run of LangGraph: one log as the frames of its stream, and as the messages that the thread has in it.

Frames are numbered from 0, whatever of them a client asked for: a frame that it does not want is empty, and counts.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Sequence
from functools import cache, lru_cache
from typing import Any, ClassVar, Final, cast

import msgspec

from unspool import events
from unspool.errors import NotFound
from unspool.events import Record
from unspool.http.dialects.langgraph.messages import arguments, tool_call
from unspool.http.dialects.values import Json, as_text
from unspool.jobs import Job
from unspool.projection import REQUEST, Projection

NAME: Final = "langgraph"
AGENT: Final = "agent"
"""The node that speaks, where no agent is named."""
TOOLS: Final = "tools"
VALUES, UPDATES, CUSTOM, TUPLES, WHOLE = "values", "updates", "custom", "messages-tuple", "messages"
SHOWN: Final = frozenset({VALUES, UPDATES, CUSTOM, TUPLES, WHOLE})
"""The stream modes that have frames here."""

_ID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-([0-9a-f]{12})")
_SILENT: Final = frozenset({events.CREATED, REQUEST})
_USAGE: Final = ("input_tokens", "output_tokens")
_DETAILS: Final = (
    ("input_token_details", "cache_read_tokens", "cache_read"),
    ("output_token_details", "reasoning_tokens", "reasoning"),
)


def run_id(of: Job | Projection) -> str:
    """The id of the run that a generation is."""
    return identifier("run", of, of.generation)


def identifier(kind: str, of: Job | Projection, number: int) -> str:
    """The id of a run or a checkpoint: a UUID (version 8) that ends with its number and begins with a hash.

    The hash is of the thread's internal name and the log, so ids differ between tenants and between logs of one number.
    """
    return _identifier(kind, of.key.stream_id, of.log, number)


@lru_cache(maxsize=4096)
def _identifier(kind: str, name: str, log: str, number: int) -> str:
    digest = hashlib.sha256(f"{kind}:{log}:{name}".encode()).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-8{digest[13:16]}-8{digest[17:20]}-{number:012x}"


def number_of(given: str) -> int:
    """The number that an id ends with, which may be no id of ours. Raises NotFound for what cannot be one."""
    found = _ID.fullmatch(given.lower())
    if found is None:
        raise NotFound
    return int(found[1], 16)


class Call(msgspec.Struct):
    """A tool call. `message`: the place of its message among the thread's; `index`: its own place there. `args`: its
    JSON, in pieces."""

    message: int
    index: int
    name: str
    args: list[str] = []


class LangGraphRun(Projection, kw_only=True):
    """`messages`: the thread's, of which the first `inputs` were there before the run. `texts`, `thoughts`: what came
    for a message since it was last joined, `stale`: the calls that it does not have as they are now, and its place.
    `open`: the place of the message that each agent is in. `waiting`: calls without a result. `changed`: something did
    since the last `values`. `error`: what the run failed with.
    """

    name = NAME
    modes: ClassVar[frozenset[str]] = frozenset()
    """The stream modes whose frames are not empty."""
    started: bool = False
    inputs: int = 0
    messages: list[Json] = msgspec.field(default_factory=list[Json])
    texts: dict[int, list[str]] = msgspec.field(default_factory=dict[int, list[str]])
    thoughts: dict[int, list[str]] = msgspec.field(default_factory=dict[int, list[str]])
    stale: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    open: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    calls: dict[str, Call] = msgspec.field(default_factory=dict[str, Call])
    waiting: list[str] = msgspec.field(default_factory=list[str])
    changed: bool = False
    error: Json | None = None

    def project(self, record: Record) -> Sequence[bytes]:
        frames: list[bytes] = []
        data = record.data
        if not self.started:
            self.started = True
            given: Json = data.get(NAME) or {} if record.type == REQUEST else {}
            self.messages = list(given.get("messages") or ())
            self.inputs = len(self.messages)
            self._give(frames, "metadata", {"run_id": self.run_id, "attempt": 1})
            self._values(frames)
        self._tell(record.type, data, frames)
        return frames

    @property
    def run_id(self) -> str:
        return run_id(self)

    @property
    def state(self) -> list[Json]:
        """All messages, as they are now."""
        for place in {*self.texts, *self.thoughts, *self.stale.values()}:
            self._message(place)
        return self.messages

    def _tell(self, kind: str, data: Json, frames: list[bytes]) -> None:
        agent = data.get("agent") or ""
        match kind:
            case events.TEXT_DELTA:
                if data["text"]:
                    place = self._said(agent)
                    self.texts.setdefault(place, []).append(data["text"])
                    self._chunk(frames, place, agent, content=data["text"])
            case events.REASONING_DELTA:
                if data["text"]:
                    place = self._said(agent)
                    self.thoughts.setdefault(place, []).append(data["text"])
                    self._chunk(frames, place, agent, additional_kwargs={"reasoning_content": data["text"]})
            case events.TOOL_CALL:
                self._call(data, agent, frames)
            case events.TOOL_ARGS_DELTA:
                call = self.calls.get(data["call_id"]) or self._call({**data, "name": "tool"}, agent, frames)
                self._args(data["call_id"], call, data["text"], agent, frames)
            case events.TOOL_RESULT:
                self._result(data, as_text(data.get("output")), "success", agent, frames)
            case events.TOOL_ERROR:
                self._result(data, data["message"], "error", agent, frames)
            case events.STEP_STARTED:
                self._close_all(frames)
            case events.STEP_FINISHED:
                self._close_all(frames)
                self._values(frames)
            case events.STEER_APPLIED:
                self._close_all(frames)
                self._add({"type": "human", "id": data["id"], "content": data["text"]}, AGENT, frames)
            case events.USAGE:
                self._count(data, agent, frames)
            case events.RESUMED:
                self._give(frames, "metadata", {"run_id": self.run_id, "attempt": data.get("attempt")})
            case events.CUSTOM:
                self._give(frames, CUSTOM, {"name": data["name"], "value": data.get("value")})
            case _ if kind in events.TERMINAL:
                self._end(kind, data, frames)
            case _ if kind in _SILENT:
                pass
            case _:
                self._give(frames, CUSTOM, {"name": kind, "value": data})

    # frames

    def _give(self, frames: list[bytes], event: str, data: object, mode: str | None = None) -> None:
        """One frame, empty where its mode (None: the event's name) was not asked for."""
        wanted = mode or event
        if wanted in SHOWN and wanted not in self.modes:
            frames.append(b"")
            return
        number = self.count + len(frames)
        frames.append(b"event: %b\ndata: %b\nid: %d\n\n" % (event.encode(), msgspec.json.encode(data), number))

    def _values(self, frames: list[bytes]) -> None:
        self.changed = False
        self._give(frames, VALUES, {"messages": self.state})

    def _speak(self, frames: list[bytes], message: Json, place: int, node: str) -> None:
        """A message, or a chunk of one: as a tuple, or (where only that was asked for) the whole of it so far."""
        self.changed = True
        if WHOLE in self.modes and TUPLES not in self.modes:
            self._give(frames, "messages/partial", [self._message(place)], WHOLE)
            return
        about = {"langgraph_node": node, "run_id": self.run_id, "thread_id": self.stream_id}
        self._give(frames, "messages", [message, about], TUPLES)

    def _chunk(self, frames: list[bytes], place: int, agent: str, content: str = "", **fields: Any) -> None:
        chunk = {"type": "AIMessageChunk", "id": self.messages[place]["id"], "content": content, **fields}
        self._speak(frames, chunk, place, agent or AGENT)

    def _update(self, frames: list[bytes], node: str, place: int) -> None:
        self._give(frames, UPDATES, {node: {"messages": [self._message(place)]}})

    # messages

    def _said(self, agent: str) -> int:
        """The place of the message that this agent is in, which may begin here."""
        place = self.open.get(agent)
        if place is None:
            place = self.open[agent] = len(self.messages)
            made: Json = {
                "type": "ai",
                "id": f"{self.run_id}:{place - self.inputs}",
                "content": "",
                "additional_kwargs": {},
                "response_metadata": {},
                "tool_calls": [],
                "invalid_tool_calls": [],
            }
            self.messages.append({**made, "name": agent} if agent else made)
        return place

    def _add(self, message: Json, node: str, frames: list[bytes]) -> None:
        """A message that comes as a whole."""
        place = len(self.messages)
        self.messages.append(message)
        self._speak(frames, message, place, node)
        self._update(frames, node, place)

    def _message(self, place: int) -> Json:
        """The message there, with all that came for it."""
        message = self.messages[place]
        if place in self.texts:
            message["content"] += "".join(self.texts.pop(place))
        if place in self.thoughts:
            kept = message["additional_kwargs"]
            kept["reasoning_content"] = kept.get("reasoning_content", "") + "".join(self.thoughts.pop(place))
        for call_id in [call_id for call_id, where in self.stale.items() if where == place]:
            del self.stale[call_id]
            self._argued(message, call_id, self.calls[call_id])
        return message

    @staticmethod
    def _argued(message: Json, call_id: str, call: Call) -> None:
        text = "".join(call.args)
        call.args = [text]
        args = arguments(text)
        made = message["tool_calls"][call.index] = tool_call(call_id, call.name, args)
        wrong = [known for known in message["invalid_tool_calls"] if known["id"] != call_id]
        if args is None:
            wrong.append({**made, "type": "invalid_tool_call", "args": text, "error": "The arguments are not JSON."})
        message["invalid_tool_calls"] = wrong

    def _close(self, agent: str, frames: list[bytes]) -> None:
        place = self.open.pop(agent, None)
        if place is not None:
            self._update(frames, agent or AGENT, place)

    def _close_all(self, frames: list[bytes]) -> None:
        for agent in list(self.open):
            self._close(agent, frames)

    # tools

    def _call(self, data: Json, agent: str, frames: list[bytes]) -> Call:
        call_id, given = data["call_id"], data.get("arguments")
        call = self.calls.get(call_id)
        if call is None:
            place = self._said(agent)
            known: list[Json] = self.messages[place]["tool_calls"]
            index = len(known)
            call = self.calls[call_id] = Call(place, index, data["name"])
            known.append(tool_call(call_id, call.name, None))
            self.waiting.append(call_id)
            chunk = {"type": "tool_call_chunk", "id": call_id, "name": call.name, "args": "", "index": index}
            self._chunk(frames, place, agent, tool_call_chunks=[chunk])
        if given is not None:
            whole, before = as_text(given), "".join(call.args)
            if whole.startswith(before):
                self._args(call_id, call, whole[len(before) :], agent, frames)
            else:  # pieces cannot be taken back; `values` has it right
                call.args, self.stale[call_id] = [whole], call.message
        return call

    def _args(self, call_id: str, call: Call, text: str, agent: str, frames: list[bytes]) -> None:
        if not text:
            return
        call.args.append(text)
        self.stale[call_id] = call.message
        chunk = {"type": "tool_call_chunk", "id": None, "name": None, "args": text, "index": call.index}
        self._chunk(frames, call.message, agent, tool_call_chunks=[chunk])

    def _result(self, data: Json, content: str, status: str, agent: str, frames: list[bytes]) -> None:
        call_id = data["call_id"]
        call = self.calls.get(call_id) or self._call({**data, "name": "tool"}, agent, frames)
        for speaker, place in list(self.open.items()):
            if place == call.message:
                self._close(speaker, frames)
        message = {"type": "tool", "id": f"{self.run_id}:{len(self.messages) - self.inputs}", "content": content}
        self._add({**message, "name": call.name, "tool_call_id": call_id, "status": status}, TOOLS, frames)
        if call_id in self.waiting:
            self.waiting.remove(call_id)
        if not self.waiting:
            self._values(frames)

    # usage and the end

    def _count(self, data: Json, agent: str, frames: list[bytes]) -> None:
        said = (at for at in range(len(self.messages) - 1, self.inputs - 1, -1) if self.messages[at]["type"] == "ai")
        place = self.open[agent] if agent in self.open else next(said, None)
        if place is None:
            return
        told = usage(data)
        message = self.messages[place]
        message["usage_metadata"] = added(message.get("usage_metadata") or {}, told)
        self._chunk(frames, place, agent, usage_metadata=told)

    def _end(self, kind: str, data: Json, frames: list[bytes]) -> None:
        self._close_all(frames)
        if self.changed:
            self._values(frames)
        self.error = failure(kind, data)
        if self.error is not None:
            self._give(frames, "error", self.error)
        else:
            self._give(frames, "end", None)


def failure(kind: str, data: Json) -> Json | None:
    """What went wrong, of a terminal record; None where it came to its end, or somebody stopped it."""
    if kind == events.FAILED:
        return {"error": data["code"], "message": data["message"]}
    if kind == events.ABORTED and data.get("by") == "system":
        return {"error": "timeout", "message": f"The run was ended: {data.get('reason')}."}
    return None


def usage(data: Json) -> Json:
    """A model call's usage in LangChain's words."""
    counts = {name: value for name, value in data.items() if isinstance(value, int)}
    told: Json = {name: counts.get(name, 0) for name in _USAGE}
    told["total_tokens"] = told["input_tokens"] + told["output_tokens"]
    for field, name, kind in _DETAILS:
        if counts.get(name):
            told[field] = {kind: counts[name]}
    return told


def added(one: Json, other: Json) -> Json:
    """Two usages in one."""
    both = dict(one)
    for name, value in other.items():
        if isinstance(value, dict):
            both[name] = added(both.get(name) or {}, cast("Json", value))
        else:
            both[name] = both.get(name, 0) + value
    return both


def kind_of(modes: Collection[str]) -> type[LangGraphRun]:
    """The projection that shows the frames of these modes."""
    return _kind(frozenset(modes) & SHOWN)


@cache
def _kind(shown: frozenset[str]) -> type[LangGraphRun]:
    class Shown(LangGraphRun, kw_only=True):
        modes = shown

    return Shown
