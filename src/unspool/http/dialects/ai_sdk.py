"""Vercel's AI SDK: `useChat`, `DefaultChatTransport`, `WorkflowChatTransport`, `WebSocketChatTransport`.

A client of the default transport sends no position and gets everything from the first part on, which resets the message
that it has; the workflow transport counts parts and asks for what comes after.
"""

from __future__ import annotations

import hashlib
import re
import time
from typing import Final, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute

from unspool.errors import BadRequest, Gone, InvalidArgument, NotFound
from unspool.http.auth import Identity
from unspool.http.dialects.ai_sdk_socket import ChatSocket
from unspool.http.dialects.ui_message_stream import ASKED, Continued, Tool, UIMessageStream, run_id
from unspool.http.dialects.ui_messages import UIMessage, open_calls, to_chat
from unspool.http.dialects.values import Json
from unspool.http.door import Door, json_response
from unspool.http.problem import answering
from unspool.http.requests import Id, StartRequest, whole
from unspool.jobs import Job

GRACE: Final = 60.0
"""Seconds after its end for which a generation is still replayed to who comes back: it may have ended while they were
away."""

_RUN: Final = re.compile(r"run:(\d{1,15})(?:-\w+)?:(.+)", re.ASCII)
_HEADERS: Final = {"x-vercel-ai-ui-message-stream": "v1"}


class ChatBody(msgspec.Struct, rename="camel"):
    """What `DefaultChatTransport` posts; an application's own fields come beside these."""

    id: Id
    messages: list[UIMessage]
    trigger: Literal["submit-message", "regenerate-message"] = "submit-message"
    message_id: str | None = None
    model: str | None = None
    metadata: Json | None = None


class StopBody(msgspec.Struct, rename="camel"):
    """`active_stream_id`: the run that the page shows; one that is over is not worth a Stop of what runs now."""

    active_stream_id: str | None = None


def routes(door: Door) -> list[BaseRoute]:
    """The routes of this dialect."""
    door.keep(UIMessageStream)
    chat = Chat(door)
    served = _Routes(door, chat)
    one = "/api/chat/{chat_id:path}"
    return [
        Route("/api/chat", answering(served.send), methods=["POST"], name="unspool.ai_sdk.send"),
        Route(f"{one}/stream", answering(served.resume), methods=["GET"], name="unspool.ai_sdk.resume"),
        Route(f"{one}/stop", answering(served.stop), methods=["POST"], name="unspool.ai_sdk.stop"),
        WebSocketRoute("/api/chat/ws", ChatSocket(door, chat.send, chat.latest).serve, name="unspool.ai_sdk.socket"),
    ]


class Chat:
    """What clients ask for, over HTTP and over WebSockets."""

    def __init__(self, door: Door) -> None:
        self._door = door

    async def send(self, identity: Identity, given: object, key: str | None) -> Job:
        """Start what a client has sent, a ChatBody or what may be one. `key`: its idempotency key, where it has one.

        Raises InvalidArgument, BadRequest, and what `Door.start` raises.
        """
        body = given if isinstance(given, ChatBody) else checked(given)
        if not body.messages:
            raise BadRequest("messages must hold at least one message", field="messages")
        details = StartRequest(
            body.id, to_chat(body.messages), body.model, None, None, body.metadata or {}, "ai-sdk",
            {"trigger": body.trigger, "message_id": body.message_id},
        )  # fmt: skip
        continued = msgspec.to_builtins(_continued(body))
        return await self._door.start(
            identity, details, request_id=key or _key(body), metadata=body.metadata, request={ASKED: continued}
        )

    async def latest(self, identity: Identity, chat_id: str) -> Job | None:
        """The chat's last generation, where it runs or has ended just now. Raises StoreUnavailable."""
        try:
            job = await self._door.job(identity, chat_id)
        except (NotFound, Gone):
            return None
        return job if job.settled_at is None or time.time() - job.settled_at <= GRACE else None


def checked(given: object) -> ChatBody:
    """Raises InvalidArgument, naming the field."""
    try:
        return msgspec.convert(given, ChatBody)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"the message is not valid: {error}") from error


def _key(body: ChatBody) -> str | None:
    """A turn that was sent twice is one: a message of the user has an id of its own. One that was changed and sent
    again keeps its id, and names itself: that is a new turn."""
    last = body.messages[-1]
    if body.trigger != "submit-message" or body.message_id is not None or last.role != "user" or not last.id:
        return None
    short = len(last.id) <= 200 and last.id.isascii() and last.id.isprintable()
    return f"message:{last.id if short else hashlib.sha256(last.id.encode()).hexdigest()}"


def _continued(body: ChatBody) -> Continued:
    """A turn that begins at a message of the assistant goes on with it, as after an approval or a client's own tool."""
    named = [one for one in body.messages if one.id and one.id == body.message_id]
    message = named[-1] if named else body.messages[-1]
    if body.trigger != "submit-message" or message.role != "assistant" or not message.id:
        return Continued()
    calls = {
        call_id: Tool(name, [arguments], "known", dynamic=dynamic)
        for call_id, (name, arguments, dynamic) in open_calls(message).items()
    }
    return Continued(message.id, calls)


class _Routes:
    def __init__(self, door: Door, chat: Chat) -> None:
        self._door = door
        self._chat = chat

    async def send(self, request: Request) -> Response:
        identity = await self._door.identify(request)
        body: ChatBody = await self._door.body(request, ChatBody)
        return await self._follow(await self._chat.send(identity, body, request.headers.get("idempotency-key")), 0)

    async def resume(self, request: Request) -> Response:
        identity = await self._door.identify(request)
        name, index = request.path_params["chat_id"], request.query_params.get("startIndex")
        if index is None:
            job = await self._chat.latest(identity, name)
            return Response(status_code=204) if job is None else await self._follow(job, 0)
        job = await self._job(identity, name)
        position = whole("startIndex", index.removeprefix("-"), refusal=BadRequest)
        if not index.startswith("-"):
            return await self._follow(job, position)
        count = (await self._door.project(job, UIMessageStream)).count
        return await self._follow(job, max(count - position, 0), {"x-workflow-stream-tail-index": str(count - 1)})

    async def _job(self, identity: Identity, name: str) -> Job:
        """The generation that a run's id names; the last one of a chat, where it is none. Raises NotFound, Gone."""
        run = _RUN.fullmatch(name)
        if run is None:
            return await self._door.job(identity, name)
        job = await self._door.job(identity, run[2], int(run[1]))
        if run_id(job) != name:
            raise NotFound("the run is of a log that is lost; another one has its number")
        return job

    async def stop(self, request: Request) -> Response:
        identity = await self._door.identify(request)
        body: StopBody = await self._door.body(request, StopBody, StopBody())
        chat_id = request.path_params["chat_id"]
        job = await self._door.job(identity, chat_id)
        if body.active_stream_id in (None, run_id(job)):
            await self._door.stop(identity, chat_id, job.generation)
        return json_response({"success": True})

    async def _follow(self, job: Job, position: int, headers: dict[str, str] | None = None) -> Response:
        named = {**_HEADERS, "x-workflow-run-id": run_id(job), **(headers or {})}
        return await self._door.follow(job, UIMessageStream, position, headers=named)
