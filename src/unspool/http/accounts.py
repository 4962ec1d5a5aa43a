"""What an account holder may see over HTTP: the balance, the entries, what a generation used."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from unspool.errors import InvalidArgument, NotFound
from unspool.http.auth import Identity
from unspool.http.problem import answering
from unspool.manager import GenerationManager

if TYPE_CHECKING:
    from unspool.ledger import Ledger

_PAGE: Final = 100
_LARGEST: Final = 1000


def account_routes(
    manager: GenerationManager, ledger: Ledger, identify: Callable[[Request], Awaitable[Identity]]
) -> list[Route]:
    """Routes about the money of whoever asks, who must have an account."""

    async def balance(request: Request) -> Response:
        found = await ledger.balance(_account(await identify(request)))
        return _json({**msgspec.to_builtins(found), "available": found.available, "debt": found.debt})

    async def entries(request: Request) -> Response:
        account = _account(await identify(request))
        page = await ledger.entries(account, after=request.query_params.get("after"), limit=_limit(request))
        return _json(msgspec.to_builtins(page))

    async def usage(request: Request) -> Response:
        identity = await identify(request)
        asked = request.query_params.get("generation")
        if asked is not None and not (asked.isascii() and asked.isdigit() and 0 < len(asked) < 16):
            raise InvalidArgument(f"generation must be a whole number from 1, not {asked[:40]!r}", field="generation")
        job = await manager.job(
            request.path_params["stream_id"], generation=int(asked) if asked else None, **identity.owner()
        )
        found = msgspec.to_builtins(await ledger.usage(job.key))
        return _json({**found, "account": job.account})

    return [
        Route("/v1/account", answering(balance), methods=["GET"], name="unspool.balance"),
        Route("/v1/account/entries", answering(entries), methods=["GET"], name="unspool.entries"),
        Route("/v1/streams/{stream_id:path}/usage", answering(usage), methods=["GET"], name="unspool.usage"),
    ]


def _account(identity: Identity) -> str:
    if identity.account is None:
        raise NotFound("you have no account here")
    return identity.account


def _limit(request: Request) -> int:
    value = request.query_params.get("limit", str(_PAGE))
    if not (value.isascii() and value.isdigit() and 0 < len(value) < 16 and 0 < int(value) <= _LARGEST):
        raise InvalidArgument(f"limit must be a whole number from 1 to {_LARGEST}, not {value[:40]!r}", field="limit")
    return int(value)


def _json(body: Any) -> Response:
    return Response(msgspec.json.encode(body), headers={"cache-control": "no-store"}, media_type="application/json")
