"""Subscriptions: workers that are woken when streams have more, by a call to their webhook or a message in a stream.

What is true of a subscription is one small value in the store (`subscription.py`, `board.py`); any replica changes it.
An append looks which ones it concerns, and wakes who is idle. What was missed, because a replica died, a lease ran out
or a webhook could not be reached, the next look finds: each replica looks, every few seconds, at the subscriptions of
those for whom it has done something.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from unspool.durable import subscription as rules
from unspool.durable import webhooks
from unspool.durable.board import Board, Meant
from unspool.durable.deliveries import Deliveries
from unspool.durable.entries import messages_of
from unspool.durable.names import owner_of
from unspool.durable.state import Append
from unspool.durable.streams import DurableStreams
from unspool.durable.subscription import Ack, Subscription, Terms
from unspool.errors import BadRequest, NotFound, StoreUnavailable, UnspoolError
from unspool.jobs import Owner, Status
from unspool.manager import GenerationManager

_log = logging.getLogger("unspool.durable")
_LOOK: Final = 2.0
"""Seconds between two looks at what may have been missed."""


class Claim(msgspec.Struct, frozen=True):
    """A wake in the hands of a worker. `tails`: how far each stream goes."""

    subscription: Subscription
    tails: dict[str, int]


class Subscriptions:
    """The subscriptions to the streams of a service. `signing_key`: the seed of the key that calls are signed with, one
    for all replicas. `local_webhooks`: also those on this machine, for development."""

    def __init__(
        self,
        manager: GenerationManager,
        streams: DurableStreams,
        *,
        signing_key: bytes | None = None,
        local_webhooks: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.signer = webhooks.Signer(signing_key)
        self._manager = manager
        self._streams = streams
        self._local = local_webhooks
        self._clock = clock
        self._board = Board(manager.store)
        self._deliveries = Deliveries(self._board, self.signer, self._all_done, clock, local=local_webhooks)
        self._owners: dict[Owner, None] = {}
        self._looking: asyncio.Task[None] | None = None

    # what a client does

    async def create(self, owner: Owner, name: str, terms: Terms, base: str) -> tuple[Subscription, bool]:
        """Make a subscription, or find it on the same terms; and whether it was made.

        Raises SubscriptionConflict, WebhookRejected, BadRequest.
        """
        if terms.url is not None:
            webhooks.checked(terms.url, local=self._local)
        there = await self._tails_of_all(owner, terms.pattern) if terms.pattern is not None else {}
        asked = await self._tails(owner, terms.streams)
        made = Subscription(
            id=name, owner=owner, terms=terms, base=base, secret=secrets.token_bytes(32), created_at=self._clock()
        )
        made = rules.linked(rules.linked(made, there, explicit=False), asked, explicit=True)

        def agree(found: Subscription) -> None:
            if found.terms != terms:
                raise rules.SubscriptionConflict

        kept = await self._board.make(made, agree)
        await self._board.note(owner, name, _meant(kept))
        self._care_for(owner)
        return kept, kept.secret == made.secret

    async def get(self, owner: Owner, name: str) -> Subscription:
        """Raises NotFound."""
        return await self._board.get(owner, name)

    async def delete(self, owner: Owner, name: str) -> None:
        """Nothing of it can be acknowledged any more. Raises NotFound."""
        if not await self._board.delete(owner, name):
            raise NotFound
        await self._board.note(owner, name, None)
        self._deliveries.forget(owner, name)

    async def link(self, owner: Owner, name: str, paths: Sequence[str]) -> None:
        """Link these streams, each from its tail on. Raises NotFound."""
        tails = await self._tails(owner, paths)
        kept = await self._board.change(owner, name, lambda one: rules.linked(one, tails, explicit=True))
        await self._board.note(owner, name, _meant(kept))

    async def unlink(self, owner: Owner, name: str, path: str) -> None:
        """Take that back; a stream that matches the pattern stays. Raises NotFound."""
        kept = await self._board.change(owner, name, lambda one: rules.unlinked(one, path))
        await self._board.note(owner, name, _meant(kept))

    async def claim(self, owner: Owner, name: str, worker: str) -> Claim:
        """Take the wake under way. Raises NotFound, AlreadyClaimed, NothingPending."""
        one = await self.get(owner, name)
        if one.terms.type != "pull-wake":
            raise BadRequest("a webhook is called; it claims nothing")
        tails = await self._tails(owner, one.links)

        def change(one: Subscription) -> Subscription:
            now = self._clock()
            if rules.idle(one, now):
                if not rules.pending(one, tails):
                    raise rules.NothingPending
                one = rules.woken(one, tails, _wake_id(), now)
            return rules.claimed(one, worker, tails, now)

        return Claim(await self._board.change(owner, name, change), tails)

    async def ack(
        self, owner: Owner, name: str, shown: str, wake_id: str, generation: int, acks: Iterable[Ack], *, done: bool
    ) -> bool:
        """Done up to there, and with the whole wake or for one more lease; whether another wake follows at once.

        Raises NotFound, Fenced.
        """

        def change(one: Subscription) -> Subscription:
            rules.check(one, shown, wake_id, generation)
            return rules.acked(one, acks, self._clock(), done=done)

        await self._board.change(owner, name, change)
        return done and await self.look(owner, name)

    async def release(self, owner: Owner, name: str, shown: str, wake_id: str, generation: int) -> None:
        """Give the wake back undone. Raises NotFound, Fenced."""

        def change(one: Subscription) -> Subscription:
            rules.check(one, shown, wake_id, generation)
            return rules.released(one)

        await self._board.change(owner, name, change)
        await self.look(owner, name)

    async def tails(self, owner: Owner, one: Subscription) -> dict[str, int]:
        """How far its streams go."""
        return await self._tails(owner, one.links)

    # what an append does

    async def appended(self, owner: Owner, path: str, number: int) -> None:
        """A stream has more. Never raises: what goes wrong here is found by the next look."""
        try:
            for name, (pattern, explicit) in (await self._board.listed(owner)).items():
                found = rules.matches(pattern, path)
                if not found and path not in explicit:
                    continue
                with contextlib.suppress(NotFound):  # deleted, and still on the list
                    if found:
                        # From before this append on: it is what wakes the worker.
                        await self._link(owner, name, path, number - 1)
                    await self.look(owner, name)
        except StoreUnavailable as error:
            _log.warning("subscriptions of %s were not woken: %s", path, error)

    async def _link(self, owner: Owner, name: str, path: str, after: int) -> None:
        def change(one: Subscription) -> Subscription:
            known = one.links.get(path)
            return one if known is not None and known.glob else rules.linked(one, {path: after}, explicit=False)

        await self._board.change(owner, name, change)

    async def look(self, owner: Owner, name: str) -> bool:
        """Wake the worker if it is idle and there is something to do; whether it was woken now. Raises NotFound."""
        one = await self.get(owner, name)
        self._care_for(owner)
        if not rules.idle(one, self._clock()):
            return False
        tails = await self._tails(owner, one.links)
        wake_id = _wake_id()

        def change(one: Subscription) -> Subscription:
            if not rules.idle(one, self._clock()):
                return one
            if not rules.pending(one, tails):
                return rules.released(one) if one.wake is not None else one
            return rules.woken(one, tails, wake_id, self._clock())

        kept = await self._board.change(owner, name, change)
        if kept.wake is None or kept.wake.id != wake_id:
            return False
        if kept.terms.type == "webhook":
            self._deliveries.begin(kept)
        else:
            await self._tell(owner, kept, tails)
        return True

    async def _tell(self, owner: Owner, one: Subscription, tails: Mapping[str, int]) -> None:
        """Write the wake into the stream where the workers look."""
        more = next(path for path, link in one.links.items() if tails.get(path, 0) > link.acked)
        wake = {
            "type": "wake",
            "subscription_id": one.id,
            "stream": more,
            "generation": one.generation,
            "ts": int(self._clock() * 1000),
        }
        append = Append(content=messages_of(msgspec.json.encode(wake)), content_type="application/json")
        try:
            await self._streams.append(one.terms.wake_stream or "", owner, append)
        except UnspoolError as error:
            _log.warning("subscription %s: nothing can be written to its wake stream: %s", one.id, error)

    # what was missed

    def _care_for(self, owner: Owner) -> None:
        self._owners[owner] = None
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_after(), name="subscriptions")

    async def _look_after(self) -> None:
        while not self._manager.closing:
            await asyncio.sleep(_LOOK)
            for owner in list(self._owners):
                try:
                    listed = await self._board.listed(owner)
                    if not listed:
                        self._owners.pop(owner, None)
                    for name in listed:
                        with contextlib.suppress(NotFound):  # deleted, and still on the list
                            await self.look(owner, name)
                except UnspoolError as error:
                    _log.warning("subscriptions were not looked at: %s", error)
        await self._deliveries.close()

    async def _all_done(self, one: Subscription, acks: Sequence[Ack]) -> None:
        assert one.wake is not None
        await self.ack(one.owner, one.id, one.token(), one.wake.id, one.generation, acks, done=True)

    async def close(self) -> None:
        """End what runs on its own. Harmless where nothing does."""
        await self._deliveries.close()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    # what is underneath

    async def _tails(self, owner: Owner, paths: Iterable[str]) -> dict[str, int]:
        """How far streams go; those that are not there, from their beginning."""
        tails: dict[str, int] = {}
        for path in paths:
            try:
                tails[path] = (await self._streams.head(path, owner)).next
            except UnspoolError as error:
                if isinstance(error, StoreUnavailable):
                    raise
                tails[path] = 0
        return tails

    async def _tails_of_all(self, owner: Owner, pattern: str | None) -> dict[str, int]:
        jobs = await self._manager.store.jobs(owner_of(owner), Status.RUNNING, 10 * rules.LINKS)
        paths = [str((job.metadata.extra or {}).get("path", "")) for job in jobs]
        return await self._tails(owner, [path for path in paths if path and rules.matches(pattern, path)])


def _meant(one: Subscription) -> Meant:
    return one.terms.pattern, tuple(sorted(path for path, link in one.links.items() if link.explicit))


def _wake_id() -> str:
    return f"w_{secrets.token_hex(12)}"
