"""The door: what every dialect asks of the server: who is it, start this, follow that, stop it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import replace
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from unspool import projecting, starting
from unspool.http.auth import Authenticate, Identity, identify
from unspool.http.origins import origins_of, refuse_foreign
from unspool.http.pump import DEFAULTS, StreamOptions
from unspool.http.requests import MAX_APPEND, MAX_BODY, StartRequest, body_of
from unspool.http.stream import ProjectedStream
from unspool.jobs import Job, Owner
from unspool.manager import GenerationManager
from unspool.outcomes import AbortOutcome
from unspool.producer import Generation
from unspool.projection import REQUEST, P, Projection

Answer = Callable[[Generation, StartRequest], Awaitable[object]]
"""The application's own run: what a POST starts."""

_NONE: Final[Mapping[str, str]] = {}


class Door:
    """A manager, the application's run, and how callers are told apart: what the routes of all dialects share."""

    def __init__(
        self,
        manager: GenerationManager,
        run: Answer,
        *,
        resumable: str | None = None,
        authenticate: Authenticate | None = None,
        account: str | None = None,
        stream_options: StreamOptions = DEFAULTS,
        max_body: int | None = None,
        models: Sequence[str] = (),
        allowed_origins: Collection[str] = (),
    ) -> None:
        self.manager = manager
        self.allowed_origins = origins_of(allowed_origins)
        self.models = models
        self.stream_options = stream_options
        self.max_body = MAX_BODY if max_body is None else max_body
        self.max_append = MAX_APPEND if max_body is None else max_body
        self._run = run
        self._kinds: dict[str, type[Projection]] = {}
        self._resumable = resumable
        if resumable is not None:
            manager.register(resumable, self._resume)
        self.authenticate = authenticate
        self._account = account

    async def identify(self, request: HTTPConnection) -> Identity:
        """Who asks, and who pays. Raises Unauthenticated."""
        found = await identify(self.authenticate, request)
        return found if found.account is not None else found._replace(account=self._account)

    def refuse_foreign(self, request: HTTPConnection) -> None:
        """For a GET that changes something; all else is checked before it comes here. Raises ForeignOrigin."""
        refuse_foreign(request, self.allowed_origins)

    async def body(self, request: Request, kind: type[Any], default: Any = None) -> Any:
        """The request's body as this type. Raises what `body_of` raises."""
        return await body_of(request, kind, limit=self.max_body, default=default)

    async def start(
        self,
        identity: Identity,
        details: StartRequest,
        *,
        request_id: str | None = None,
        expect_generation: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        request: Mapping[str, Any] | None = None,
    ) -> Job:
        """Start what was asked for; answers at once. Raises what `GenerationManager.start` raises.

        `request`: what the dialect's projection must know of it. It becomes the log's first record, an internal one.
        """
        details = replace(details, user=identity.user, tenant=identity.tenant)
        kept = dict(request) if request is not None else None

        async def run(generation: Generation) -> object:
            return await self._begin(generation, details, kept)

        named: dict[str, Any] = {}
        if self._resumable is not None:
            args = {"details": msgspec.to_builtins(details), "request": kept}
            named = {"args": args, "on_owner_lost": "resume"}
        return await self.manager.start(
            details.stream_id,
            self._resumable or run,
            **named,
            user=identity.user,
            tenant=identity.tenant,
            request_id=request_id,
            expect_generation=expect_generation,
            metadata=metadata,
            account=self._payer(identity),
        )

    async def check(self, identity: Identity, stream_id: str) -> None:
        """Raise what would refuse a start as things are: a refusal changes nothing, so who must stop something before
        they can start asks first."""
        owner = Owner(identity.user, identity.tenant)
        await starting.check(self.manager.replica, stream_id, owner, self._payer(identity))

    async def attached(self, identity: Identity, stream_id: str, request_id: str) -> Job | None:
        """The generation that a start under this request id would attach to. Raises NotFound for another's stream."""
        owner = Owner(identity.user, identity.tenant)
        return await starting.attached(self.manager.replica, stream_id, owner, request_id)

    def _payer(self, identity: Identity) -> str | None:
        return identity.account if self.manager.billing.ledger is not None else None

    async def _begin(self, generation: Generation, details: StartRequest, request: dict[str, Any] | None) -> object:
        kind = self._kinds.get(details.dialect)
        if kind is not None:
            await projecting.keep(self.manager.replica, generation.key, kind)
        if request is not None and generation.attempt == 1:
            await generation.emit(REQUEST, request, internal=True)
        return await self._run(generation, details)

    async def _resume(self, generation: Generation, args: dict[str, Any]) -> object:
        return await self._begin(generation, msgspec.convert(args["details"], StartRequest), args["request"])

    async def job(self, identity: Identity, stream_id: str, generation: int | None = None) -> Job:
        """Raises NotFound, also for what is another's, and Gone."""
        return await self.manager.job(stream_id, generation=generation, **identity.owner())

    async def stop(self, identity: Identity, stream_id: str, generation: int | None = None) -> AbortOutcome:
        """Stop it, and answer once it is sealed."""
        return await self.manager.abort(stream_id, generation=generation, **identity.owner())

    async def follow(
        self, job: Job, kind: type[P], position: int = 0, *, headers: Mapping[str, str] = _NONE
    ) -> Response:
        """A stream of this dialect, from its own position on. Raises InvalidPosition, Gone, NotFound, ShuttingDown."""
        projected = await projecting.attach(self.manager.replica, job, kind, position)
        return ProjectedStream(projected, headers=headers, options=self.stream_options)

    async def project(self, job: Job, kind: type[P]) -> P:
        """Where a dialect stands after the log's last record."""
        return await projecting.project(self.manager.replica, job, kind)

    def keep(self, *kinds: type[Projection]) -> None:
        """Generations that are started in these dialects can be followed in them also where their logs were trimmed."""
        self._kinds.update({kind.name: kind for kind in kinds})


def json_response(body: object, status: int = 200, headers: Mapping[str, str] = _NONE) -> Response:
    """JSON that nobody may keep."""
    return Response(
        msgspec.json.encode(body), status, {"cache-control": "no-store", **headers}, media_type="application/json"
    )
