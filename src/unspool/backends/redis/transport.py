"""Hints from Redis. The scripts publish them in the step that they announce, so a channel only listens.

A replica has one connection for hints: calls to it as an owner, and news of the streams that have viewers here. While
the connection is away hints are lost, as hints may be; afterwards every watched stream is looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from unspool.backends.redis import wire
from unspool.backends.redis.keys import Keys
from unspool.backends.redis.pipe import reply_on, send_on
from unspool.backends.redis.topology import Topology
from unspool.errors import StoreUnavailable
from unspool.jobs import GenerationKey
from unspool.protocols import Hint

_log = logging.getLogger("unspool.redis")
_SILENCE: Final = 5.0
"""Seconds of silence after which the server is pinged, and after as many more the connection is given up."""
_PAUSES: Final = (0.05, 0.1, 0.2, 0.5, 1.0)


class RedisTransport:
    """Listens to the hints that the scripts of a RedisStore under the same prefix publish."""

    def __init__(self, topology: Topology, *, prefix: str = "unspool") -> None:
        self._redis = topology
        self._keys = Keys(prefix, topology.database)

    async def connect(self, replica: str, deliver: Callable[[Hint], None]) -> RedisChannel:
        channel = RedisChannel(self._redis, self._keys, replica, deliver)
        await channel.open()
        return channel


class RedisChannel:
    """The hints of one replica, on one connection."""

    def __init__(self, topology: Topology, keys: Keys, replica: str, deliver: Callable[[Hint], None]) -> None:
        self._redis = topology
        self._keys = keys
        self._own = keys.replica(replica)
        self._deliver = deliver
        self._watched: dict[bytes, dict[int, GenerationKey]] = {}  # channel → generations
        self._connection: AbstractConnection | None = None
        self._told: list[tuple[bytes, bytes]] = []  # subscriptions to send
        self._telling: asyncio.Task[None] | None = None
        self._listener: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<RedisChannel {self._own.decode()} watching={len(self._watched)} connected={bool(self._connection)}>"

    async def open(self) -> None:
        """Connect and subscribe. Raises StoreUnavailable."""
        try:
            async with asyncio.timeout(self._redis.timeout):
                await self._connect()
        except (RedisError, OSError, TimeoutError) as error:
            await self._disconnect()
            raise StoreUnavailable(f"Redis cannot be reached for hints: {error}") from error
        self._listener = asyncio.create_task(self._listen(), name="redis hints")

    # what is watched

    def watch(self, key: GenerationKey, *, local: bool = False) -> None:
        if local:  # the owner is called on the channel of its replica
            return
        channel = self._keys.channel(key.stream_id)
        watched = self._watched.setdefault(channel, {})
        if not watched:
            self._tell(b"SUBSCRIBE", channel)
        watched[key.generation] = key

    def unwatch(self, key: GenerationKey) -> None:
        channel = self._keys.channel(key.stream_id)
        watched = self._watched.get(channel)
        if watched is None or watched.pop(key.generation, None) is None:
            return
        if not watched:
            del self._watched[channel]
            self._tell(b"UNSUBSCRIBE", channel)

    def publish(self, hint: Hint) -> None:
        """Do nothing: the scripts have published it already."""

    def _tell(self, verb: bytes, channel: bytes) -> None:
        self._told.append((verb, channel))
        if self._telling is None:
            self._telling = asyncio.create_task(self._tell_all(), name="redis subscribe")

    async def _tell_all(self) -> None:
        try:
            while self._told and self._connection is not None:
                told, self._told = self._told, []
                with contextlib.suppress(RedisError, OSError):  # the listener notices, and connects again
                    await send_on(self._connection, told)
        finally:
            self._telling = None

    # listening

    async def _connect(self) -> None:
        connection = self._redis.connect()
        try:
            await connection.connect()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        # From here on a change is told to this connection. It cannot overtake this list, which is written in this step.
        self._connection = connection
        self._told.clear()
        await send_on(connection, [(b"SUBSCRIBE", channel) for channel in (self._own, *self._watched)])

    async def _listen(self) -> None:
        attempt = 0
        while True:
            try:
                if self._connection is None:
                    async with asyncio.timeout(self._redis.timeout):
                        await self._connect()
                    self._look_at_everything()
                attempt = 0
                await self._read_on()
            except (RedisError, OSError, TimeoutError) as error:
                _log.warning("hints from Redis are interrupted: %s", error or "no answer in time")
                await self._disconnect()
                await asyncio.sleep(_PAUSES[min(attempt, len(_PAUSES) - 1)])
                attempt += 1

    async def _read_on(self) -> None:
        asked = False
        while self._connection is not None:
            try:
                async with asyncio.timeout(_SILENCE):
                    message = await reply_on(self._connection, keep=True)
            except TimeoutError:
                if asked:
                    raise
                asked = True
                await send_on(self._connection, [(b"PING", b"")])
                continue
            asked = False
            if message[0] == b"message":
                self._hear(message[1], message[2])

    def _hear(self, channel: bytes, data: bytes) -> None:
        try:
            if channel == self._own:
                self._deliver(Hint(GenerationKey(*wire.call_of(data)), control=True))
                return
            generation, mark, last, records = wire.hint_of(data)
            key = self._watched.get(channel, {}).get(generation)
            if key is not None and mark and key.log and mark != wire.mark_of(key.log):
                self._deliver(Hint(key, control=True))  # of another log of that number: that of the key is lost
            elif key is not None:
                sealed = bool(records) and records[-1].terminal
                self._deliver(Hint(key, last, records, control=sealed))
        except Exception:  # noqa: BLE001
            # A hint that is not understood counts as lost.
            _log.exception("a hint on %r is not understood", channel)

    def _look_at_everything(self) -> None:
        """Look at every watched stream: hints of the time without a connection are lost."""
        for watched in list(self._watched.values()):
            for key in list(watched.values()):
                self._deliver(Hint(key, control=True))

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(RedisError, OSError):
                await connection.disconnect(nowait=True)

    async def close(self) -> None:
        tasks: list[asyncio.Task[Any]] = [task for task in (self._listener, self._telling) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._watched.clear()
        await self._disconnect()
