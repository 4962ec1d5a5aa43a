"""What OpenAI's APIs have in common: errors in their shape, models, repeated requests, waiting for the end."""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
from collections.abc import Iterable
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from unspool.errors import BadRequest, GenerationConflict, NotFound, UnspoolError, ViewerReleased
from unspool.http.auth import Identity
from unspool.http.door import Door, json_response
from unspool.http.origins import guard
from unspool.http.problem import Handler, refusal_headers
from unspool.http.problem import answering as shaped
from unspool.http.requests import StartRequest
from unspool.jobs import Job

Json = dict[str, Any]

_TYPES: Final = {401: "authentication_error", 402: "insufficient_quota", 409: "conflict_error", 429: "rate_limit_error"}
_CODES: Final = {401: "invalid_api_key", 402: "insufficient_quota", 409: "conflict"}
_FIELD: Final = re.compile(r"at `\$\.([\w.\[\]]+)`")
_RUN_FAILED: Final = {"rate_limited": 429, "invalid_request": 400, "context_length": 400, "unknown_model": 404}
_METADATA: Final = 16
_COUNTED: Final = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")


def error_response(error: UnspoolError) -> Response:
    """The response for an error, as OpenAI's clients know it."""
    status = 400 if error.status == 422 else error.status
    headers = refusal_headers(status)
    if status == 409 or error.details.get("final"):
        headers["x-should-retry"] = "false"  # the clients would send it again, and it would be refused again
    found = _FIELD.search(error.message)
    param = error.details.get("field") or (found[1] if found else None)
    code = error.details.get("code") or _CODES.get(status) or error.code
    told = {"message": error.message, "type": _type(status), "param": param, "code": code}
    return json_response({"error": told}, status, headers)


def failed_response(failure: Json, *, retryable: bool, headers: dict[str, str]) -> Response:
    """The response for a run that failed, to one who waited for its end."""
    status = _RUN_FAILED.get(failure["code"], 500)
    retry = {"x-should-retry": "true" if retryable else "false"}
    return json_response({"error": {**failure, "type": _type(status)}}, status, {**headers, **retry})


def _type(status: int) -> str:
    return _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")


def answering(handler: Handler) -> Handler:
    """A handler whose UnspoolErrors become errors in OpenAI's shape."""
    return shaped(handler, error_response)


def guarded(door: Door, routes: Iterable[BaseRoute]) -> list[BaseRoute]:
    """The routes behind the check of origins, which refuses in OpenAI's shape."""
    return guard(routes, door.allowed_origins, error_response)


T = TypeVar("T")


async def body_of(door: Door, request: Request, kind: type[T]) -> tuple[Json, T]:
    """A request's body whole, and the fields of it that mean something here. Raises BadRequest."""
    given: Json = await door.body(request, Json)
    try:
        return given, msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        raise BadRequest(f"the request is not valid: {error}") from error


def model_routes(door: Door) -> list[BaseRoute]:
    """The list of models, which clients of both APIs ask for."""

    async def listed(request: Request) -> Response:
        await door.identify(request)
        return json_response({"object": "list", "data": [_model(name) for name in door.models]})

    async def one(request: Request) -> Response:
        await door.identify(request)
        name = request.path_params["model"]
        if name not in door.models:
            raise NotFound(f"The model '{name[:80]}' does not exist.", field="model", code="model_not_found")
        return json_response(_model(name))

    return [
        Route("/v1/models", answering(listed), methods=["GET"], name="unspool.models"),
        Route("/v1/models/{model:path}", answering(one), methods=["GET"], name="unspool.model"),
    ]


def _model(name: str) -> Json:
    return {"id": name, "object": "model", "created": 0, "owned_by": "unspool"}


class Created(NamedTuple):
    """A stream id for a request, and what makes a second one like it attach, where it has a key."""

    stream_id: str
    request_id: str | None


