"""The UI message stream of Vercel's AI SDK, version 1, as a projection of the log.

The position is the number of a part, from 0. Source: `uiMessageChunkSchema` and `processUIMessageStream` of `ai` 7.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from unspool import events
from unspool.events import Record
from unspool.http.dialects.values import Json, as_text
from unspool.jobs import Job
from unspool.projection import REQUEST, Projection

DONE: Final = b"data: [DONE]\n\n"
"""What ends the stream, behind its last part."""
ASKED: Final = "ai-sdk"
"""The key in the log's request under which this dialect keeps what it must know of it: a `Continued`."""

_YES: Final = frozenset({"approve", "approved", "allow", "allowed", "accept", "accepted", "yes", "true"})
_REASONS: Final = frozenset({"stop", "length", "content-filter", "tool-calls"})
"""Finish reasons that every version knows. `interrupted` is newer than what the workflow transport checks with, and a
client fails on one that it does not know."""
_USAGE: Final = {
    "inputTokens": "input_tokens",
    "outputTokens": "output_tokens",
    "reasoningTokens": "reasoning_tokens",
    "cachedInputTokens": "cache_read_tokens",
}
_BINARY: Final = "application/octet-stream"


def run_id(of: Job | Projection) -> str:
    """The id of a generation for clients of this dialect; no other log has the same."""
    return f"run:{of.stamp}:{of.stream_id}"


class Tool(msgspec.Struct):
    """A tool call. `pieces`: its input's JSON as it comes, until the client was told of it whole. `state`: `input`
    while it comes, `known` where it is of the message that is gone on with, `told`, then `done` with an output or an
    error, or `denied`. `agent`: whose call it is."""

    name: str
    pieces: list[str] = []
    state: Literal["input", "known", "told", "done", "denied"] = "input"
    agent: str = ""
    dynamic: bool = False


class Continued(msgspec.Struct, omit_defaults=True):
    """The assistant's message that a request goes on with, and its calls that have no result yet, by their ids."""

    message_id: str | None = None
    calls: dict[str, Tool] = {}


class _Request(msgspec.Struct):
    asked: Continued | None = msgspec.field(name=ASKED, default=None)


