"""OpenAI's Chat Completions: what most clients speak. It has no way to follow an answer again; the headers
`x-unspool-stream` and `x-unspool-generation` say under what name the native dialect does.

Source: the `openai` clients 3.54 (Python) and 7.55 (JavaScript).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from unspool import events
from unspool.errors import BadRequest
from unspool.events import Record
from unspool.http.dialects.openai_api import (
    add_usage,
    answering,
    body_of,
    ended,
    failed_response,
    guarded,
    headers_of,
    metadata_of,
    model_routes,
    name_of,
    start,
    usage_of,
)
from unspool.http.door import Door, json_response
from unspool.http.requests import StartRequest
from unspool.projection import REQUEST, Projection

Json = dict[str, Any]

_ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_REASONS: Final = frozenset({"stop", "length", "tool_calls", "content_filter", "function_call"})


class Call(msgspec.Struct, omit_defaults=True):
    """A tool call, the `index`th. `told`: its arguments are whole."""

    index: int
    name: str
    chunks: list[str] = []
    told: bool = False


class ChatCompletions(Projection, kw_only=True):
    """`chunks` and `thought`: the answer's text and its reasoning so far; `failure`: why there is no answer."""

    name = "chat-completions"
    started: bool = False
    model: str | None = None
    include_usage: bool = False
    chunks: list[str] = msgspec.field(default_factory=list[str])
    thought: list[str] = msgspec.field(default_factory=list[str])
    calls: dict[str, Call] = msgspec.field(default_factory=dict[str, Call])
    usage: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    reason: str | None = None
    failure: Json | None = None

    def project(self, record: Record) -> Sequence[bytes]:
        data, told = record.data, list[Json]()
        if record.type == REQUEST and isinstance(data.get(self.name), dict):
            self.model = data[self.name].get("model")
            self.include_usage = bool(data[self.name].get("include_usage"))
        if not self.started:
            self.started = True
            told.append(self._chunk({"role": "assistant", "content": ""}))
        self._tell(record.type, data, told)
        frames = [b"data: %b\n\n" % msgspec.json.encode(chunk) for chunk in told]
        if record.terminal:
            frames[-1] += b"data: [DONE]\n\n"
        return frames

    def completion(self) -> Json:
        """The answer as it stands, in one piece."""
        message: Json = {"role": "assistant", "content": "".join(self.chunks) or None, "refusal": None}
        if self.thought:
            message["reasoning_content"] = "".join(self.thought)
        if self.calls:
            message["tool_calls"] = [
                {"id": call_id, "type": "function", "function": {"name": call.name, "arguments": "".join(call.chunks)}}
                for call_id, call in self.calls.items()
            ]  # fmt: skip
        choice = {"index": 0, "message": message, "finish_reason": self.reason or "stop", "logprobs": None}
        return {
            **self._head("chat.completion"),
            "choices": [choice],
            "usage": usage_of(self.usage, "prompt", "completion"),
        }

    def _head(self, kind: str) -> Json:
        model = self.model or "default"
        return {"id": self.stream_id, "object": kind, "created": int(self.created_at), "model": model}

    def _chunk(self, delta: Json, reason: str | None = None) -> Json:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        chunk = {**self._head("chat.completion.chunk"), "choices": [choice]}
        return {**chunk, "usage": None} if self.include_usage else chunk

    def _tell(self, kind: str, data: Json, told: list[Json]) -> None:
        match kind:
            case events.TEXT_DELTA if data["text"]:
                self.chunks.append(data["text"])
                told.append(self._chunk({"content": data["text"]}))
            case events.REASONING_DELTA if data["text"]:
                self.thought.append(data["text"])
                told.append(self._chunk({"reasoning_content": data["text"]}))
            case events.TOOL_CALL:
                call = self._called(data["call_id"], data["name"], told)
                arguments = data.get("arguments")
                if arguments is not None:
                    whole = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
                    self._arguments(call, whole.removeprefix("".join(call.chunks)), told)
                    call.told = True
            case events.TOOL_ARGS_DELTA:
                self._arguments(self._called(data["call_id"], "tool", told), data["text"], told)
            case events.CREATED if isinstance(data.get("model"), str):
                self.model = data["model"]
            case events.USAGE:
                add_usage(self.usage, data)
            case _ if kind in events.TERMINAL:
                self._finish(kind, data, told)
            case _:  # has no counterpart there
                pass

    def _called(self, call_id: str, name: str, told: list[Json]) -> Call:
        call = self.calls.get(call_id)
        if call is None:
            call = self.calls[call_id] = Call(len(self.calls), name)
            function = {"name": name, "arguments": ""}
            begun = {"index": call.index, "id": call_id, "type": "function", "function": function}
            told.append(self._chunk({"tool_calls": [begun]}))
        return call

    def _arguments(self, call: Call, text: str, told: list[Json]) -> None:
        if text and not call.told:
            call.chunks.append(text)
            told.append(self._chunk({"tool_calls": [{"index": call.index, "function": {"arguments": text}}]}))

    def _finish(self, kind: str, data: Json, told: list[Json]) -> None:
        if kind != events.COMPLETED:
            # A finish reason would say that the answer is whole.
            code = data["code"] if kind == events.FAILED else "cancelled"
            message = data["message"] if kind == events.FAILED else "The answer was stopped before its end."
            self.failure = {"message": message, "type": "server_error", "param": None, "code": code}
            told.append({"error": self.failure})
            return
        self.reason = data["finish_reason"] if data["finish_reason"] in _REASONS else "stop"
        told.append(self._chunk({}, self.reason))
        if self.include_usage:
            chunk = self._head("chat.completion.chunk")
            told.append({**chunk, "choices": [], "usage": usage_of(self.usage, "prompt", "completion")})


