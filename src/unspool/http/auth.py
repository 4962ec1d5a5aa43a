"""Who is asking: the application's `authenticate` hook, and its answer."""

from __future__ import annotations

import hmac
import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, TypedDict

from starlette.requests import HTTPConnection

from unspool.errors import Unauthenticated
from unspool.jobs import check_tenant


class Whose(TypedDict):
    """On whose behalf a verb of the manager is called."""

    user: str | None
    tenant: str | None


class Identity(NamedTuple):
    """A user, the tenant that they act for, and the account of the ledger that pays.

    Stream ids are names within the tenant. None: there are no tenants; an empty one is refused.
    """

    user: str | None = None
    tenant: str | None = None
    account: str | None = None

    def owner(self) -> Whose:
        """Whose generations they may see, as the manager's verbs take it."""
        return {"user": self.user, "tenant": self.tenant}


Authenticate = Callable[[HTTPConnection], Awaitable[Identity | str | None] | Identity | str | None]
"""Gets the request; answers the user's id, an Identity, or None for one who may not enter."""


async def identify(authenticate: Authenticate | None, request: HTTPConnection) -> Identity:
    """Who sent this request. Without a hook everybody is the same nobody. Raises Unauthenticated; InvalidArgument for
    a tenant that is not valid."""
    if authenticate is None:
        return Identity()
    found = authenticate(request)
    if inspect.isawaitable(found):
        found = await found
    if found is None or found == "":
        raise Unauthenticated
    if not isinstance(found, Identity):
        return Identity(found)
    check_tenant(found.tenant)
    return found


def bearer(tokens: Sequence[str]) -> Authenticate:
    """A hook that takes these bearer tokens; all of them are one user, since they say nothing about who holds them.

    One may be given as a string.
    """
    known = (tokens,) if isinstance(tokens, str) else tuple(tokens)

    def authenticate(request: HTTPConnection) -> Identity | None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not given:
            return None
        # All are compared, in constant time: how long a refusal takes tells nothing.
        matches = [hmac.compare_digest(given.encode(), token.encode()) for token in known]
        return Identity("token") if any(matches) else None

    return authenticate
