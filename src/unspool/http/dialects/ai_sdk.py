"""The UI message stream of Vercel's AI SDK, version 1: `useChat`, `DefaultChatTransport`, `WorkflowChatTransport`.

The position is the number of a part, from 0. A client of the default transport sends none and gets everything from the
first part on, which resets the message that it has; the workflow transport counts parts and asks for what comes after.
Source: `uiMessageChunkSchema` of `ai` 7.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from unspool import events
from unspool.errors import BadRequest, Gone, NotFound
from unspool.events import Record
from unspool.http.dialects.ui_messages import to_chat
from unspool.http.door import Door, json_response
from unspool.http.problem import answering
from unspool.http.requests import StartRequest
from unspool.jobs import Job
from unspool.projection import Projection

GRACE: Final = 60.0
"""Seconds after its end for which a generation is still replayed to who comes back: it may have ended while they were
away."""

_HEADERS: Final = {"x-vercel-ai-ui-message-stream": "v1"}
_YES: Final = frozenset({"approve", "approved", "allow", "allowed", "accept", "accepted", "yes", "true"})
_REASONS: Final = frozenset({"stop", "length", "content-filter", "tool-calls"})

Json = dict[str, Any]


class Tool(msgspec.Struct):
    """A tool call. `input`: its JSON as it comes in pieces; `told`: the client knows it whole."""

    name: str
    input: str = ""
    told: bool = False


class UIMessageStream(Projection, kw_only=True):
    """`open`: the text or reasoning part that each agent is in, as its kind and id. `tools`: calls without a result."""

    name = "ai-sdk"
    started: bool = False
    open: dict[str, tuple[str, str]] = msgspec.field(default_factory=dict[str, tuple[str, str]])
    tools: dict[str, Tool] = msgspec.field(default_factory=dict[str, Tool])
    approvals: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    usage: dict[str, int] = msgspec.field(default_factory=dict[str, int])

    def project(self, record: Record) -> Sequence[bytes]:
        parts: list[Json] = []
        if not self.started:
            self.started = True
            parts.append({"type": "start", "messageId": str(self.key)})
        self._tell(record.type, record.data, parts)
        frames = [b"data: %b\n\n" % msgspec.json.encode(part) for part in parts]
        if record.terminal:
            frames[-1] += b"data: [DONE]\n\n"
        return frames

    def _tell(self, kind: str, data: Json, parts: list[Json]) -> None:
        agent = data.get("agent") or ""
        match kind:
            case events.TEXT_DELTA:
                self._delta("text", agent, data, parts)
            case events.REASONING_DELTA:
                self._delta("reasoning", agent, data, parts)
            case events.TOOL_CALL:
                self._close(agent, parts)
                self._call(data, parts)
            case events.TOOL_ARGS_DELTA:
                tool = self._tool(data["call_id"], parts)
                if not tool.told:
                    tool.input += data["text"]
                    parts.append(
                        {"type": "tool-input-delta", "toolCallId": data["call_id"], "inputTextDelta": data["text"]}
                    )
            case events.TOOL_RESULT:
                self._complete(data["call_id"], parts)
                self.tools.pop(data["call_id"])
                parts.append(
                    {"type": "tool-output-available", "toolCallId": data["call_id"], "output": data.get("output")}
                )
            case events.TOOL_ERROR:
                self._complete(data["call_id"], parts)
                self.tools.pop(data["call_id"])
                parts.append({"type": "tool-output-error", "toolCallId": data["call_id"], "errorText": data["message"]})
            case events.APPROVAL_REQUESTED:
                self._ask(data, parts)
            case events.APPROVAL_RESOLVED:
                self._answer(data, parts)
            case events.STEP_STARTED:
                parts.append({"type": "start-step"})
            case events.STEP_FINISHED:
                self._close_all(parts)
                parts.append({"type": "finish-step"})
            case events.SOURCE:
                parts.append(_source(data, f"source-{self.offset}"))
            case events.FILE if isinstance(data.get("url"), str):
                media_type = data.get("media_type") or "application/octet-stream"
                parts.append({"type": "file", "url": data["url"], "mediaType": media_type})
            case events.USAGE:
                self._count(data)
            case events.CREATED | events.RESUMED | "request":
                pass
            case events.CUSTOM:
                parts.append({"type": f"data-{data['name']}", "data": data.get("value")})
            case _ if kind in events.TERMINAL:
                self._finish(kind, data, parts)
            case _:
                parts.append({"type": f"data-{kind}", "data": data})

    # parts

    def _delta(self, kind: str, agent: str, data: Json, parts: list[Json]) -> None:
        part_id = data.get("part_id") or "p"
        here = (kind, f"{agent}:{part_id}" if agent else part_id)
        if self.open.get(agent) != here:
            self._close(agent, parts)
            self.open[agent] = here
            parts.append({"type": f"{kind}-start", "id": here[1]})
        if data["text"]:
            parts.append({"type": f"{kind}-delta", "id": here[1], "delta": data["text"]})

    def _close(self, agent: str, parts: list[Json]) -> None:
        opened = self.open.pop(agent, None)
        if opened is not None:
            parts.append({"type": f"{opened[0]}-end", "id": opened[1]})

    def _close_all(self, parts: list[Json]) -> None:
        for agent in list(self.open):
            self._close(agent, parts)

    def _call(self, data: Json, parts: list[Json]) -> None:
        call_id, arguments = data["call_id"], data.get("arguments")
        if call_id not in self.tools:
            self.tools[call_id] = Tool(data["name"])
            parts.append({"type": "tool-input-start", "toolCallId": call_id, "toolName": data["name"]})
        if arguments is not None:
            self.tools[call_id].input = (
                arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
            )
            self._complete(call_id, parts)

    def _tool(self, call_id: str, parts: list[Json]) -> Tool:
        if call_id not in self.tools:
            self._call({"call_id": call_id, "name": "tool"}, parts)
        return self.tools[call_id]

    def _complete(self, call_id: str, parts: list[Json]) -> None:
        """The call's input is whole."""
        tool = self._tool(call_id, parts)
        if tool.told:
            return
        tool.told = True
        part = {"type": "tool-input-available", "toolCallId": call_id, "toolName": tool.name}
        try:
            part["input"] = msgspec.json.decode(tool.input or "{}")
        except msgspec.DecodeError:
            part |= {"type": "tool-input-error", "input": tool.input, "errorText": "The arguments are not JSON."}
        parts.append(part)

    def _ask(self, data: Json, parts: list[Json]) -> None:
        call_id = data.get("call_id")
        if not isinstance(call_id, str):
            parts.append({"type": "data-approval.requested", "data": data})
            return
        self._complete(call_id, parts)
        self.approvals[data["action_id"]] = call_id
        parts.append({"type": "tool-approval-request", "approvalId": data["action_id"], "toolCallId": call_id})

    def _answer(self, data: Json, parts: list[Json]) -> None:
        call_id = self.approvals.pop(data["action_id"], None)
        if call_id is None:
            parts.append({"type": "data-approval.resolved", "data": data})
            return
        approved = data["decision"].lower() in _YES
        parts.append({"type": "tool-approval-response", "approvalId": data["action_id"], "approved": approved})
        if not approved and self.tools.pop(call_id, None) is not None:
            parts.append({"type": "tool-output-denied", "toolCallId": call_id})

    def _count(self, data: Json) -> None:
        for name, field in _USAGE.items():
            if isinstance(data.get(field), int):
                self.usage[name] = self.usage.get(name, 0) + data[field]

    def _finish(self, kind: str, data: Json, parts: list[Json]) -> None:
        self._close_all(parts)
        if kind == events.COMPLETED:
            for call_id in list(self.tools):
                self._complete(call_id, parts)
        reason = "interrupted"
        if kind == events.FAILED:
            reason = "error"
            parts.append({"type": "error", "errorText": data["message"]})
        elif kind == events.COMPLETED:
            said = data["finish_reason"].replace("_", "-")
            reason = said if said in _REASONS else "other"
        else:
            parts.append({"type": "abort", "reason": data.get("reason") or kind})
        known: Json = {"generation": self.generation}
        if self.usage:
            total = self.usage.get("inputTokens", 0) + self.usage.get("outputTokens", 0)
            known["usage"] = {**self.usage, "totalTokens": total}
        parts.append({"type": "finish", "finishReason": reason, "messageMetadata": known})


