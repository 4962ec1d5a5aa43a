"""Records as a newer version would write them, on streams of its own: no other stream may suffer from them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import httpx2
import redis

from tests.chaos.report import Fault
from tests.chaos.world import World
from tests.integration.redis.newer import NEWER, TOLERATED
from unspool.errors import Gone, NotFound, StoreUnavailable, UnreadableRecord
from unspool.jobs import GenerationKey, Owner
from unspool.protocols import NewJob

_SET = "if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) return 1"
_KINDS: Sequence[tuple[str, tuple[str, str]]] = [*NEWER.items(), *TOLERATED.items()]
_PATIENCE = 60.0


@dataclass(frozen=True)
class Injected:
    """A generation of a dead owner, of the other version."""

    key: GenerationKey
    kind: str
    at: float


class Injector:
    """Writes records of a newer form from time to time, and asks for the list that they are in."""

    def __init__(self, world: World, draw: Random, http: httpx2.AsyncClient) -> None:
        self._world = world
        self._draw = draw
        self._http = http
        self._made: list[Injected] = []

    async def run(self) -> None:
        """Write until the world is over, and take back what no version of today could. Raises Fault."""
        world = self._world
        while not world.over.is_set():
            await asyncio.sleep(self._draw.expovariate(0.5 / world.settings.trouble))
            try:
                await self._inject()
            except (StoreUnavailable, redis.RedisError):
                continue  # it is away
            await self._list()
            for old in self._made[:-20]:
                await self._finish(old)
        for left in list(self._made):
            await self._finish(left)

    async def _inject(self) -> None:
        kind, (field, value) = self._draw.choice(_KINDS)
        stream = f"newer{self._world.report.counts['newer records']}"
        lease = self._world.settings.lease
        created = await self._world.truth.create(
            NewJob(stream_id=stream, owner=Owner("u"), replica="newer", lease=lease)
        )
        key = created.job.key
        self._made.append(Injected(key, kind, time.monotonic()))
        self._world.report.counts["newer records"] += 1
        await asyncio.to_thread(self._world.store.ask, "EVAL", _SET, 1, _name(key), field, value)

    async def _list(self) -> None:
        """Ask a replica of this version for the streams of the user who has them all."""
        nodes = [node for node in self._world.everyone if node.replica is not None and not node.other]
        if not nodes:
            return
        replica = self._draw.choice(nodes).replica
        assert replica is not None
        try:
            answered = await self._http.get(f"{replica.url}/v1/streams", headers={"x-user": "u"}, timeout=30.0)
        except httpx2.TransportError:
            return
        away = answered.status_code == 503 and answered.json().get("code") == "store_unavailable"
        if answered.status_code != 200 and not away:
            kinds = sorted({one.kind for one in self._made})
            raise Fault(f"the list of streams was answered {answered.status_code}: {answered.text}; stored are {kinds}")
        self._world.report.counts["lists asked for"] += 1

    async def _finish(self, one: Injected) -> None:
        """Delete one that cannot be read; any other one's owner is noticed to be dead, as ever."""
        if one.kind in TOLERATED:
            await self._ended(one)
        else:
            await self._delete(one)
        self._made.remove(one)

    async def _ended(self, one: Injected) -> None:
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                if (await self._world.truth.get(*one.key)).settled:
                    return
            except (Gone, NotFound):
                return
            except StoreUnavailable:
                pass
            except UnreadableRecord as error:
                raise Fault(f"{one} must be readable") from error
            if time.monotonic() > until:
                raise Fault(f"nobody has noticed that the owner of {one} is dead")
            await asyncio.sleep(0.3)

    async def _delete(self, one: Injected) -> None:
        until = time.monotonic() + _PATIENCE
        name = _name(one.key)
        while True:
            try:
                for part in ("", ":fence", ":log", ":fold", ":pack"):
                    await asyncio.to_thread(self._world.store.ask, "DEL", f"{name}{part}")
                return
            except redis.RedisError as error:
                if time.monotonic() > until:
                    raise Fault("the store does not answer") from error
                await asyncio.sleep(0.3)


def _name(key: GenerationKey) -> str:
    return f"unspool:{{{key.stream_id}}}:{key.generation}"
