"""The native dialect's routes: start, follow, status, abort, list."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from importlib.util import find_spec
from typing import Any, Final
from urllib.parse import quote

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from unspool.errors import Gone, InvalidArgument, UnspoolError
from unspool.http.accounts import account_routes
from unspool.http.auth import Authenticate
from unspool.http.dialects import dialect_routes
from unspool.http.door import Answer, Door, json_response
from unspool.http.origins import guard
from unspool.http.problem import answering, problem
from unspool.http.pump import DEFAULTS, StreamOptions
from unspool.http.requests import AbortBody, StartBody, StartRequest, body_of, whole
from unspool.http.stream import EventStream
from unspool.jobs import Job, Status, check_id
from unspool.manager import GenerationManager
from unspool.outcomes import AlreadySettled, SaveFailed, Stopped, Unknown
from unspool.resume import resume_state

_OUTCOMES: Final = {Stopped: "stopped", AlreadySettled: "already_settled", SaveFailed: "save_failed"}
_LISTED: Final = 100
_READ: Final = ("/events", "/usage")
"""What is read of a stream beside its status, at the end of its URL."""


def router(
    manager: GenerationManager,
    *,
    run: Answer,
    dialects: Collection[str] | None = None,
    resumable: str | None = None,
    authenticate: Authenticate | None = None,
    account: str | None = None,
    stream_options: StreamOptions = DEFAULTS,
    max_body: int | None = None,
    models: Sequence[str] = (),
    allowed_origins: Collection[str] = (),
) -> Router:
    """The routes of the native dialect and of others, to mount or include in a Starlette or FastAPI application.

    `run` is what a POST starts. `authenticate` gets each request and answers the user's id, an Identity, or None for
    401; without it every caller is the same nobody: only for a server that nobody else can reach. `stream_options`:
    heart-beats and time-outs of streams. `max_body`: bytes above which a request is refused (None: 1 MiB, and 16 MiB
    for one append to a durable stream). `models`: names of those that `run` knows, for clients that ask for a list.
    `allowed_origins`: origins beside the server's own whose pages may start, stop and delete, and open sockets ("*":
    any); a page of another one is refused with 403. Those pages need CORS as well, which is the application's.

    `dialects`: names of `unspool.http.DIALECTS` (None: all of them); the native one is always there.

    `resumable`: a name under which a replica that mounts the same goes on with a run whose process died: `run` is
    called again, with the same request, the content so far in `Generation.snapshot`, and `Generation.attempt` above 1.
    """
    door = Door(
        manager, run, resumable=resumable, authenticate=authenticate, account=account, stream_options=stream_options,
        max_body=max_body, models=models, allowed_origins=allowed_origins,
    )  # fmt: skip
    return router_of(door, dialects)


def router_of(door: Door, dialects: Collection[str] | None) -> Router:
    """The same over a door."""
    routes = [*_Native(door).routes(), *dialect_routes(door, dialects)]
    return _router_class()(routes=guard(routes, door.allowed_origins))


def _router_class() -> type[Router]:
    # FastAPI includes only routers of its own class; that class is a Starlette router as well.
    if find_spec("fastapi") is None:
        return Router
    from fastapi import APIRouter

    return APIRouter


class _Native:
    def __init__(self, door: Door) -> None:
        self._door = door
        self._manager = door.manager

    def routes(self) -> list[Route]:
        one = "/v1/streams/{stream_id:path}"
        ledger = self._manager.billing.ledger
        money = [] if ledger is None else account_routes(self._manager, ledger, self._door.identify)
        return [
            *money,
            Route("/v1/streams", answering(self.list), methods=["GET"], name="unspool.list"),
            Route(f"{one}/generations", answering(self.start), methods=["POST"], name="unspool.start"),
            Route(f"{one}/events", _Follow(self), methods=["GET"], name="unspool.follow"),
            Route(f"{one}/abort", answering(self.abort), methods=["POST"], name="unspool.abort"),
            Route(one, answering(self.status), methods=["GET"], name="unspool.status"),
        ]

    async def start(self, request: Request) -> Response:
        identity = await self._door.identify(request)
        body = await body_of(request, StartBody, limit=self._door.max_body)
        key = request.headers.get("idempotency-key")
        if key is not None:
            check_id("Idempotency-Key", key)
        stream_id = request.path_params["stream_id"]
        if stream_id.endswith(_READ):
            raise InvalidArgument(
                f"stream_id must not end with {' or '.join(_READ)}: the URL of its status would be of another stream",
                field="stream_id",
            )
        details = StartRequest(
            stream_id,
            msgspec.to_builtins(body.messages),
            body.model,
            identity.user,
            identity.tenant,
            body.metadata or {},
        )

        job = await self._door.start(
            identity,
            details,
            request_id=key if body.request_id is None else body.request_id,
            expect_generation=body.expect_generation,
            metadata=body.metadata,
        )
        prefix = quote(request.scope["path"].removesuffix(f"/{stream_id}/generations"))
        answer = {
            "stream_id": job.stream_id,
            "generation": job.generation,
            "status": job.status,
            "events_url": f"{prefix}/{quote(stream_id, safe='')}/events?generation={job.generation}&log={job.log}",
        }
        return json_response(answer, 200 if job.attached else 201)

    async def follow(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            identity = await self._door.identify(request)
        except UnspoolError as error:
            await problem(error)(scope, receive, send)
            return
        stream = EventStream(
            self._manager, request.path_params["stream_id"], request,
            user=identity.user, tenant=identity.tenant, options=self._door.stream_options,
        )  # fmt: skip
        await stream(scope, receive, send)

    async def status(self, request: Request) -> Response:
        identity = await self._door.identify(request)
        generation = _whole(request, "generation")
        stream_id = request.path_params["stream_id"]
        job = await self._manager.job(stream_id, generation=generation, **identity.owner())
        snapshot = await self._manager.snapshot(stream_id, generation=job.generation, **identity.owner())
        state = msgspec.to_builtins(resume_state(job, snapshot))
        return json_response({**_summary(job), **state, "first_offset": job.first_offset})

    async def abort(self, request: Request) -> Response:
        identity = await self._door.identify(request)
        body = await body_of(request, AbortBody, limit=self._door.max_body, default=AbortBody())
        stream_id = request.path_params["stream_id"]
        job = await self._manager.job(stream_id, generation=body.generation, **identity.owner())
        outcome = await self._manager.abort(
            stream_id, generation=job.generation, reason=body.reason, **identity.owner()
        )
        if isinstance(outcome, Unknown):
            raise Gone(generation=job.generation)
        answer = {
            "outcome": _OUTCOMES[type(outcome)],
            "stream_id": outcome.job.stream_id,
            "generation": outcome.job.generation,
            "status": outcome.job.status,
            "content": outcome.content,
            "text": outcome.text,
            "usage": [entry for entry in outcome.usage if not entry.get("internal")],
            "final": {"type": outcome.final.type, **outcome.final.data} if outcome.final is not None else None,
        }
        return json_response(answer)

    async def list(self, request: Request) -> Response:
        identity = await self._door.identify(request)
        asked = request.query_params.get("status")
        if asked is not None and asked not in list(Status):
            raise InvalidArgument(f"status must be one of {', '.join(Status)}, not {asked[:40]!r}", field="status")
        limit = _whole(request, "limit") or _LISTED
        jobs = await self._manager.jobs(
            status=Status(asked) if asked else None, limit=min(limit, 1000), **identity.owner()
        )
        return json_response({"streams": [_summary(job) for job in jobs]})


class _Follow:
    """The follow route as a plain ASGI application: nothing of the framework stands between it and the socket."""

    def __init__(self, native: _Native) -> None:
        self._native = native

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._native.follow(scope, receive, send)


def _summary(job: Job) -> dict[str, Any]:
    ended = job.settled_at if job.settled_at is not None else time.time()
    return {
        "stream_id": job.stream_id,
        "generation": job.generation,
        "status": job.status,
        "active": not job.settled,
        "created_at": job.created_at,
        "elapsed": round(max(ended - job.created_at, 0.0), 3),
        "last_offset": job.last_offset,
        "user": job.user,
        "metadata": {name: value for name, value in msgspec.to_builtins(job.metadata).items() if value is not None},
    }


def _whole(request: Request, name: str) -> int | None:
    value = request.query_params.get(name)
    return None if value is None else whole(name, value, 1)
