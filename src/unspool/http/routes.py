"""The native dialect's routes: start, follow, status, abort, list."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
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
from unspool.http.auth import Authenticate, Identity, identify
from unspool.http.problem import answering, problem
from unspool.http.requests import MAX_BODY, AbortBody, StartBody, StartRequest, body_of
from unspool.http.stream import DEFAULTS, EventStream, StreamOptions
from unspool.jobs import Job, Status, check_id
from unspool.manager import GenerationManager
from unspool.outcomes import AlreadySettled, SaveFailed, Stopped, Unknown
from unspool.producer import Generation
from unspool.resume import resume_state

Answer = Callable[[Generation, StartRequest], Awaitable[object]]
"""The application's own run: what a POST starts."""

_OUTCOMES: Final = {Stopped: "stopped", AlreadySettled: "already_settled", SaveFailed: "save_failed"}
_LISTED: Final = 100


def router(
    manager: GenerationManager,
    *,
    run: Answer,
    resumable: str | None = None,
    authenticate: Authenticate | None = None,
    account: str | None = None,
    stream_options: StreamOptions = DEFAULTS,
    max_body: int = MAX_BODY,
) -> Router:
    """The native dialect over a manager, to mount or include in a Starlette or FastAPI application.

    `run` is what a POST starts. `authenticate` gets each request and answers the user's id, an Identity, or None for
    401; without it every caller is the same nobody: only for a server that nobody else can reach. `stream_options`:
    heart-beats and time-outs of streams. `max_body`: bytes above which a request is refused.

    `resumable`: a name under which a replica that mounts the same goes on with a run whose process died: `run` is
    called again, with the same request, the content so far in `Generation.snapshot`, and `Generation.attempt` above 1.
    """
    native = _Native(manager, run, resumable, authenticate, account, stream_options, max_body)
    return _router_class()(routes=native.routes())


def _router_class() -> type[Router]:
    # FastAPI includes only routers of its own class; that class is a Starlette router as well.
    if find_spec("fastapi") is None:
        return Router
    from fastapi import APIRouter

    return APIRouter


class _Native:
    def __init__(
        self,
        manager: GenerationManager,
        run: Answer,
        resumable: str | None,
        authenticate: Authenticate | None,
        account: str | None,
        stream_options: StreamOptions,
        max_body: int,
    ) -> None:
        self._manager = manager
        self._run = run
        self._resumable = resumable
        if resumable is not None:
            manager.register(resumable, self._resume)
        self._authenticate = authenticate
        self._account = account
        self._stream_options = stream_options
        self._max_body = max_body

    async def identify(self, request: Request) -> Identity:
        """Who asks, and who pays. Raises Unauthenticated."""
        found = await identify(self._authenticate, request)
        return found if found.account is not None else found._replace(account=self._account)

    def routes(self) -> list[Route]:
        one = "/v1/streams/{stream_id:path}"
        ledger = self._manager.billing.ledger
        money = [] if ledger is None else account_routes(self._manager, ledger, self.identify)
        return [
            *money,
            Route("/v1/streams", answering(self.list), methods=["GET"], name="unspool.list"),
            Route(f"{one}/generations", answering(self.start), methods=["POST"], name="unspool.start"),
            Route(f"{one}/events", _Follow(self), methods=["GET"], name="unspool.follow"),
            Route(f"{one}/abort", answering(self.abort), methods=["POST"], name="unspool.abort"),
            Route(one, answering(self.status), methods=["GET"], name="unspool.status"),
        ]

    async def start(self, request: Request) -> Response:
        identity = await self.identify(request)
        body = await body_of(request, StartBody, limit=self._max_body)
        key = request.headers.get("idempotency-key")
        if key is not None:
            check_id("Idempotency-Key", key)
        stream_id = request.path_params["stream_id"]
        details = StartRequest(
            stream_id,
            msgspec.to_builtins(body.messages),
            body.model,
            identity.user,
            identity.tenant,
            body.metadata or {},
        )

        async def run(generation: Generation) -> object:
            return await self._run(generation, details)

        named: dict[str, Any] = {}
        if self._resumable is not None:
            named = {"args": msgspec.to_builtins(details), "on_owner_lost": "resume"}
        job = await self._manager.start(
            stream_id,
            self._resumable or run,
            **named,
            user=identity.user,
            tenant=identity.tenant,
            request_id=key if body.request_id is None else body.request_id,
            expect_generation=body.expect_generation,
            metadata=body.metadata,
            account=identity.account if self._manager.billing.ledger is not None else None,
        )
        prefix = quote(request.scope["path"].removesuffix(f"/{stream_id}/generations"))
        answer = {
            "stream_id": job.stream_id,
            "generation": job.generation,
            "status": job.status,
            "events_url": f"{prefix}/{quote(stream_id, safe='')}/events?generation={job.generation}",
        }
        return _json(answer, 200 if job.attached else 201)

    async def _resume(self, generation: Generation, args: dict[str, Any]) -> object:
        return await self._run(generation, msgspec.convert(args, StartRequest))

    async def follow(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            identity = await self.identify(request)
        except UnspoolError as error:
            await problem(error)(scope, receive, send)
            return
        stream = EventStream(
            self._manager, request.path_params["stream_id"], request,
            user=identity.user, tenant=identity.tenant, options=self._stream_options,
        )  # fmt: skip
        await stream(scope, receive, send)

    async def status(self, request: Request) -> Response:
        identity = await self.identify(request)
        generation = _whole(request, "generation")
        stream_id = request.path_params["stream_id"]
        job = await self._manager.job(stream_id, generation=generation, **identity.owner())
        snapshot = await self._manager.snapshot(stream_id, generation=job.generation, **identity.owner())
        state = msgspec.to_builtins(resume_state(job, snapshot))
        return _json({**_summary(job), **state, "first_offset": job.first_offset})

    async def abort(self, request: Request) -> Response:
        identity = await self.identify(request)
        body = await body_of(request, AbortBody, limit=self._max_body, default=AbortBody())
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
        return _json(answer)

    async def list(self, request: Request) -> Response:
        identity = await self.identify(request)
        asked = request.query_params.get("status")
        if asked is not None and asked not in list(Status):
            raise InvalidArgument(f"status must be one of {', '.join(Status)}, not {asked[:40]!r}", field="status")
        limit = _whole(request, "limit") or _LISTED
        jobs = await self._manager.jobs(
            status=Status(asked) if asked else None, limit=min(limit, 1000), **identity.owner()
        )
        return _json({"streams": [_summary(job) for job in jobs]})


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
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) < 16 and int(value) > 0):
        raise InvalidArgument(f"{name} must be a whole number from 1, not {value[:40]!r}", field=name)
    return int(value)


def _json(body: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, {"cache-control": "no-store"}, media_type="application/json")
