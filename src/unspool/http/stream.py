"""The streaming response: where a client wants to begin, and what it is answered. How it is served: see `pump.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from starlette.datastructures import QueryParams
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from unspool.errors import BadRequest, InvalidPosition, UnspoolError
from unspool.http.problem import problem
from unspool.http.pump import DEFAULTS, LINK, StreamOptions, cut, pump
from unspool.http.requests import whole
from unspool.jobs import Job, User
from unspool.manager import GenerationManager
from unspool.projecting import Projected
from unspool.sse import HEADERS, KEEP_ALIVE, native_frame
from unspool.viewer import Viewer

_NONE: Final[Mapping[str, str]] = {}
LOG_HEADER: Final = b"x-unspool-log"
"""Names the log that a response follows; a client that comes back says it in `?log=`."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a client wants to begin. `generation` None: the stream's last; `after` as an offset there."""

    generation: int | None = None
    after: int = 0
    snapshot: bool = False
    claimed: int | None = None
    """The generation that the client's event id names."""
    log: str = ""
    """The log that it was following: see `Job.log`."""


def position_of(headers: Mapping[str, str], query: QueryParams) -> Position:
    """From `Last-Event-ID`, else `?after=`, else the first record. Raises BadRequest, naming the field."""
    generation = whole("generation", query["generation"], 1, refusal=BadRequest) if "generation" in query else None
    snapshot = _flag("snapshot", query.get("snapshot", "0"))
    log = query.get("log", "")
    token, field = headers.get("last-event-id", ""), "Last-Event-ID"
    if not token:
        token, field = query.get("after", "0"), "after"
    claimed, dash, offset = token.partition("-")
    if not dash:
        return Position(generation, _offset(field, token), snapshot, log=log)
    return Position(generation, _offset(field, offset), snapshot, _offset(field, claimed), log)


def _offset(field: str, value: str) -> int:
    form = "an offset, or a generation, a dash and an offset"
    return whole(field, value, refusal=BadRequest, form=form)


def _flag(field: str, value: str) -> bool:
    if value not in ("0", "1", "true", "false"):
        raise BadRequest(f"{field} must be 1 or 0, not {value[:40]!r}", field=field)
    return value in ("1", "true")


class EventStream(Response):
    """A response that follows a stream: return it from a route of your own.

    The position comes from the request. `user` and `tenant` are checked as everywhere; errors become problem JSON.
    """

    def __init__(
        self,
        manager: GenerationManager,
        stream_id: str,
        request: HTTPConnection,
        *,
        user: User = None,
        tenant: str | None = None,
        options: StreamOptions = DEFAULTS,
    ) -> None:
        super().__init__()
        self.raw_headers = list(HEADERS)
        self._manager = manager
        self._stream_id = stream_id
        self._request = request
        self._user: User = user
        self._tenant = tenant
        self._options = options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            viewer = await self._attach()
        except UnspoolError as error:
            if error.status == 503 and "last-event-id" in self._request.headers:
                await self._hold_off(scope, send, error)
            else:
                await problem(error)(scope, receive, send)
            return
        if viewer is None:
            await Response(status_code=204)(scope, receive, send)
            return
        await pump(viewer, native_frame, scope, receive, send, self.raw_headers, self._options)

    async def _hold_off(self, scope: Scope, send: Send, error: UnspoolError) -> None:
        """An EventSource gives up for good on any status but 200 (WHATWG HTML, 9.2): whoever resumes while the store is
        away, or this replica is going, is cut off instead, and comes again."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": KEEP_ALIVE, "more_body": True})
        await cut(scope.get("extensions", {}).get(LINK), send, error, self._options.send_timeout)

    async def _attach(self) -> Viewer | None:
        """The viewer that the request asks for; None when there is nothing to come at its position."""
        position = position_of(self._request.headers, self._request.query_params)
        job = await self._manager.job(
            self._stream_id, user=self._user, tenant=self._tenant, generation=position.generation
        )
        if position.claimed is not None and position.claimed != job.generation:
            raise InvalidPosition(
                f"the position is of generation {position.claimed}; the stream is at generation {job.generation}",
                generation=job.generation, first_offset=job.first_offset, last_offset=job.last_offset,
            )  # fmt: skip
        if position.log and job.log and position.log != job.log:
            raise InvalidPosition(
                f"the log that was followed is lost; generation {job.generation} of the stream is another one now",
                generation=job.generation, first_offset=job.first_offset, last_offset=job.last_offset,
            )  # fmt: skip
        if _finished(job, position):
            return None
        if job.log:
            self.raw_headers.append((LOG_HEADER, job.log.encode()))
        return await self._manager.view(
            self._stream_id, user=self._user, tenant=self._tenant, after=position.after,
            generation=job.generation, snapshot=position.snapshot,
        )  # fmt: skip


def _finished(job: Job, position: Position) -> bool:
    # A browser's EventSource reconnects after every end, and only this answer makes it stop.
    return job.settled and not position.snapshot and position.after == job.last_offset


class ProjectedStream(Response):
    """A response that follows a log through a projection, from where `projecting.attach` has begun. `over` is called
    when it has ended, however that came."""

    def __init__(
        self,
        projected: Projected[Any],
        *,
        headers: Mapping[str, str] = _NONE,
        options: StreamOptions = DEFAULTS,
        over: Callable[[], None] | None = None,
    ) -> None:
        super().__init__()
        self.raw_headers = [*HEADERS, *((name.encode(), value.encode("latin-1")) for name, value in headers.items())]
        self._projected = projected
        self._options = options
        self._over = over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        viewer, encode, first = self._projected
        await pump(viewer, encode, scope, receive, send, self.raw_headers, self._options, first, self._over)