class UIMessageStream(Projection, kw_only=True):
    """`open`: the text or reasoning part that each agent is in: its kind, its id in the log and on the wire. `parts`:
    how many were opened; none is opened twice under the same id, which some clients take for a repetition. `approvals`:
    the calls that wait for them."""

    name = "ai-sdk"
    started: bool = False
    parts: int = 0
    open: dict[str, tuple[str, str, str]] = msgspec.field(default_factory=dict[str, tuple[str, str, str]])
    tools: dict[str, Tool] = msgspec.field(default_factory=dict[str, Tool])
    approvals: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    usage: dict[str, int] = msgspec.field(default_factory=dict[str, int])

    def project(self, record: Record) -> Sequence[bytes]:
        parts: list[Json] = []
        if not self.started:
            self.started = True
            self._start(record, parts)
        if record.type != REQUEST:
            self._tell(record.type, record.data, parts)
        frames = [b"data: %b\n\n" % msgspec.json.encode(part) for part in parts]
        if record.terminal:
            frames[-1] += DONE
        return frames

    def _start(self, record: Record, parts: list[Json]) -> None:
        asked = None
        if record.type == REQUEST:
            asked = msgspec.json.decode(record.payload, type=_Request).asked
        asked = asked or Continued()
        self.tools.update(asked.calls)
        known = {"runId": run_id(self), "generation": self.generation}
        parts.append(
            {
                "type": "start",
                "messageId": asked.message_id or f"{self.stream_id}/{self.stamp}",
                "messageMetadata": known,
            }
        )

    def _tell(self, kind: str, data: Json, parts: list[Json]) -> None:
        agent = data.get("agent") or ""
        match kind:
            case events.TEXT_DELTA:
                self._delta("text", agent, data, parts)
            case events.REASONING_DELTA:
                self._delta("reasoning", agent, data, parts)
            case events.TOOL_CALL:
                self._close(agent, parts)
                self._call(data, agent, parts)
            case events.TOOL_ARGS_DELTA:
                self._argue(data, agent, parts)
            case events.TOOL_RESULT:
                self._complete(data["call_id"], agent, parts).state = "done"
                output = data.get("output")
                parts.append({"type": "tool-output-available", "toolCallId": data["call_id"], "output": output})
            case events.TOOL_ERROR:
                self._fail(data, agent, parts)
            case events.APPROVAL_REQUESTED:
                self._ask(data, agent, parts)
            case events.APPROVAL_RESOLVED:
                self._answer(data, parts)
            case events.STEP_STARTED:
                # Clients look for a call whose input is still to come in the current step only, and would make it two.
                if not any(tool.state in {"input", "known"} for tool in self.tools.values()):
                    parts.append({"type": "start-step"})
            case events.STEP_FINISHED:
                self._close(agent, parts)
                self._complete_all(parts, agent)
                parts.append({"type": "finish-step"})
            case events.SOURCE:
                parts.append(_source(data, f"source-{self.offset}"))
            case events.FILE if isinstance(data.get("url"), str):
                parts.append({"type": "file", "url": data["url"], "mediaType": _text(data, "media_type", _BINARY)})
            case events.USAGE:
                self._count(data)
            case events.CREATED | events.RESUMED:
                pass
            case events.CUSTOM:
                parts.append(_data(data["name"], data.get("value"), data))
            case events.TITLE:
                parts.append({**_data(kind, data, data), "transient": True})
            case _ if kind in events.TERMINAL:
                self._finish(kind, data, parts)
            case _:
                parts.append(_data(kind, data, data))

    # text and reasoning

    def _delta(self, kind: str, agent: str, data: Json, parts: list[Json]) -> None:
        if not data["text"]:
            return
        part_id = data.get("part_id") or ""
        opened = self.open.get(agent)
        if opened is None or opened[:2] != (kind, part_id):
            self._close(agent, parts)
            self.parts += 1
            opened = self.open[agent] = (kind, part_id, f"{kind}-{self.parts}")
            start: Json = {"type": f"{kind}-start", "id": opened[2]}
            marks = {mark: data[mark] for mark in ("agent", "group") if data.get(mark)}
            parts.append({**start, "providerMetadata": {"unspool": marks}} if marks else start)
        parts.append({"type": f"{kind}-delta", "id": opened[2], "delta": data["text"]})

    def _close(self, agent: str, parts: list[Json]) -> None:
        opened = self.open.pop(agent, None)
        if opened is not None:
            parts.append({"type": f"{opened[0]}-end", "id": opened[2]})

    # tools

    def _call(self, data: Json, agent: str, parts: list[Json]) -> None:
        call_id, arguments = data["call_id"], data.get("arguments")
        tool = self._tool(call_id, agent, parts, name=data["name"])
        if tool.state == "input":
            tool.name = data["name"]  # its arguments may have come first
            if arguments is not None:
                tool.pieces = [as_text(arguments)]
                self._complete(call_id, agent, parts)

    def _tool(self, call_id: str, agent: str, parts: list[Json], *, name: str = "tool") -> Tool:
        tool = self.tools.get(call_id)
        if tool is None:
            tool = self.tools[call_id] = Tool(name, agent=agent)
            parts.append({"type": "tool-input-start", "toolCallId": call_id, "toolName": name})
        return tool

    def _argue(self, data: Json, agent: str, parts: list[Json]) -> None:
        call_id = data["call_id"]
        tool = self._tool(call_id, agent, parts)
        if tool.state == "input" and data["text"]:
            tool.pieces.append(data["text"])
            parts.append({"type": "tool-input-delta", "toolCallId": call_id, "inputTextDelta": data["text"]})

    def _complete(self, call_id: str, agent: str, parts: list[Json]) -> Tool:
        """The call's input is whole. One of the message that is gone on with is told too: a client may have lost it."""
        tool = self._tool(call_id, agent, parts)
        if tool.state not in {"input", "known"}:
            return tool
        given, tool.pieces, tool.state = "".join(tool.pieces), [], "told"
        part: Json = {"type": "tool-input-available", "toolCallId": call_id, "toolName": tool.name}
        try:
            part["input"] = msgspec.json.decode(given or "{}")
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            part |= {"type": "tool-input-error", "input": given, "errorText": "The arguments are not JSON."}
        if tool.dynamic:
            part["dynamic"] = True
        parts.append(part)
        return tool

    def _complete_all(self, parts: list[Json], agent: str | None = None) -> None:
        for call_id, tool in self.tools.items():
            if tool.state == "input" and agent in (None, tool.agent):
                self._complete(call_id, tool.agent, parts)

    def _fail(self, data: Json, agent: str, parts: list[Json]) -> None:
        tool = self._complete(data["call_id"], agent, parts)
        if tool.state != "denied":  # that it was denied is what an application says of it as an error
            tool.state = "done"
            parts.append({"type": "tool-output-error", "toolCallId": data["call_id"], "errorText": data["message"]})

    def _ask(self, data: Json, agent: str, parts: list[Json]) -> None:
        call_id, action_id = data.get("call_id"), data["action_id"]
        if not isinstance(call_id, str) or self._complete(call_id, agent, parts).state != "told":
            parts.append(_data(events.APPROVAL_REQUESTED, data, {"id": action_id}))
            return
        # A client knows one for each call: the last.
        self.approvals = {action: call for action, call in self.approvals.items() if call != call_id}
        self.approvals[action_id] = call_id
        parts.append({"type": "tool-approval-request", "approvalId": action_id, "toolCallId": call_id})

    def _answer(self, data: Json, parts: list[Json]) -> None:
        call_id = self.approvals.pop(data["action_id"], None)
        if call_id is None:
            parts.append(_data(events.APPROVAL_RESOLVED, data, {"id": data["action_id"]}))
            return
        if self.tools[call_id].state != "told":  # its output has come before the answer
            return
        approved = data["decision"].lower() in _YES
        parts.append({"type": "tool-approval-response", "approvalId": data["action_id"], "approved": approved})
        if not approved:
            self.tools[call_id].state = "denied"
            parts.append({"type": "tool-output-denied", "toolCallId": call_id})

    # the end

    def _count(self, data: Json) -> None:
        for name, field in _USAGE.items():
            if isinstance(data.get(field), int):
                self.usage[name] = self.usage.get(name, 0) + data[field]

    def _finish(self, kind: str, data: Json, parts: list[Json]) -> None:
        for agent in list(self.open):
            self._close(agent, parts)
        known: Json = {"ended": kind}
        if self.usage:
            total = self.usage.get("inputTokens", 0) + self.usage.get("outputTokens", 0)
            known["usage"] = {**self.usage, "totalTokens": total}
        match kind:
            case events.COMPLETED:
                self._complete_all(parts)
                said = str(data.get("finish_reason", "stop")).replace("_", "-")
                reason = said if said in _REASONS else "other"
            case events.FAILED:
                reason = "error"
                parts.append({"type": "message-metadata", "messageMetadata": known})  # nothing is read after an error
                parts.append({"type": "error", "errorText": _text(data, "message", "The answer failed.")})
            case _:
                reason = "other"
                parts.append({"type": "abort", "reason": _text(data, "reason", kind)})
        parts.append({"type": "finish", "finishReason": reason, "messageMetadata": known})


def _text(data: Json, field: str, default: str) -> str:
    value = data.get(field)
    return value if isinstance(value, str) and value else default


def _data(name: str, value: object, named: Json) -> Json:
    """A part of the application's own. One with the id of an earlier one takes its place."""
    part: Json = {"type": f"data-{name}", "data": value}
    if isinstance(named.get("id"), str):
        part["id"] = named["id"]
    if named.get("transient") is True:
        part["transient"] = True
    return part


def _source(data: Json, source_id: str) -> Json:
    source_id = _text(data, "id", source_id)
    if isinstance(data.get("url"), str):
        part = {"type": "source-url", "sourceId": source_id, "url": data["url"]}
        return {**part, "title": data["title"]} if isinstance(data.get("title"), str) else part
    return {
        "type": "source-document",
        "sourceId": source_id,
        "mediaType": _text(data, "media_type", _BINARY),
        "title": _text(data, "title", "Source"),
    }
