"""The reserved routes of Durable Streams, under `__ds`: subscriptions, and the key that webhooks are signed with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from unspool.durable.deliveries import described
from unspool.durable.offsets import number_of, token
from unspool.durable.subscription import LEASE, LINKS, Ack, Fenced, Subscription, Terms, owner_in
from unspool.durable.subscriptions import Subscriptions
from unspool.errors import BadRequest, InvalidArgument, NotFound, Unauthenticated, UnspoolError
from unspool.http.problem import refusal_headers
from unspool.http.requests import MAX_BODY, body_of
from unspool.jobs import Owner, check_id

RESERVED: Final = "__ds/"
_SEGMENTS: Final = 64
"""Of a pattern: each append is compared with all of them."""

_Path = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
_Paths = Annotated[list[_Path], msgspec.Meta(max_length=LINKS)]


class _Webhook(msgspec.Struct, frozen=True):
    url: Annotated[str, msgspec.Meta(max_length=2048)]


class _Create(msgspec.Struct, frozen=True):
    type: Literal["webhook", "pull-wake"]
    pattern: _Path | None = None
    streams: _Paths = []
    webhook: _Webhook | None = None
    wake_stream: _Path | None = None
    lease_ttl_ms: Annotated[int, msgspec.Meta(ge=LEASE[0], le=LEASE[1])] = 30_000
    description: Annotated[str, msgspec.Meta(max_length=1024)] | None = None

    def terms(self) -> Terms:
        """Raises BadRequest."""
        url = self.webhook.url if self.webhook is not None else None
        if (self.type == "webhook") != (url is not None) or (self.type == "pull-wake") != (
            self.wake_stream is not None
        ):
            raise BadRequest("a webhook has `webhook.url`, and what is pulled has `wake_stream`")
        if self.pattern is None and not self.streams:
            raise BadRequest("a subscription has a pattern, or streams, or both")
        if self.pattern is not None and self.pattern.count("/") >= _SEGMENTS:
            raise BadRequest(f"a pattern has {_SEGMENTS} segments at most")
        return Terms(
            type=self.type, pattern=self.pattern, streams=tuple(sorted(set(self.streams))), url=url,
            wake_stream=self.wake_stream, lease_ttl_ms=self.lease_ttl_ms, description=self.description,
        )  # fmt: skip


class _Streams(msgspec.Struct, frozen=True):
    streams: _Paths


class _Claim(msgspec.Struct, frozen=True):
    worker: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class _Acked(msgspec.Struct, frozen=True):
    stream: str
    offset: str


class _Ack(msgspec.Struct, frozen=True):
    wake_id: str
    generation: int
    acks: list[_Acked] = []
    done: bool = False


Identify = Callable[[Request], Awaitable[Owner]]
"""Who sent this request, as the owner of streams. Raises Unauthenticated."""


class SubscriptionRoutes:
    """What is asked under `__ds`. Workers who have a wake show its token, and need nothing else."""

    def __init__(self, subscriptions: Subscriptions, identify: Identify, prefix: str) -> None:
        self._subscriptions = subscriptions
        self._identify = identify
        self._prefix = prefix

    async def answer(self, request: Request, path: str) -> Response:
        """The answer to a request for a path below `__ds/`."""
        try:
            return await self._answer(request, path)
        except InvalidArgument as error:
            return _refused(error, 400)
        except UnspoolError as error:
            return _refused(error, error.status)

    async def _answer(self, request: Request, path: str) -> Response:
        first, _, rest = path.partition("/")
        method = request.method
        if (method, path) == ("GET", "jwks.json"):
            return _json(self._subscriptions.signer.jwks(), media_type="application/jwk-set+json")
        name, _, verb = rest.partition("/")
        if first != "subscriptions" or not name:
            raise NotFound
        if method == "POST" and verb in ("callback", "ack", "release"):
            return await self._worker(request, name, verb)
        owner = await self._identify(request)
        match method, verb.partition("/")[0]:
            case "PUT", "":
                return await self._create(request, owner, name)
            case "GET", "":
                one = await self._subscriptions.get(owner, name)
                return _json(self._told(one, await self._subscriptions.tails(owner, one)))
            case "DELETE", "":
                await self._subscriptions.delete(owner, name)
                return Response(status_code=204)
            case "POST", "streams":
                asked = await body_of(request, _Streams, limit=MAX_BODY)
                await self._subscriptions.link(owner, name, asked.streams)
                return Response(status_code=204)
            case "DELETE", "streams":
                await self._subscriptions.unlink(owner, name, verb.partition("/")[2])
                return Response(status_code=204)
            case "POST", "claim":
                return await self._claim(request, owner, name)
            case _:
                raise NotFound

    async def _create(self, request: Request, owner: Owner, name: str) -> Response:
        check_id("the id of a subscription", name)
        asked = await body_of(request, _Create, limit=MAX_BODY)
        base = f"{request.url.scheme}://{request.url.netloc}{self._prefix}/__ds"
        one, created = await self._subscriptions.create(owner, name, asked.terms(), base)
        return _json(self._told(one, await self._subscriptions.tails(owner, one)), 201 if created else 200)

    async def _claim(self, request: Request, owner: Owner, name: str) -> Response:
        asked = await body_of(request, _Claim, limit=MAX_BODY)
        claim = await self._subscriptions.claim(owner, name, asked.worker)
        one = claim.subscription
        assert one.wake is not None
        told = {
            "wake_id": one.wake.id,
            "generation": one.generation,
            "token": one.token(),
            "streams": described(one, claim.tails),
            "lease_ttl_ms": one.terms.lease_ttl_ms,
        }
        return _json(told)

    async def _worker(self, request: Request, name: str, verb: str) -> Response:
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated("show the token of the wake")
        owner = owner_in(shown)
        asked = await body_of(request, _Ack, limit=MAX_BODY)
        try:
            if verb == "release":
                await self._subscriptions.release(owner, name, shown, asked.wake_id, asked.generation)
                return Response(status_code=204)
            acks = [Ack(one.stream, number_of(one.offset, field="acks")) for one in asked.acks]
            more = await self._subscriptions.ack(
                owner, name, shown, asked.wake_id, asked.generation, acks, done=asked.done
            )
        except NotFound as error:
            raise Fenced("there is no such subscription any more") from error
        return _json({"ok": True, "next_wake": more})

    def _told(self, one: Subscription, tails: dict[str, int]) -> dict[str, Any]:
        created = datetime.fromtimestamp(one.created_at, UTC)
        told: dict[str, Any] = {
            "id": one.id,
            "subscription_id": one.id,
            "type": one.terms.type,
            "pattern": one.terms.pattern,
            "streams": [
                {"path": path, "link_type": one.link_type(path), "acked_offset": token(link.acked),
                 "tail_offset": token(tails.get(path, 0))}
                for path, link in one.links.items()
            ],
            "wake_stream": one.terms.wake_stream,
            "lease_ttl_ms": one.terms.lease_ttl_ms,
            "created_at": created.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "status": "failed" if one.failures else "active",
            "description": one.terms.description,
        }  # fmt: skip
        if one.terms.url is not None:
            kid = self._subscriptions.signer.kid
            signing = {"alg": "ed25519", "kid": kid, "jwks_url": f"{one.base}/jwks.json"}
            told["webhook"] = {"url": one.terms.url, "signing": signing}
        return told


def _json(body: object, status: int = 200, *, media_type: str = "application/json") -> Response:
    return Response(msgspec.json.encode(body), status, {"cache-control": "no-store"}, media_type=media_type)


def _refused(error: UnspoolError, status: int) -> Response:
    response = _json({"error": {"code": error.code.upper(), "message": error.message, **error.details}}, status)
    response.headers.update(refusal_headers(status))
    return response
