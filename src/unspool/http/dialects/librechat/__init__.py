"""The wire of LibreChat's resumable streams, so that its client works: two requests, one to start and one to follow.

The stream's id is the conversation's. LibreChat keeps the conversation in its own database, and so must an application
that speaks this: a run is given the user's message, and all else that the client said in `StartRequest.parameters`.
"""

from __future__ import annotations

import uuid
from typing import Any, Final, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from unspool import projecting
from unspool.errors import BadRequest, Gone, NotFound, UnspoolError
from unspool.http.dialects.librechat.projection import NO_PARENT, LibreChat, user_message
from unspool.http.dialects.values import as_object
from unspool.http.door import Door, json_response
from unspool.http.origins import guard
from unspool.http.problem import Handler, answering, refusal_headers
from unspool.http.requests import StartRequest, whole
from unspool.http.stream import ProjectedStream

_NEW: Final = frozenset({None, "", "new", "null"})


class ChatBody(msgspec.Struct):
    """What the client posts. All else that it says is handed to the run."""

    text: str = ""
    messageId: str | None = None  # noqa: N815
    parentMessageId: str | None = None  # noqa: N815
    overrideParentMessageId: str | None = None  # noqa: N815
    responseMessageId: str | None = None  # noqa: N815
    conversationId: str | None = None  # noqa: N815
    clientRequestId: str | None = None  # noqa: N815
    model: str | None = None


class AbortBody(msgspec.Struct):
    """Which answer: any one of the three. `abortKey`: the stream's id, a colon, a message's id."""

    streamId: str | None = None  # noqa: N815
    conversationId: str | None = None  # noqa: N815
    abortKey: str | None = None  # noqa: N815


def routes(door: Door) -> list[BaseRoute]:
    """The routes of this dialect."""
    door.keep(LibreChat)
    served = _Chat(door)
    base = "/api/agents/chat"
    routes = [
        Route(
            f"{base}/stream/{{stream_id:path}}", _told(served.follow), methods=["GET"], name="unspool.librechat.follow"
        ),
        Route(f"{base}/active", _told(served.active), methods=["GET"], name="unspool.librechat.active"),
        Route(
            f"{base}/status/{{stream_id:path}}", _told(served.status), methods=["GET"], name="unspool.librechat.status"
        ),
        Route(f"{base}/abort", _told(served.abort), methods=["POST"], name="unspool.librechat.abort"),
        Route(base, _told(served.start), methods=["POST"], name="unspool.librechat.start"),
        Route(f"{base}/{{endpoint}}", _told(served.start), methods=["POST"], name="unspool.librechat.endpoint"),
    ]
    return [*guard(routes, door.allowed_origins, _error_response)]


class _Chat:
    def __init__(self, door: Door) -> None:
        self._door = door

    async def start(self, request: Request) -> Response:
        identity = await self._door.identify(request)
        said: dict[str, Any] = await self._door.body(request, dict[str, Any])
        try:
            body = msgspec.convert(said, ChatBody)
        except msgspec.ValidationError as error:
            raise BadRequest(f"the body is not valid: {error}") from error
        stream_id = str(uuid.uuid4()) if body.conversationId in _NEW else str(body.conversationId)
        asked = user_message(
            body.messageId, body.overrideParentMessageId or body.parentMessageId or NO_PARENT, body.text
        )
        model = body.model or as_object(said.get("endpointOption")).get("model")
        details = StartRequest(
            stream_id, [{"role": "user", "content": body.text}], model, None, None, {}, "librechat", said
        )
        key = request.headers.get("idempotency-key") or body.clientRequestId or body.messageId
        known = {"message": asked, "responseMessageId": body.responseMessageId, "model": model}
        metadata = {
            "conversation_id": stream_id, "endpoint": request.path_params.get("endpoint") or said.get("endpoint"),
            "model": model, "response_id": body.responseMessageId,
            "user_message": {"id": asked["messageId"], "parent_id": asked["parentMessageId"], "text": body.text},
        }  # fmt: skip
        job = await self._door.start(identity, details, request_id=key, metadata=metadata, request=known)
        status = "resumed" if job.attached else "started"
        return json_response({"streamId": stream_id, "conversationId": stream_id, "status": status})

    async def follow(self, request: Request) -> Response:
        identity = await self._door.identify(request)
        stream_id = request.path_params["stream_id"]
        try:
            job = await self._door.job(identity, stream_id)
        except (NotFound, Gone):
            missing = {"error": "Stream not found", "message": "The generation job does not exist or has expired."}
            return json_response(missing, 404)
        position = position_of(request.headers.get("last-event-id", ""))
        if position is not None and position.stamp == job.stamp:
            return await self._door.follow(job, LibreChat, position.frames)
        if position is None and request.query_params.get("resume") != "true":
            return await self._door.follow(job, LibreChat)
        standing = await projecting.project(self._door.manager.replica, job, LibreChat, terminal=False)
        projected = await projecting.attach_at(self._door.manager.replica, job, standing)
        return ProjectedStream(projected._replace(first=standing.sync()), options=self._door.stream_options)

    async def active(self, request: Request) -> Response:
        identity = await self._door.identify(request)
        jobs = await self._door.manager.active(**identity.owner())
        return json_response({"activeJobIds": [job.stream_id for job in jobs]})

    async def status(self, request: Request) -> Response:
        identity = await self._door.identify(request)
        try:
            job = await self._door.job(identity, request.path_params["stream_id"])
            standing = await self._door.project(job, LibreChat)
        except (NotFound, Gone):
            return json_response({"active": False})
        state = standing.state()
        answer = {
            "active": not job.settled,
            "streamId": job.stream_id,
            "status": job.status,
            "aggregatedContent": state["aggregatedContent"],
            "createdAt": int(job.created_at * 1000),
            "resumeState": state,
        }
        return json_response(answer)

    async def abort(self, request: Request) -> Response:
        identity = await self._door.identify(request)
        body: AbortBody = await self._door.body(request, AbortBody, AbortBody())
        key = body.abortKey.partition(":")[0] if body.abortKey else None
        stream_id = body.streamId or key or body.conversationId
        if not stream_id:
            active = await self._door.manager.active(**identity.owner())
            if len(active) == 1:  # a chat that is so new that the client does not know its id
                stream_id = active[0].stream_id
        if not stream_id:
            raise BadRequest("one of streamId, conversationId and abortKey is needed", field="streamId")
        try:
            job = await self._door.job(identity, stream_id)
        except (NotFound, Gone):
            return json_response({"error": "Job not found", "streamId": stream_id}, 404)
        await self._door.stop(identity, stream_id, job.generation)
        return json_response({"success": True, "aborted": stream_id})


def _error_response(error: UnspoolError) -> Response:
    """The response for an error, as this client reads it: the sentence in `error` and in `message`."""
    body = {"error": error.message, "message": error.message, "code": error.code, **error.details}
    return json_response(body, error.status, refusal_headers(error.status))


class Position(NamedTuple):
    """A client's position: the `stamp` of its generation, and the frames of it that the client has."""

    stamp: str
    frames: int


def position_of(given: str) -> Position | None:
    """The position that an event's id stands for; None without one. Raises BadRequest."""
    if not given:
        return None
    stamp, _, last = given.rpartition("-")
    return Position(stamp, whole("Last-Event-ID", last, refusal=BadRequest))


def _told(handler: Handler) -> Handler:
    return answering(handler, _error_response)
