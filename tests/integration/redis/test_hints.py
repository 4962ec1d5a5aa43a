"""The channel on which a replica hears hints, while its connection is cut and made again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as Disconnected

from tests.servers.redis import RedisServer
from tests.waiting import HANG, until
from unspool.backends.redis import from_url, transport
from unspool.backends.redis.pipe import Command
from unspool.backends.redis.transport import RedisChannel
from unspool.jobs import GenerationKey

EARLY, LATE = GenerationKey("early", 1), GenerationKey("late", 1)


@pytest.fixture
async def channel(redis: RedisServer) -> AsyncGenerator[RedisChannel]:
    """A channel that watches one stream."""
    store, hints = from_url(redis.url, retention=60.0)
    made = await hints.connect("a", lambda _: None)
    assert isinstance(made, RedisChannel)
    made.watch(EARLY)
    await until(lambda: subscribed(redis, EARLY))
    yield made
    await made.close()
    await store.close()


def subscribed(redis: RedisServer, key: GenerationKey) -> bool:
    return bool(redis.ask("PUBSUB", "CHANNELS", f"unspool:{{{key.stream_id}}}"))


class Held:
    """Sends what is sent, and holds up the sender of so many commands until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, commands: int) -> None:
        self.sent = asyncio.Event()
        self.go = asyncio.Event()
        self.error: Exception | None = None
        self._commands = commands
        self._send = transport.send_on
        monkeypatch.setattr(transport, "send_on", self._send_on)

    async def _send_on(self, connection: AbstractConnection, commands: Sequence[Command]) -> None:
        await self._send(connection, commands)
        if len(commands) == self._commands and not self.sent.is_set():
            self.sent.set()
            await self.go.wait()
            if self.error is not None:
                raise self.error


async def test_a_stream_that_is_watched_while_the_channel_reconnects_is_heard(
    redis: RedisServer, channel: RedisChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A viewer comes when the list of what was watched before is on its way."""
    held = Held(monkeypatch, commands=2)
    redis.ask("CLIENT", "KILL", "TYPE", "pubsub")
    async with asyncio.timeout(HANG):
        await held.sent.wait()
    channel.watch(LATE)
    held.go.set()
    await until(lambda: subscribed(redis, LATE))


async def test_a_stream_that_is_watched_while_the_old_connection_fails_is_heard(
    redis: RedisServer, channel: RedisChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old connection still has a subscription to send, and fails only after the new one was made."""
    held, old = Held(monkeypatch, commands=1), channel._connection
    held.error = Disconnected("cut")
    channel.watch(GenerationKey("meanwhile", 1))
    async with asyncio.timeout(HANG):
        await held.sent.wait()
    redis.ask("CLIENT", "KILL", "TYPE", "pubsub")
    await until(lambda: channel._connection not in (None, old))
    channel.watch(LATE)
    held.go.set()
    await until(lambda: subscribed(redis, LATE))