_USAGE: Final = {
    "inputTokens": "input_tokens",
    "outputTokens": "output_tokens",
    "reasoningTokens": "reasoning_tokens",
    "cachedInputTokens": "cache_read_tokens",
}


def _source(data: Json, source_id: str) -> Json:
    title = data.get("title")
    if isinstance(data.get("url"), str):
        part = {"type": "source-url", "sourceId": data.get("id") or source_id, "url": data["url"]}
        return {**part, "title": title} if title else part
    return {
        "type": "source-document",
        "sourceId": data.get("id") or source_id,
        "mediaType": data.get("media_type") or "application/octet-stream",
        "title": title or "Source",
    }


class ChatBody(msgspec.Struct):
    """What `DefaultChatTransport` posts; an application's own fields come beside these."""

    id: str
    messages: list[Json]
    trigger: str = "submit-message"
    messageId: str | None = None  # noqa: N815
    model: str | None = None
    metadata: Json | None = None


class StopBody(msgspec.Struct):
    """`activeStreamId`: the run that the page shows; one that is over is not worth a Stop of what runs now."""

    activeStreamId: str | None = None  # noqa: N815


def routes(door: Door) -> list[BaseRoute]:
    """The routes of this dialect."""
    door.keep(UIMessageStream)
    served = _Chat(door)
    return [
        Route("/api/chat", answering(served.send), methods=["POST"], name="unspool.ai_sdk.send"),
        Route(
            "/api/chat/{chat_id:path}/stream", answering(served.resume), methods=["GET"], name="unspool.ai_sdk.resume"
        ),
        Route("/api/chat/{chat_id:path}/stop", answering(served.stop), methods=["POST"], name="unspool.ai_sdk.stop"),
    ]


