"""The Durable Streams protocol (https://github.com/durable-streams/durable-streams), version 1.0.

`durable_routes` gives it under a prefix: streams that clients create, append to, read, follow, close, fork, delete, and
every generation as a stream that can be read: `{prefix}/generations/{stream_id}/{generation}`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from unspool.durable import Chunk, DurableOptions, DurableStreams, Live
from unspool.durable.subscriptions import Subscriptions
from unspool.errors import NotFound, UnspoolError
from unspool.http.auth import Authenticate, Identity, identify
from unspool.http.dialects.durable_generations import GenerationSource
from unspool.http.dialects.durable_live import EventStream, LiveOptions, Source, long_poll
from unspool.http.dialects.durable_subscriptions import RESERVED, SubscriptionRoutes
from unspool.http.dialects.durable_wire import (
    ALWAYS,
    EXPOSED,
    PREFLIGHT,
    Place,
    about,
    append_of,
    content_of,
    etag_of,
    is_known,
    lifetime,
    next_cursor,
    place_of,
    position,
    told,
    wish_of,
)
from unspool.http.door import Door
from unspool.http.origins import guard, origins_of
from unspool.http.problem import problem
from unspool.http.requests import MAX_APPEND, is_whole, received
from unspool.jobs import Owner
from unspool.manager import GenerationManager


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionOptions:
    """`signing_key`: the seed, 32 bytes, of the key that calls of webhooks are signed with, the same on all replicas;
    without it each process has one of its own. `local_webhooks`: also call what listens on this machine."""

    signing_key: bytes | None = None
    local_webhooks: bool = False


PREFIX: Final = "/v1/stream"

_GENERATIONS: Final = "generations/"


def routes(door: Door) -> list[BaseRoute]:
    """The routes of this dialect as every application has them: for pages of its own origin, without subscriptions."""
    live = LiveOptions(heartbeat=door.stream_options.heartbeat, send_timeout=door.stream_options.send_timeout)
    streams = DurableStreams(door.manager)
    dialect = _Dialect(door.manager, streams, PREFIX, door.authenticate, live, door.max_append, door.allowed_origins)
    return [_route(dialect, PREFIX)]


def durable_routes(
    manager: GenerationManager,
    *,
    prefix: str = PREFIX,
    authenticate: Authenticate | None = None,
    options: DurableOptions | None = None,
    live: LiveOptions | None = None,
    max_body: int = MAX_APPEND,
    allowed_origins: Collection[str] = (),
    subscriptions: SubscriptionOptions | None = None,
) -> list[Route]:
    """The dialect over a manager, for the routes of a Starlette application.

    `authenticate`: as for `unspool.http.router`. `allowed_origins`: those whose pages may call, "*" for any,
    beside this server's own. `max_body`: bytes above which an append is refused with 413. `subscriptions`: with
    the routes for them, which are 404 otherwise; needs the extra `webhooks`.
    """
    root, allowed = prefix.rstrip("/"), origins_of(allowed_origins)
    streams = DurableStreams(manager, options=options)
    dialect = _Dialect(manager, streams, root, authenticate, live or LiveOptions(), max_body, allowed)
    if subscriptions is not None:
        dialect.subscribe(subscriptions)
    return guard([_route(dialect, root)], allowed)


def _route(dialect: _Dialect, prefix: str) -> Route:
    return Route(f"{prefix}/{{path:path}}", dialect, name="unspool.durable_streams")


Verb = Callable[[Request, Identity, str], Awaitable[Response]]


class _Dialect:
    """One ASGI application for all verbs: answers to readers are written to the socket directly."""

    def __init__(
        self,
        manager: GenerationManager,
        streams: DurableStreams,
        prefix: str,
        authenticate: Authenticate | None,
        live: LiveOptions,
        max_body: int,
        allowed: Collection[str],
    ) -> None:
        self._manager = manager
        self._streams = streams
        self._prefix = prefix
        self._authenticate = authenticate
        self._live = live
        self._max_body = max_body
        self._allowed = allowed
        self._subscriptions: Subscriptions | None = None
        self._reserved: SubscriptionRoutes | None = None
        self._verbs: dict[str, Verb] = {"PUT": self.put, "POST": self.post, "HEAD": self.head, "DELETE": self.delete}

    def subscribe(self, options: SubscriptionOptions) -> None:
        """With subscriptions. Raises ConfigurationError without what they need."""

        async def owner(request: Request) -> Owner:
            return _owner(await identify(self._authenticate, request))

        self._subscriptions = Subscriptions(
            self._manager, self._streams, signing_key=options.signing_key, local_webhooks=options.local_webhooks
        )
        self._reserved = SubscriptionRoutes(self._subscriptions, owner, self._prefix)

    def _tell_subscribers(self, identity: Identity, path: str, number: int) -> None:
        # Nobody waits for that: the append is there, whatever becomes of it.
        if self._subscriptions is not None:
            self._manager.replica.spawn(self._subscriptions.appended(_owner(identity), path, number))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._answer(request, receive)
        except UnspoolError as error:
            response = problem(error)
            response.headers.update(told(error.details))
            response.headers["cache-control"] = "no-store"
        if isinstance(response, Response):
            response.headers.update(self._always(request))
        await response(scope, receive, send)

    async def _answer(self, request: Request, receive: Receive) -> Response | EventStream:
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=PREFLIGHT)
        path: str = request.path_params["path"]
        if path.startswith(RESERVED):
            if self._reserved is None:
                raise NotFound
            return await self._reserved.answer(request, path.removeprefix(RESERVED))
        identity = await identify(self._authenticate, request)
        if path.startswith(_GENERATIONS):
            return await self._generation(request, identity, path, receive)
        if request.method == "GET":
            place = place_of(request.query_params)
            return await self._get(request, _StreamSource(self._streams, path, _owner(identity)), place, receive)
        verb = self._verbs.get(request.method)
        return await verb(request, identity, path) if verb is not None else _not_allowed("GET, HEAD, POST, PUT, DELETE")

    def _always(self, request: Request) -> dict[str, str]:
        """Headers of every answer: what its page may do with it."""
        origin = request.headers.get("origin", "")
        if "*" in self._allowed:
            return {**ALWAYS, "access-control-allow-origin": "*", "access-control-expose-headers": EXPOSED}
        if origin.lower() not in self._allowed:
            return {**ALWAYS, "vary": "Origin"} if self._allowed else dict(ALWAYS)
        cors = {"access-control-allow-origin": origin, "access-control-expose-headers": EXPOSED, "vary": "Origin"}
        return {**ALWAYS, **cors}

    # reading

    async def _get(self, request: Request, source: Source, place: Place, receive: Receive) -> Response | EventStream:
        if place.live == "sse":
            return await self._stream(source, place.after, place.cursor, self._always(request))
        if place.live == "long-poll":
            chunk = await long_poll(source, place.after, receive, self._live.long_poll)
            headers = {**position(chunk), "stream-cursor": str(next_cursor(place.cursor)), "cache-control": "no-store"}
            if not chunk.parts:
                del headers["content-type"]
                return Response(status_code=204, headers=headers)
            return Response(chunk.body(), 200, {**headers, "etag": etag_of(chunk)})
        chunk = await source.read(place.after)
        headers = position(chunk)
        if place.after is None:
            return Response(chunk.body(), 200, {**headers, "cache-control": "no-store"})
        headers |= {"etag": etag_of(chunk), "cache-control": self._caching(chunk)}
        if is_known(request.headers.get("if-none-match", ""), headers["etag"]):
            del headers["content-type"]
            return Response(status_code=304, headers=headers)
        return Response(chunk.body(), 200, headers)

    def _caching(self, chunk: Chunk) -> str:
        whose = "public" if self._authenticate is None else "private"
        # What is there never changes; but at the end there may be more the next time.
        return f"{whose}, no-cache" if chunk.up_to_date and not chunk.closed else f"{whose}, max-age=60"

    async def _stream(
        self, source: Source, after: int | None, cursor: int | None, always: dict[str, str]
    ) -> EventStream:
        chunk = await source.read(after)
        headers = {
            "content-type": "text/event-stream",
            "cache-control": "no-cache, no-transform",
            "x-accel-buffering": "no",
            **always,
        }
        if not chunk.is_text:
            headers["stream-sse-data-encoding"] = "base64"
        return EventStream(source, chunk, cursor, headers, self._live)

    async def head(self, request: Request, identity: Identity, path: str) -> Response:
        info = await self._streams.head(path, _owner(identity))
        return Response(headers={**about(info), **lifetime(info), "cache-control": "no-store"})

    # writing

    async def put(self, request: Request, identity: Identity, path: str) -> Response:
        wish = wish_of(request.headers, f"{self._prefix}/")
        body = await received(request, self._max_body)
        content_type = wish.content_type or ""
        if body and wish.fork is not None and wish.content_type is None:
            content_type = (await self._streams.head(wish.fork.source, _owner(identity))).config.content_type
        content = content_of(body, content_type, empty=True) if body else None
        info = await self._streams.create(path, _owner(identity), wish, content)
        headers = {**about(info), **lifetime(info)}
        if info.created and content:
            self._tell_subscribers(identity, path, info.next)
        if info.created:
            headers["location"] = f"{request.url.scheme}://{request.url.netloc}{quote(request.scope['path'])}"
        return Response(status_code=201 if info.created else 200, headers=headers)

    async def post(self, request: Request, identity: Identity, path: str) -> Response:
        append = append_of(request.headers, await received(request, self._max_body))
        done = await self._streams.append(path, _owner(identity), append)
        if done.fresh and append.content is not None:
            self._tell_subscribers(identity, path, done.info.next)
        headers = about(done.info)
        del headers["content-type"]
        if append.producer is not None:
            headers["producer-epoch"] = str(append.producer.epoch)
            headers["producer-seq"] = str(done.seq if done.seq is not None else append.producer.seq)
        fresh = append.producer is not None and append.content is not None and done.fresh
        return Response(status_code=200 if fresh else 204, headers=headers)

    async def delete(self, request: Request, identity: Identity, path: str) -> Response:
        await self._streams.delete(path, _owner(identity))
        return Response(status_code=204)

    # generations

    async def _generation(
        self, request: Request, identity: Identity, path: str, receive: Receive
    ) -> Response | EventStream:
        stream_id, _, number = path.removeprefix(_GENERATIONS).rpartition("/")
        if not stream_id or not is_whole(number):
            raise NotFound
        if request.method not in ("GET", "HEAD"):
            return _not_allowed("GET, HEAD")
        place = place_of(request.query_params, of_generation=True)
        source = GenerationSource(
            self._manager, self._streams.shared, identity, stream_id, int(number), place.mark
        )  # fmt: skip
        if request.method == "GET":
            return await self._get(request, source, place, receive)
        headers = position(await source.read(None))
        return Response(headers={**headers, "cache-control": "no-store"})


class _StreamSource:
    """One durable stream, for its owner."""

    def __init__(self, streams: DurableStreams, path: str, owner: Owner) -> None:
        self._streams = streams
        self._path = path
        self._owner = owner

    async def read(self, after: int | None) -> Chunk:
        return await self._streams.read(self._path, self._owner, after)

    async def follow(self, chunk: Chunk) -> Live:
        return await self._streams.follow(self._path, self._owner, chunk)

    async def touch(self) -> None:
        await self._streams.touch(self._path, self._owner)


def _owner(identity: Identity) -> Owner:
    return Owner(identity.user, identity.tenant)


def _not_allowed(allowed: str) -> Response:
    return Response(status_code=405, headers={"allow": allowed})
