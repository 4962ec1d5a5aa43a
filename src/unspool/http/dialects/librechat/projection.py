"""The frames of LibreChat's resumable streams.

A frame is `event: message` and one line of JSON, whose shape says what it is: `created`, an `event` with its `data`, a
`sync` with the resume state, `final`. A failure is `event: error`. Who comes back says `?resume=true` and gets a sync,
then what follows on it; what LibreChat does not send, heart-beats and `id:` lines, its client does not mind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from unspool import events
from unspool.events import Record
from unspool.http.dialects.values import Json, as_text
from unspool.projection import Projection
from unspool.terminals import DEFAULT_SENDER, DEFAULT_TITLE

NO_PARENT: Final = "00000000-0000-0000-0000-000000000000"


class Part(msgspec.Struct):
    """A content part: its text in pieces, or a tool call. `step`: the run step that made it."""

    type: str
    step: str
    pieces: list[str] = []
    tool: Json = {}

    def shown(self) -> Json:
        self.pieces = ["".join(self.pieces)]  # joined when somebody looks, not at every delta
        if self.type != "tool_call":
            return {"type": self.type, self.type: self.pieces[0]}
        return {"type": "tool_call", "tool_call": {**self.tool, "args": self.pieces[0], "type": "tool_call"}}


class LibreChat(Projection, kw_only=True):
    """`asked`: the user's message. `parts`: the content so far, `places`: where in it a part of ours is found."""

    name = "librechat"
    asked: Json | None = None
    response_id: str | None = None
    sender: str = DEFAULT_SENDER
    model: str | None = None
    title: str | None = None
    parts: list[Part] = msgspec.field(default_factory=list[Part])
    places: dict[str, int] = msgspec.field(default_factory=dict[str, int])

    def project(self, record: Record) -> Sequence[bytes]:
        frames: list[Json] = []
        data = record.data
        failure: Json | None = None
        match record.type:
            case "request":
                self._begin(data, frames)
            case events.CREATED:
                self._begin(_known(data), frames)
            case events.TEXT_DELTA | events.REASONING_DELTA:
                self._delta(record.type, data, frames)
            case events.TOOL_CALL:
                self._call(data, frames)
            case events.TOOL_ARGS_DELTA:
                self._tool_delta(data["call_id"], {"args": data["text"]}, {}, frames)
            case events.TOOL_AUTH:
                auth = {"auth": data["url"], "expires_at": data.get("expires_at")}
                self._tool_delta(data["call_id"], {"args": ""}, auth, frames)
            case events.TOOL_RESULT:
                self._result(data["call_id"], data.get("output"), frames)
            case events.TOOL_ERROR:
                self._result(data["call_id"], data["message"], frames)
            case events.FILE | events.SOURCE:
                shown = {**data, "type": record.type, "messageId": self.message_id}
                frames.append({"event": "attachment", "data": shown})
            case events.TITLE:
                self.title = data["text"]
                frames.append({"event": "title", "data": {"conversationId": self.stream_id, "title": self.title}})
            case events.CUSTOM:
                frames.append({"event": data["name"], "data": data.get("value")})
            case events.COMPLETED | events.ABORTED:
                frames.append(self._final(record.type, data))
            case events.FAILED:
                failure = {"error": data["message"], "code": data["code"]}
            case events.REPLACED:
                failure = {"error": "Another answer has taken the place of this one.", "code": "replaced", **data}
            case _:
                frames.append({"event": record.type, "data": data})
        shown = [self._frame("message", frame, index) for index, frame in enumerate(frames)]
        return [*shown, self._frame("error", failure, len(shown))] if failure is not None else shown

    def _frame(self, kind: str, data: Json, index: int = 0) -> bytes:
        return self._told(kind, data, self.count + index + 1)

    def _told(self, kind: str, data: Json, number: int) -> bytes:
        encoded = msgspec.json.encode(data)
        return b"event: %b\ndata: %b\nid: %b-%d\n\n" % (kind.encode(), encoded, self.stamp.encode(), number)

    @property
    def message_id(self) -> str:
        """The id of the message that is being written."""
        asked = (self.asked or {}).get("messageId")
        return self.response_id or (f"{asked}_" if asked else f"{self.stream_id}/{self.stamp}_")

    # what becomes of events

    def _begin(self, known: Json, frames: list[Json]) -> None:
        self.response_id = known.get("responseMessageId") or self.response_id
        self.sender = known.get("sender") or self.sender
        self.model = known.get("model") or self.model
        if self.asked is None and known.get("message") is not None:
            self.asked = {**known["message"], "conversationId": self.stream_id}
            frames.append({"created": True, "message": self.asked, "streamId": self.stream_id})

    def _step(self, kind: str, name: str, details: Json, frames: list[Json]) -> int:
        """A new part of the content, and the run step that makes it."""
        place = len(self.parts)
        self.places[name] = place
        self.parts.append(Part(kind, f"step_{self.generation}_{place}"))
        frames.append({"event": "on_run_step", "data": self._run_step(place, details)})
        return place

    def _run_step(self, place: int, details: Json) -> Json:
        kind = "tool_calls" if "tool_calls" in details else "message_creation"
        return {
            "id": self.parts[place].step,
            "runId": self.message_id,
            "type": kind,
            "index": place,
            "stepDetails": {"type": kind, **details},
        }

    def _delta(self, kind: str, data: Json, frames: list[Json]) -> None:
        shown, event = ("text", "on_message_delta") if kind == events.TEXT_DELTA else ("think", "on_reasoning_delta")
        name = f"{shown}:{data.get('agent') or ''}:{data.get('part_id')}"
        place = self.places.get(name)
        if place is None:
            place = self._step(shown, name, {"message_creation": {"message_id": self.message_id}}, frames)
        self.parts[place].pieces.append(data["text"])
        content = [{"type": shown, shown: data["text"]}]
        frames.append({"event": event, "data": {"id": self.parts[place].step, "delta": {"content": content}}})

    def _call(self, data: Json, frames: list[Json]) -> None:
        arguments = data.get("arguments")
        tool = {"id": data["call_id"], "name": data["name"]}
        name = f"tool:{data['call_id']}"
        place = self.places.get(name)
        if place is None:
            text = "" if arguments is None else as_text(arguments)
            place = self._step("tool_call", name, {"tool_calls": [{**tool, "args": text, "type": "tool_call"}]}, frames)
            self.parts[place].pieces.append(text)
            self.parts[place].tool = tool
        else:  # what was known of it so far is replaced
            part = self.parts[place]
            part.tool = {**part.tool, **tool}
            if arguments is not None:
                part.pieces = [as_text(arguments)]
            calls = [part.shown()["tool_call"]]
            frames.append({"event": "on_run_step", "data": self._run_step(place, {"tool_calls": calls})})

    def _tool(self, call_id: str, frames: list[Json]) -> int:
        if f"tool:{call_id}" not in self.places:
            self._call({"call_id": call_id, "name": "tool"}, frames)
        return self.places[f"tool:{call_id}"]

    def _tool_delta(self, call_id: str, change: Json, more: Json, frames: list[Json]) -> None:
        place = self._tool(call_id, frames)
        part = self.parts[place]
        part.pieces.append(change["args"])
        calls = [{**part.tool, "index": 0, "type": "tool_call_chunk", **change}]
        delta = {"type": "tool_calls", "tool_calls": calls, **more}
        frames.append({"event": "on_run_step_delta", "data": {"id": part.step, "delta": delta}})

    def _result(self, call_id: str, output: object, frames: list[Json]) -> None:
        place = self._tool(call_id, frames)
        part = self.parts[place]
        part.tool = {**part.tool, "output": as_text(output), "progress": 1}
        done = {"id": part.step, "index": place, **part.shown()}
        frames.append({"event": "on_run_step_completed", "data": {"result": done}})

    def _final(self, kind: str, data: Json) -> Json:
        final: Json = {
            "final": True,
            "conversation": {"conversationId": self.stream_id, "title": self.title},
            "title": self.title or data.get("title") or DEFAULT_TITLE,
            "requestMessage": self.asked,
            "responseMessage": {**self._response(), **(data.get("message") or {})},
        }
        if kind == events.ABORTED:
            final |= {"aborted": True, "earlyAbort": data["early"]}
            if data["early"]:
                final |= {"requestMessage": None, "responseMessage": None}
            else:
                final["responseMessage"]["unfinished"] = True
        return final

    def _response(self) -> Json:
        return {
            "messageId": self.message_id,
            "parentMessageId": (self.asked or {}).get("messageId") or NO_PARENT,
            "conversationId": self.stream_id,
            "sender": self.sender,
            "model": self.model,
            "content": self.content(),
            "text": "".join(part.shown()["text"] for part in self.parts if part.type == "text"),
            "isCreatedByUser": False,
            "unfinished": False,
            "error": False,
        }

    def content(self) -> list[Json]:
        """The parts of the answer so far."""
        return [part.shown() for part in self.parts]

    def state(self) -> Json:
        """What a client needs to show the answer as it stands."""
        steps = [
            self._run_step(place, {"tool_calls": [shown["tool_call"]]} if part.type == "tool_call" else _created(self))
            for place, part in enumerate(self.parts)
            for shown in [part.shown()]
        ]
        return {
            "runSteps": steps,
            "aggregatedContent": self.content(),
            "userMessage": self.asked,
            "responseMessageId": self.message_id,
            "conversationId": self.stream_id,
            "sender": self.sender,
            "model": self.model,
        }

    def sync(self) -> bytes:
        """The frame that stands for all that came before."""
        return self._told("message", {"sync": True, "resumeState": self.state(), "pendingEvents": []}, self.count)


def _created(told: LibreChat) -> Json:
    return {"message_creation": {"message_id": told.message_id}}


def _known(data: Json) -> Json:
    """The fields of a `created` event, in this dialect's words."""
    known = {
        "responseMessageId": data.get("response_id"), "sender": data.get("sender"), "model": data.get("model")
    }  # fmt: skip
    message = data.get("user_message")
    if message is None:
        return known
    parent = message.get("parent_id") or NO_PARENT
    return {**known, "message": user_message(message.get("id"), parent, message.get("text"))}


def user_message(message_id: str | None, parent_id: str, text: str | None) -> Json:
    return {
        "messageId": message_id, "parentMessageId": parent_id, "text": text or "", "sender": "User",
        "isCreatedByUser": True,
    }  # fmt: skip