class _Chat:
    def __init__(self, door: Door) -> None:
        self._door = door

    async def send(self, request: Request) -> Response:
        identity = await self._door.identify(request)
        body: ChatBody = await self._door.body(request, ChatBody)
        if not body.messages:
            raise BadRequest("messages must hold at least one message", field="messages")
        last = body.messages[-1]
        # A POST that was sent twice is one turn: a message of the user has an id of its own.
        key = request.headers.get("idempotency-key")
        if key is None and body.trigger == "submit-message" and last.get("role") == "user" and last.get("id"):
            key = f"message:{last['id']}"
        details = StartRequest(
            body.id, to_chat(body.messages), body.model, None, None, body.metadata or {}, "ai-sdk",
            {"trigger": body.trigger, "message_id": body.messageId},
        )  # fmt: skip
        job = await self._door.start(identity, details, request_id=key, metadata=body.metadata, request={})
        return await self._follow(job, 0)

    async def resume(self, request: Request) -> Response:
        identity = await self._door.identify(request)
        name, index = request.path_params["chat_id"], request.query_params.get("startIndex")
        chat_id, generation = run_of(name) if index is not None else (name, None)
        try:
            job = await self._door.job(identity, chat_id, generation)
        except (NotFound, Gone):
            if index is not None:
                raise
            return Response(status_code=204)
        if index is None:
            if job.settled_at is not None and time.time() - job.settled_at > GRACE:
                return Response(status_code=204)
            return await self._follow(job, 0)
        try:
            position = int(index)
        except ValueError:
            raise BadRequest(f"startIndex must be a whole number, not {index[:40]!r}", field="startIndex") from None
        if position >= 0:
            return await self._follow(job, position)
        count = (await self._door.project(job, UIMessageStream)).count
        return await self._follow(job, max(count + position, 0), {"x-workflow-stream-tail-index": str(count - 1)})

    async def stop(self, request: Request) -> Response:
        identity = await self._door.identify(request)
        body: StopBody = await self._door.body(request, StopBody, StopBody())
        chat_id = request.path_params["chat_id"]
        job = await self._door.job(identity, chat_id)
        if body.activeStreamId in (None, run_id(job)):
            await self._door.stop(identity, chat_id, job.generation)
        return json_response({"success": True})

    async def _follow(self, job: Job, position: int, headers: dict[str, str] | None = None) -> Response:
        named = {**_HEADERS, "x-workflow-run-id": run_id(job), **(headers or {})}
        return await self._door.follow(job, UIMessageStream, position, headers=named)


def run_id(job: Job) -> str:
    """What the workflow transport calls a generation."""
    return f"{job.stream_id}:{job.generation}"


def run_of(name: str) -> tuple[str, int]:
    """The stream and the generation that a run's id names. Raises NotFound."""
    stream_id, _, generation = name.rpartition(":")
    if not stream_id or not (generation.isascii() and generation.isdigit()):
        raise NotFound
    return stream_id, int(generation)
