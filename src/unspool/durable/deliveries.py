"""Delivering wakes to webhooks: one call at a time for each subscription, again and again until it is answered."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from unspool.durable import subscription as rules
from unspool.durable import webhooks
from unspool.durable.board import Board
from unspool.durable.offsets import token
from unspool.durable.subscription import Ack, Subscription
from unspool.errors import ConfigurationError, NotFound, StoreUnavailable
from unspool.jobs import Owner

_log = logging.getLogger("unspool.durable")
_PAUSES: Final = (1.0, 60.0)
_JITTER: Final = 0.2

Done = Callable[[Subscription, Sequence[Ack]], Awaitable[object]]
"""The webhook has done all of a wake."""


class Deliveries:
    """The calls of this replica that are under way."""

    def __init__(
        self, board: Board, signer: webhooks.Signer, done: Done, clock: Callable[[], float], *, local: bool
    ) -> None:
        self._board = board
        self._signer = signer
        self._done = done
        self._clock = clock
        self._local = local
        self._calls: dict[tuple[Owner, str], asyncio.Task[None]] = {}

    def begin(self, one: Subscription) -> None:
        """Deliver its wake; a call that is under way goes on with it by itself."""
        key = (one.owner, one.id)
        if key in self._calls:
            return
        task = self._calls[key] = asyncio.create_task(self._call(*key), name=f"webhook {one.id}")
        task.add_done_callback(lambda _: self._calls.pop(key, None))

    def forget(self, owner: Owner, name: str) -> None:
        """It was deleted."""
        call = self._calls.get((owner, name))
        if call is not None:
            call.cancel()

    async def close(self) -> None:
        """Let go of all; other replicas go on with them when their time is over."""
        calls = list(self._calls.values())
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    async def _call(self, owner: Owner, name: str) -> None:
        while True:
            try:
                one = await self._board.get(owner, name)
                if one.wake is None or one.wake.holder is not None:
                    return
                if one.retry_at > self._clock():
                    await asyncio.sleep(one.retry_at - self._clock())
                    continue
                answer = await self._deliver(one)
                if isinstance(answer, dict) and answer.get("done") is True:  # pyright: ignore[reportUnknownMemberType]
                    await self._done(one, rules.snapshot_acks(one.wake))
                else:
                    await self._accepted(one)
            except rules.Fenced:
                continue  # it took too long, and there is another wake
            except NotFound:
                return
            except (webhooks.DeliveryFailed, webhooks.WebhookRejected, StoreUnavailable, ConfigurationError) as error:
                _log.info("subscription %s: its webhook was not reached: %s", name, error)
                if not await self._failed(owner, name):
                    return

    async def _deliver(self, one: Subscription) -> Any:
        assert one.wake is not None
        told = {
            "subscription_id": one.id,
            "wake_id": one.wake.id,
            "generation": one.generation,
            "streams": described(one, one.wake.tails),
            "callback_url": f"{one.base}/subscriptions/{one.id}/callback",
            "callback_token": one.token(),
        }
        body = msgspec.json.encode(told)
        headers = {"webhook-signature": self._signer.sign(body)}
        return await webhooks.call(one.terms.url or "", body, headers, local=self._local)

    async def _accepted(self, one: Subscription) -> None:
        """The webhook has it now, and calls back within its lease."""
        delivered = one.wake
        assert delivered is not None

        def change(now: Subscription) -> Subscription:
            if now.wake is None or now.wake.id != delivered.id:
                return now
            held = msgspec.structs.replace(now.wake, until=self._clock() + now.lease, holder="webhook")
            return msgspec.structs.replace(now, wake=held, failures=0, retry_at=0.0)

        await self._board.change(one.owner, one.id, change)

    async def _failed(self, owner: Owner, name: str) -> bool:
        """Note it, and when the next try is; False when there is nothing to try any more."""
        least, most = _PAUSES

        def change(one: Subscription) -> Subscription:
            if one.wake is None:
                return one
            pause = min(least * 2 ** min(one.failures, 10), most) * (1 + random.uniform(-_JITTER, _JITTER))
            return rules.failed(one, pause, self._clock())

        try:
            return (await self._board.change(owner, name, change)).wake is not None
        except (NotFound, StoreUnavailable):
            return False  # the next look goes on with it


def described(one: Subscription, tails: Mapping[str, int]) -> list[dict[str, Any]]:
    """Its streams, as workers are told of them."""
    return [
        {
            "path": path,
            "link_type": one.link_type(path),
            "acked_offset": token(link.acked),
            "tail_offset": token(tails.get(path, 0)),
            "has_pending": tails.get(path, 0) > link.acked,
        }
        for path, link in one.links.items()
    ]