class StreamOptions(msgspec.Struct):
    """What a stream tells besides."""

    include_usage: bool | None = None


class CompletionBody(msgspec.Struct):
    """The fields of a request that mean something here; all others are the run's."""

    messages: list[Json]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    metadata: Json | None = None
    n: int | None = None


_HANDLED: Final = frozenset(CompletionBody.__struct_fields__)


def routes(door: Door) -> list[BaseRoute]:
    """The routes of this dialect."""
    door.keep(ChatCompletions)
    served = _Completions(door)
    create = Route(
        "/v1/chat/completions", answering(served.create), methods=["POST"], name="unspool.chat_completions.create"
    )
    return guarded(door, [create, *model_routes(door)])


class _Completions:
    def __init__(self, door: Door) -> None:
        self._door = door

    async def create(self, request: Request) -> Response:
        identity = await self._door.identify(request)
        given, body = await body_of(self._door, request, CompletionBody)
        if not body.messages or any(str(message.get("role")) not in _ROLES for message in body.messages):
            raise BadRequest(f"messages must be messages with a role: {', '.join(sorted(_ROLES))}", field="messages")
        if body.n not in (None, 1):
            raise BadRequest("n must be 1: a generation is one answer", field="n")
        created = name_of(request, identity, "chatcmpl-", given)
        parameters = {name: value for name, value in given.items() if name not in _HANDLED and value is not None}
        details = StartRequest(
            created.stream_id, body.messages, body.model, None, None, metadata_of(body.metadata, body.model),
            "chat-completions", parameters,
        )  # fmt: skip
        usage = body.stream_options is not None and bool(body.stream_options.include_usage)
        kept = {ChatCompletions.name: {"model": body.model, "include_usage": usage}}
        job = await start(self._door, identity, details, created, kept)
        if body.stream:
            return await self._door.follow(job, ChatCompletions, headers=headers_of(job))
        job = await ended(self._door, identity, job, request)
        if job is None:
            return Response(status_code=499)
        answer = await self._door.project(job, ChatCompletions)
        if answer.failure is None:
            return json_response(answer.completion(), headers=headers_of(job))
        data = job.terminal.data if job.terminal is not None else {}
        return failed_response(answer.failure, retryable=bool(data.get("retryable")), headers=headers_of(job))
