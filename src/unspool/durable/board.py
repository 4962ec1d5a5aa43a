"""Where subscriptions are kept: each a value in the store, beside a list of them for each owner."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

import msgspec

from unspool.durable.snapshots import Snapshots
from unspool.durable.subscription import Subscription
from unspool.errors import BadRequest, NotFound
from unspool.jobs import Owner
from unspool.protocols import JobStore

_MANY: Final = 1000
"""Subscriptions of one owner."""

Meant = tuple[str | None, tuple[str, ...]]
"""Which streams wake it: those that match a pattern, and those that are named."""

_encode = msgspec.json.Encoder().encode
_subscription = msgspec.json.Decoder(Subscription)
_listed = msgspec.json.Decoder(dict[str, Meant])


class Board:
    """Reads and changes them, each change decided on what is there."""

    def __init__(self, store: JobStore) -> None:
        self._snapshots = Snapshots(store)

    async def make(self, made: Subscription, agree: Callable[[Subscription], None]) -> Subscription:
        """Put one there, or find the one that is; `agree` raises where it is another."""

        def change(found: bytes | None) -> bytes | None:
            if found is None:
                return _encode(made)
            agree(_subscription.decode(found))
            return None

        found = await self._snapshots.change(_name(made.owner, made.id), made.owner, change)
        assert found is not None
        return _subscription.decode(found)

    async def get(self, owner: Owner, name: str) -> Subscription:
        """Raises NotFound."""
        found = await self._snapshots.load(_name(owner, name), owner)
        if found is None:
            raise NotFound
        return _subscription.decode(found)

    async def change(self, owner: Owner, name: str, change: Callable[[Subscription], Subscription]) -> Subscription:
        """Raises NotFound, and what `change` raises."""

        def decide(found: bytes | None) -> bytes | None:
            if found is None:
                raise NotFound
            before = _subscription.decode(found)
            after = change(before)
            return None if after == before else _encode(after)

        found = await self._snapshots.change(_name(owner, name), owner, decide)
        assert found is not None
        return _subscription.decode(found)

    async def delete(self, owner: Owner, name: str) -> bool:
        """False where there was none."""
        return await self._snapshots.delete(_name(owner, name), owner)

    async def listed(self, owner: Owner) -> dict[str, Meant]:
        """The subscriptions of an owner, and what wakes them."""
        found = await self._snapshots.load(_list_name(owner), owner)
        return _listed.decode(found) if found is not None else {}

    async def note(self, owner: Owner, name: str, meant: Meant | None) -> None:
        """Put one on the list, or (None) take it off. Raises BadRequest when it is full."""

        def change(found: bytes | None) -> bytes | None:
            known = _listed.decode(found) if found is not None else {}
            if known.get(name) == meant:
                return None
            if meant is None:
                del known[name]
            elif len(known) >= _MANY and name not in known:
                raise BadRequest(f"there are {_MANY} subscriptions already")
            else:
                known[name] = meant
            return _encode(known)

        await self._snapshots.change(_list_name(owner), owner, change)


def _whose(owner: Owner) -> str:
    return hashlib.sha256(_encode(tuple(owner))).hexdigest()[:32]


def _name(owner: Owner, name: str) -> str:
    return f"§ds-subscription:{_whose(owner)}:{name}"


def _list_name(owner: Owner) -> str:
    return f"§ds-subscriptions:{_whose(owner)}"