def name_of(request: Request, identity: Identity, prefix: str, body: Json) -> Created:
    """The stream that a POST starts. With `Idempotency-Key` it follows from the owner and the key, and the request id
    from the body, so that a repeated POST attaches, and another one with the same key finds the place taken."""
    key = request.headers.get("idempotency-key")
    if not key:
        return Created(f"{prefix}{secrets.token_hex(24)}", None)
    asked = {name: value for name, value in body.items() if name not in ("stream", "stream_options")}
    stream_id = f"{prefix}{_digest([identity.tenant, identity.user, key])}"
    return Created(stream_id, _digest(asked))


def _digest(value: object) -> str:
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()[:48]


def metadata_of(given: Json | None, model: str | None, conversation: str | None = None) -> Json:
    """A job's metadata. Raises BadRequest for what OpenAI does not take."""
    if given is not None and (len(given) > _METADATA or not all(isinstance(value, str) for value in given.values())):
        raise BadRequest(f"metadata must be up to {_METADATA} strings by name", field="metadata")
    known = {"extra": given or None, "model": model, "conversation_id": conversation}
    return {name: value for name, value in known.items() if value is not None}


async def start(door: Door, identity: Identity, details: StartRequest, created: Created, kept: Json) -> Job:
    """Start what was asked for, or attach to it. Raises what `Door.start` raises."""
    try:
        return await door.start(
            identity,
            details,
            request_id=created.request_id,
            expect_generation=None if created.request_id is None else 0,
            metadata=details.metadata,
            request=kept,
        )
    except GenerationConflict as error:
        if created.request_id is None:
            raise
        raise GenerationConflict(
            "this Idempotency-Key was used before, with another request or for one that is not kept any more",
            code="idempotency_key_reused",
        ) from error


def headers_of(job: Job) -> dict[str, str]:
    """Under what name the native dialect, and every other one, follows this generation."""
    return {"x-unspool-stream": job.stream_id, "x-unspool-generation": str(job.generation)}


async def ended(door: Door, identity: Identity, job: Job, request: Request) -> Job | None:
    """The job once it is sealed; None when the client has gone. Raises ViewerReleased, NotFound, Gone."""
    gone = asyncio.ensure_future(_gone(request))
    end = asyncio.ensure_future(_end(door, job))
    try:
        await asyncio.wait((gone, end), return_when=asyncio.FIRST_COMPLETED)
        if not end.done():
            return None
        try:
            end.result()
        except ViewerReleased as error:
            # Sent again it would be a second generation, unless it has a key by which it attaches.
            final = not request.headers.get("idempotency-key")
            message = f"this server is shutting down; {job.stream_id} is there to be followed elsewhere"
            raise ViewerReleased(message, final=final) from error
        return await door.job(identity, job.stream_id, job.generation)
    finally:
        for task in (gone, end):
            task.cancel()
        await asyncio.gather(gone, end, return_exceptions=True)


async def _end(door: Door, job: Job) -> None:
    tail = await door.manager.replica.tail(job.key, job)
    async with door.manager.replica.attach(tail, job, job.last_offset, snapshot=False) as viewer:
        while await viewer.records() is not None:
            pass


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def add_usage(total: dict[str, int], data: Json) -> None:
    """Add one model call's usage to what came before."""
    for name in _COUNTED:
        if isinstance(data.get(name), int):
            total[name] = total.get(name, 0) + data[name]


def usage_of(total: dict[str, int], asked: str, answered: str) -> Json | None:
    """The sums in OpenAI's words, of which its APIs have different ones for what goes in and what comes out; None where
    nothing is known."""
    if not total:
        return None
    tokens = dict.fromkeys(_COUNTED, 0) | total
    return {
        f"{asked}_tokens": tokens["input_tokens"],
        f"{asked}_tokens_details": {
            "cached_tokens": tokens["cache_read_tokens"],
            "cache_write_tokens": tokens["cache_write_tokens"],
        },
        f"{answered}_tokens": tokens["output_tokens"],
        f"{answered}_tokens_details": {"reasoning_tokens": tokens["reasoning_tokens"]},
        "total_tokens": tokens["input_tokens"] + tokens["output_tokens"],
    }
