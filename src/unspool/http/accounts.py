"""What an account holder may see over HTTP: the balance, the entries, what a generation used."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from unspool.errors import Gone, NotFound, UnreadableRecord
from unspool.http.auth import Identity
from unspool.http.problem import answering
from unspool.http.requests import whole
from unspool.jobs import stream_of
from unspool.manager import GenerationManager

if TYPE_CHECKING:
    from unspool.ledger import Ledger
    from unspool.ledger.entries import Entry

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
        identity = await identify(request)
        account = _account(identity)
        limit = whole("limit", request.query_params.get("limit", str(_PAGE)), 1, _LARGEST)
        page = await ledger.entries(account, after=request.query_params.get("after"), limit=limit)
        mine = await own(identity, {entry.generation for entry in page.entries if entry.generation is not None})
        return _json({"entries": [_told(entry, mine) for entry in page.entries], "next": page.next})

    async def own(identity: Identity, generations: set[str]) -> set[str]:
        """Those that are the caller's, and are kept, and can be read."""

        async def is_own(generation: str) -> bool:
            name, _, number = generation.rpartition("/")
            stream_id, tenant = stream_of(name)
            if tenant != identity.tenant:
                return False
            try:
                await manager.job(stream_id, generation=int(number), **identity.owner())
            except (NotFound, Gone, UnreadableRecord):
                return False
            return True

        listed = list(generations)
        return {one for one, mine in zip(listed, await asyncio.gather(*map(is_own, listed)), strict=True) if mine}

    async def usage(request: Request) -> Response:
        identity = await identify(request)
        asked = request.query_params.get("generation")
        generation = None if asked is None else whole("generation", asked, 1)
        job = await manager.job(request.path_params["stream_id"], generation=generation, **identity.owner())
        found = msgspec.to_builtins(await ledger.usage(job.key))
        calls = [{**call, "generation": job.label} for call in found["calls"]]
        return _json({**found, "generation": job.label, "calls": calls, "account": job.account})

    return [
        Route("/v1/account", answering(balance), methods=["GET"], name="unspool.balance"),
        Route("/v1/account/entries", answering(entries), methods=["GET"], name="unspool.entries"),
        Route("/v1/streams/{stream_id:path}/usage", answering(usage), methods=["GET"], name="unspool.usage"),
    ]


def _told(entry: Entry, mine: set[str]) -> dict[str, Any]:
    """An entry as the caller may see it. Amounts of others who share the account stand in it, since they make up its
    balance; what they were for does not: the key of an entry names a call, and so a stream."""
    told = msgspec.to_builtins(entry)
    if entry.generation is not None:
        if entry.generation in mine:
            name, _, number = entry.generation.rpartition("/")
            told["generation"] = f"{stream_of(name)[0]}/{number}"
        else:
            told.update(key=None, generation=None)
    return told


def _account(identity: Identity) -> str:
    if identity.account is None:
        raise NotFound("you have no account here")
    return identity.account


def _json(body: Any) -> Response:
    return Response(msgspec.json.encode(body), headers={"cache-control": "no-store"}, media_type="application/json")
