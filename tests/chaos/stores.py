"""The Redis under the replicas, in three shapes: how it is reached, what can happen to it, what is in it."""

from __future__ import annotations

import asyncio
import math
import signal
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any

import redis
from redis.exceptions import MovedError

from tests.chaos.report import Report
from tests.chaos.settings import FAR, Settings
from tests.servers import redis as servers
from tests.servers.clock import Clock, library
from tests.servers.redis import RedisServer, Sentinels

Trouble = tuple[int, str, Callable[[Random], Awaitable[str]]]
"""How often it happens beside the others, its name, and what happens; it says what it did."""

_KEPT = ("--appendonly", "yes")


@dataclass
class Store:
    """`url`: without anything in between. `cable_port`: where a cable of each replica's own leads, for one server.
    `lossy`: what was accepted shortly before a failover may be taken back. `emptied`: when it came back with nothing
    in it, infinity while it is away for that. `clock`: the one that it has, where it can be stepped."""

    url: str
    servers: list[RedisServer]
    troubles: list[Trouble] = field(default_factory=list[Trouble])
    cable_port: int | None = None
    lossy: bool = False
    emptied: list[float] = field(default_factory=list[float])
    clock: Clock | None = None

    def ask(self, *command: str | int) -> Any:
        """The answer of the node that has what the command is about."""
        for server in list(self.servers):
            try:
                return server.ask(*command)
            except MovedError:
                continue
        raise redis.ConnectionError("no node has it")

    def keys(self) -> dict[bytes, int]:
        """All keys, with the milliseconds that they have left; below 0: for ever."""
        found: dict[bytes, int] = {}
        for server in self.servers:
            with server.client as client:
                for key in client.scan_iter(count=1000):
                    left = int(client.pttl(key))  # pyright: ignore[reportArgumentType]
                    if left != -2:  # it went while we looked
                        found[key] = left
        return found


def _kill_connections(nodes: Callable[[], Sequence[RedisServer]]) -> Trouble:
    async def kill(draw: Random) -> str:
        kind = draw.choice(("normal", "pubsub"))
        for node in nodes():
            with suppress(redis.RedisError):
                await asyncio.to_thread(node.ask, "CLIENT", "KILL", "TYPE", kind)
        return kind

    return 3, "connections killed", kill


def _freeze(nodes: Callable[[], Sequence[RedisServer]]) -> Trouble:
    async def freeze(draw: Random) -> str:
        node, seconds = draw.choice(nodes()), draw.uniform(0.1, 1.5)
        node.signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        node.signal(signal.SIGCONT)
        return f"for {seconds:.1f} s"

    return 2, "redis frozen", freeze


def _restart(nodes: Sequence[RedisServer], whole: Callable[[], bool]) -> Trouble:
    async def restart(draw: Random) -> str:
        node, seconds = draw.choice(nodes), draw.uniform(0.0, 2.0)
        await asyncio.to_thread(node.kill)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(node.start)
        await asyncio.to_thread(servers.wait_for, whole)
        return f"away for {seconds:.1f} s"

    return 2, "redis restarted", restart


def _empty(store: Store, whole: Callable[[], bool]) -> Trouble:
    async def empty(draw: Random) -> str:
        seconds = draw.uniform(0.0, 2.0)
        store.emptied.append(math.inf)
        for node in store.servers:
            await asyncio.to_thread(node.kill)
            node.erase()
        await asyncio.sleep(seconds)
        await asyncio.gather(*(asyncio.to_thread(node.start) for node in store.servers))
        await asyncio.to_thread(servers.wait_for, whole)
        store.emptied[-1] = time.monotonic()
        return f"away for {seconds:.1f} s"

    return 1, "redis emptied", empty


def _step(clock: Clock, lease: float) -> Trouble:
    async def step(draw: Random) -> str:
        before = clock.offset
        if draw.random() < 0.4:
            clock.set(draw.choice([offset for offset in (-FAR, 0.0, FAR) if offset != before]))
        else:
            by = draw.uniform(0.2, 3.0) * lease * draw.choice((-1, 1))
            clock.set(before + by if abs(before + by) <= FAR else before - by)
        return f"from {before:+.1f} s to {clock.offset:+.1f} s"

    return 4, "clock stepped", step


def _fail_over(made: Sentinels, store: Store) -> Trouble:
    async def fail_over(_: Random) -> str:
        await asyncio.to_thread(made.fail_over)
        await asyncio.to_thread(made.rejoin)
        store.servers[:] = [made.master]
        return f"to port {made.master.port}"

    return 2, "failover", fail_over


@asynccontextmanager
async def running(settings: Settings, report: Report) -> AsyncGenerator[Store]:
    """Servers of the topology. Only a single server's clock is stepped: a step makes the nodes of a cluster, or
    sentinels, take each other for dead, which is another trouble."""
    folder = report.folder
    async with AsyncExitStack() as stack:
        if settings.topology == "single":
            clock = Clock(folder / "clock") if _steps(settings, report) else None
            server = stack.enter_context(servers.server(folder / "redis", *_KEPT, clock=clock))
            nodes = [server]
            store = Store(server.url, nodes, cable_port=server.port, clock=clock)
            store.troubles = [
                _kill_connections(lambda: nodes), _freeze(lambda: nodes), _restart(nodes, lambda: True),
                _empty(store, lambda: True), *([_step(clock, settings.lease)] if clock is not None else []),
            ]  # fmt: skip
        elif settings.topology == "cluster":
            nodes = stack.enter_context(servers.cluster(folder / "cluster", *_KEPT))

            def whole() -> bool:
                return all(b"cluster_state:ok" in node.ask("CLUSTER", "INFO") for node in nodes)

            store = Store("redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes), nodes)
            store.troubles = [
                _kill_connections(lambda: nodes), _freeze(lambda: nodes), _restart(nodes, whole), _empty(store, whole),
            ]  # fmt: skip
        else:
            made = stack.enter_context(servers.sentinels(folder / "sentinel"))
            store = Store(made.url, [made.master], lossy=True)
            masters = [made]

            def current() -> Sequence[RedisServer]:
                return [one.master for one in masters]

            store.troubles = [_kill_connections(current), _freeze(current), _fail_over(made, store)]
        without = (*settings.without, *(("redis emptied",) if settings.mixed else ()))
        store.troubles = [trouble for trouble in store.troubles if trouble[1] not in without]
        yield store


def _steps(settings: Settings, report: Report) -> bool:
    """Whether the store's clock is stepped."""
    if settings.mixed or "clock stepped" in settings.without:
        return False
    if library() is None:
        report.lack("clocks are not stepped: there is no libfaketime (sh scripts/faketime.sh)")
    return library() is not None
