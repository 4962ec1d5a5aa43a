"""The projection: records → AG-UI events, and the events with which a client that comes back begins."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from itertools import takewhile
from typing import ClassVar, Final, Self

import msgspec

from unspool import events
from unspool.events import Record
from unspool.http.dialects.ag_ui.conversation import FAILED, Call, Conversation, Said, grow, known
from unspool.http.dialects.ag_ui.shapes import custom, frame, interrupt, usage_of, whole
from unspool.http.dialects.values import Json, as_object, as_text
from unspool.jobs import Job
from unspool.projection import REQUEST, Projection

DIALECT: Final = "ag-ui"
VERSION: Final = "1.0"


class Open(msgspec.Struct):
    """The text or reasoning that an agent is in: its kind, the run's name for it, the message that it became."""

    kind: str
    part: str
    message: str


class AgUi(Projection, kw_only=True):
    """The events for a client of protocol version 1.0.

    `history`: the messages of the request, as JSON. `open`: what each agent is in; `turns`: the message that its next
    tool call belongs to. `steps`: names of open ones by id. `standing`: CUSTOM events that whoever comes later is told,
    too; `approvals`: what waits for a person. `end`: the terminal record's type and data.
    """

    name = DIALECT
    modern: ClassVar[bool] = True
    opening: ClassVar[bool] = False
    """For one who comes back before the run has begun: the messages follow on RUN_STARTED."""

    run_id: str = ""
    parent_run_id: str | None = None
    history: str = "[]"
    started: bool = False
    numbered: int = 0
    content: Conversation = msgspec.field(default_factory=Conversation)
    open: dict[str, Open] = msgspec.field(default_factory=dict[str, Open])
    turns: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    steps: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    standing: dict[str, Json] = msgspec.field(default_factory=dict[str, Json])
    approvals: dict[str, Json] = msgspec.field(default_factory=dict[str, Json])
    usage: list[Json] = msgspec.field(default_factory=list[Json])
    end: tuple[str, Json] | None = None

    @classmethod
    def begin(cls, job: Job) -> Self:
        run_id = run_id_of(job)
        return cls(
            stream_id=job.stream_id, generation=job.generation, created_at=job.created_at, tenant=job.tenant,
            run_id=run_id,
        )  # fmt: skip

    def copy(self) -> Self:
        return deepcopy(self)  # the texts themselves, which never change, are shared by all copies

    def project(self, record: Record) -> Sequence[bytes]:
        told: list[Json] = []
        data = record.data
        if record.type == REQUEST:
            self._asked(data)
        if not self.started:
            self.started = True
            told += [self._start(), *self._snapshots()] if self.opening else [self._start()]
        if record.type != REQUEST:
            self._tell(record.type, data, told)
        return [frame(event) for event in told]

    def messages(self) -> tuple[list[Json], list[Json]]:
        """What was asked, and what is said so far."""
        return msgspec.json.decode(self.history), self.content.messages(live=self.end is None)

    def resume(self, messages: list[Json] | None = None) -> bytes:
        """What a client is sent that comes now, before what follows: exact for one that knows nothing, and for one that
        has kept what it was sent. `messages`: of the whole thread, where they are more than this run's."""
        if not self.started:
            return b""
        told = [self._start(), *self._snapshots(messages), *self._standing()]
        if self.end is not None:
            told.append(self._last(*self.end))
        else:
            told += [{"type": "STEP_STARTED", "stepName": name} for name in self.steps.values()]
            for opened in self.open.values():
                told += self._opened(opened)
            for call_id, call in self.content.calls.items():
                if call.open:
                    told.append(self._called(call_id, call))
                    if call.arguments:
                        told.append(_arguments(call_id, "".join(call.arguments)))
        return b"".join(map(frame, told))

    def retold(self) -> bytes:
        """The frame of a run that is over, without its messages: for one that is told those of the thread."""
        if self.end is None:
            return b""
        return b"".join(map(frame, [self._start(), *self._standing(), self._last(*self.end)]))

    # the run

    def _asked(self, data: Json) -> None:
        if data.get("dialect") != DIALECT or self.started:
            return
        self.run_id = data.get("run_id") or self.run_id
        self.parent_run_id = data.get("parent_run_id")
        self.history = msgspec.json.encode(known(data.get("messages"))).decode()

    def _start(self) -> Json:
        event: Json = {"type": "RUN_STARTED", "threadId": self.stream_id, "runId": self.run_id}
        if self.parent_run_id is not None:
            event["parentRunId"] = self.parent_run_id
        return {**event, "protocolVersion": VERSION} if self.modern else event

    def _snapshots(self, messages: list[Json] | None = None) -> list[Json]:
        """A client puts what it did not have last. So where a result stands before what came earlier than it, it is
        first told to forget what follows there; reasoning it forgets only where it is told of some."""
        asked, said = self.messages()
        told = asked + said if messages is None else messages
        late = self.content.late()
        before = list(takewhile(lambda message: message["id"] != late, told))
        cut = len(before) < len(told) and (_reasons(before) or not _reasons(told))
        return [{"type": "MESSAGES_SNAPSHOT", "messages": one} for one in ([before, told] if cut else [told])]

    def _standing(self) -> list[Json]:
        return [*self.standing.values(), *(custom(events.APPROVAL_REQUESTED, one) for one in self.approvals.values())]

    def _tell(self, kind: str, data: Json, told: list[Json]) -> None:
        agent = data.get("agent") or ""
        match kind:
            case events.TEXT_DELTA | events.REASONING_DELTA:
                self._delta(kind, agent, data, told)
            case events.TOOL_CALL:
                self._call(agent, data, told)
            case events.TOOL_ARGS_DELTA:
                self._arguments(agent, data["call_id"], data["text"], told)
            case events.TOOL_RESULT:
                self._result(agent, kind, data, told)
            case events.TOOL_ERROR:
                self._result(agent, kind, {**data, "output": data["message"]}, told)
            case events.STEP_STARTED:
                self._step(data, told)
            case events.STEP_FINISHED:
                self._close(agent, told)
                if (name := self.steps.pop(data["id"], None)) is not None:
                    told.append({"type": "STEP_FINISHED", "stepName": name})
            case events.STEER_APPLIED:
                self._steer(agent, data, told)
            case events.APPROVAL_REQUESTED | events.APPROVAL_RESOLVED:
                self._approval(agent, kind, data, told)
            case events.USAGE:
                self.usage.append(usage_of(data))
            case events.CREATED:
                self._created(data)
            case events.RESUMED:
                self._close_all(told)  # the run begins anew, and does not go on with what it was about to say
            case events.CUSTOM:
                told.append(custom(data["name"], data.get("value")))
            case _ if kind in events.TERMINAL:
                self._finish(kind, data, told)
            case _:
                self._other(kind, data, told)

    def _created(self, data: Json) -> None:
        asked = as_object(data.get("user_message"))
        if self.history == "[]" and asked:
            one = {"id": asked.get("id") or f"{self.label}/0", "role": "user", "content": asked.get("text") or ""}
            self.history = msgspec.json.encode(known([one])).decode()

    def _other(self, kind: str, data: Json, told: list[Json]) -> None:
        event = custom(kind, data)
        match kind:
            case events.SOURCE | events.FILE:
                self.standing[f"{kind}:{self.offset}"] = event
            case events.TITLE:
                self.standing[kind] = event
            case events.AGENT_UPDATE:
                self.standing[f"{kind}:{data['agent']}"] = event
            case events.TOOL_AUTH:
                self.standing[f"{kind}:{data['call_id']}"] = event
            case events.STEER_QUEUED:
                self.standing[f"{kind}:{data['id']}"] = event
            case _:
                pass
        told.append(event)

    # text and reasoning

    def _number(self) -> str:
        self.numbered += 1
        return f"{self.label}/{self.numbered}"

    def _delta(self, kind: str, agent: str, data: Json, told: list[Json]) -> None:
        if not data["text"]:
            return
        part = data.get("part_id") or ""
        opened = self.open.get(agent)
        if opened is None or (opened.kind, opened.part) != (kind, part):
            self._close(agent, told)
            opened = self.open[agent] = Open(kind, part, self._number())
            if kind == events.TEXT_DELTA:
                self.content.add(Said(opened.message, "assistant", name=agent or None))
                self.turns[agent] = opened.message
            else:
                self.content.add(Said(opened.message, "reasoning"))
            told += self._opened(opened)
        grow(self.content.said[opened.message].text, data["text"])
        event = "TEXT_MESSAGE_CONTENT" if kind == events.TEXT_DELTA else "REASONING_MESSAGE_CONTENT"
        told.append({"type": event, "messageId": opened.message, "delta": data["text"]})

    def _opened(self, opened: Open) -> list[Json]:
        message = self.content.said[opened.message]
        if message.role == "reasoning":
            return [
                {"type": "REASONING_START", "messageId": message.id},
                {"type": "REASONING_MESSAGE_START", "messageId": message.id, "role": "reasoning"},
            ]
        event: Json = {"type": "TEXT_MESSAGE_START", "messageId": message.id, "role": message.role}
        return [event if message.name is None else {**event, "name": message.name}]

    def _close(self, agent: str, told: list[Json]) -> None:
        opened = self.open.pop(agent, None)
        if opened is None:
            return
        if opened.kind == events.TEXT_DELTA:
            told.append({"type": "TEXT_MESSAGE_END", "messageId": opened.message})
        else:
            told.append({"type": "REASONING_MESSAGE_END", "messageId": opened.message})
            told.append({"type": "REASONING_END", "messageId": opened.message})

    def _close_all(self, told: list[Json]) -> None:
        for agent in list(self.open):
            self._close(agent, told)

    def _steer(self, agent: str, data: Json, told: list[Json]) -> None:
        self.standing.pop(f"{events.STEER_QUEUED}:{data['id']}", None)
        if not data["text"]:
            return
        self._close(agent, told)
        self.turns.pop(agent, None)
        message = Said(self._number(), "user", [data["text"]])
        self.content.add(message)
        told += [
            {"type": "TEXT_MESSAGE_START", "messageId": message.id, "role": "user"},
            {"type": "TEXT_MESSAGE_CONTENT", "messageId": message.id, "delta": data["text"]},
            {"type": "TEXT_MESSAGE_END", "messageId": message.id},
        ]

    # tools

    def _call(self, agent: str, data: Json, told: list[Json]) -> None:
        call = self._begun(agent, data["call_id"], data["name"], told)
        arguments = data.get("arguments")
        if arguments is None or not call.open:
            return
        text, before = as_text(arguments), "".join(call.arguments)
        if text.startswith(before):
            self._arguments(agent, data["call_id"], text[len(before) :], told)
        if whole(text) and whole("".join(call.arguments)):
            self._complete(data["call_id"], told)

    def _begun(self, agent: str, call_id: str, name: str, told: list[Json]) -> Call:
        call = self.content.calls.get(call_id)
        if call is not None:
            return call
        self._close(agent, told)
        parent = self.turns.get(agent)
        if parent is None:
            parent = self.turns[agent] = self._number()
            self.content.add(Said(parent, "assistant"))
        call = self.content.calls[call_id] = Call(name, parent)
        self.content.said[parent].calls.append(call_id)
        told.append(self._called(call_id, call))
        return call

    def _called(self, call_id: str, call: Call) -> Json:
        event = {"type": "TOOL_CALL_START", "toolCallId": call_id, "toolCallName": call.name}
        return {**event, "parentMessageId": call.parent}

    def _arguments(self, agent: str, call_id: str, text: str, told: list[Json]) -> None:
        call = self._begun(agent, call_id, "tool", told)
        if call.open and text:
            grow(call.arguments, text)
            told.append(_arguments(call_id, text))

    def _complete(self, call_id: str, told: list[Json]) -> None:
        """The call's arguments are whole."""
        call = self.content.calls[call_id]
        if call.open:
            call.open = False
            told.append({"type": "TOOL_CALL_END", "toolCallId": call_id})

    def _result(self, agent: str, kind: str, data: Json, told: list[Json]) -> None:
        call_id = data["call_id"]
        call = self._begun(agent, call_id, "tool", told)
        self._complete(call_id, told)
        self.standing.pop(f"{events.TOOL_AUTH}:{call_id}", None)
        if call.answered:  # a message cannot be taken back
            told.append(custom(kind, data))
            return
        call.answered = True
        self.turns = {one: parent for one, parent in self.turns.items() if parent != call.parent}
        text = as_text(data.get("output"))
        message = Said(self._number(), "tool", [text], call=call_id, failed=kind == events.TOOL_ERROR)
        self.content.answer(message, call.parent)
        event: Json = {
            "type": "TOOL_CALL_RESULT", "messageId": message.id, "toolCallId": call_id, "content": text, "role": "tool",
        }  # fmt: skip
        told.append({**event, "metadata": FAILED} if message.failed else event)

    # steps, approvals, the end

    def _step(self, data: Json, told: list[Json]) -> None:
        if data["id"] in self.steps:
            return
        name = data.get("name")
        if not isinstance(name, str) or not name or name in self.steps.values():
            name = data["id"] if data["id"] not in self.steps.values() else f"{data['id']} ({self.offset})"
        self.steps[data["id"]] = name
        told.append({"type": "STEP_STARTED", "stepName": name})

    def _approval(self, agent: str, kind: str, data: Json, told: list[Json]) -> None:
        if kind == events.APPROVAL_RESOLVED:
            self.approvals.pop(data["action_id"], None)
        else:
            if data.get("call_id") in self.content.calls:
                self._complete(data["call_id"], told)
            self.approvals[data["action_id"]] = data
        told.append(custom(kind, data))

    def _finish(self, kind: str, data: Json, told: list[Json]) -> None:
        self._close_all(told)
        for call_id, call in self.content.calls.items():
            if kind != events.FAILED or whole("".join(call.arguments)):
                self._complete(call_id, told)
        told += [{"type": "STEP_FINISHED", "stepName": name} for name in reversed(self.steps.values())]
        self.steps.clear()
        self.end = (kind, {field: data[field] for field in ("code", "message") if data.get(field) is not None})
        told.append(self._last(*self.end))

    def _last(self, kind: str, data: Json) -> Json:
        used: Json = {"usage": self.usage} if self.usage and self.modern else {}
        if kind == events.FAILED:
            return {"type": "RUN_ERROR", **data, **used}
        event: Json = {"type": "RUN_FINISHED", "threadId": self.stream_id, "runId": self.run_id}
        if kind == events.COMPLETED:
            if "message" in data:
                event["result"] = data["message"]
            if self.approvals:
                event["outcome"] = {"type": "interrupt", "interrupts": [*map(interrupt, self.approvals.values())]}
            elif self.modern:
                waiting = [call_id for call_id, call in self.content.calls.items() if not call.answered]
                event["outcome"] = {"type": "success", **({"pendingToolCallIds": waiting} if waiting else {})}
        elif self.modern:
            event["outcome"] = {"type": "cancelled"}
        return event | used


class AgUiOld(AgUi, kw_only=True):
    """The events for clients before 1.0: they refuse some of what 1.0 says at the end."""

    modern = False


class Opening(AgUi, kw_only=True):
    """As AgUi, for one who comes back before the run has begun."""

    opening = True


class OpeningOld(AgUiOld, kw_only=True):
    """As AgUiOld, for one who comes back before the run has begun."""

    opening = True


def run_id_of(job: Job) -> str:
    """What AG-UI calls a generation: the client's own name for it, where it had one."""
    return job.request_id or job.label


def _arguments(call_id: str, text: str) -> Json:
    return {"type": "TOOL_CALL_ARGS", "toolCallId": call_id, "delta": text}


def _reasons(messages: list[Json]) -> bool:
    return any(message["role"] == "reasoning" for message in messages)
