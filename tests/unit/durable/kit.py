"""What these tests share: replicas over one store, mistreated or not, and short ways to use streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

from tests.virtual import now
from tests.waiting import HANG
from unspool import GenerationManager
from unspool.backends.memory import MemoryStore, MemoryTransport
from unspool.durable import Append, Chunk, DurableOptions, DurableStreams, Producer, Wish, messages_of
from unspool.durable.cache import LAST
from unspool.durable.entries import entry_of
from unspool.durable.errors import StreamClosed
from unspool.durable.names import name_of
from unspool.errors import StoreUnavailable
from unspool.jobs import Owner
from unspool.options import Options
from unspool.testing.faults import FaultyStore
from unspool.testing.hostile import HostileTransport

T = TypeVar("T")
ME = Owner("u-1", None)


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


async def within(work: Awaitable[T]) -> T:
    async with asyncio.timeout(HANG):
        return await work


@asynccontextmanager
async def replicas(
    count: int,
    *,
    seed: int | None = None,
    clock: Callable[[], float] = now,
    options: DurableOptions | None = None,
    **faults: Any,
) -> AsyncGenerator[list[DurableStreams]]:
    """So many replicas over one store. With a `seed` every one has faults of its own, and hints are mistreated."""
    store = MemoryStore(clock=clock)
    transport = MemoryTransport()
    async with AsyncExitStack() as stack:
        made: list[DurableStreams] = []
        for number in range(count):
            own: Any = store
            hints: Any = transport
            if seed is not None:
                verbs = frozenset({"append", "read", "get"})
                own = FaultyStore(store, seed=seed + number, verbs=verbs, **faults).as_store()
                hints = HostileTransport(transport, seed=seed + number)
            manager = GenerationManager(own, hints, options=Options(poll=0.02, drain=0.0))
            await stack.enter_async_context(manager)
            made.append(DurableStreams(manager, options=options, clock=clock))
        yield made


def text(content: str | bytes, *, producer: tuple[str, int, int] | None = None, **more: Any) -> Append:
    """An append to a text stream."""
    data = content.encode() if isinstance(content, str) else content
    return Append(
        content=data, content_type="text/plain", producer=Producer(*producer) if producer else None, **more
    )  # fmt: skip


def message(body: bytes) -> Append:
    """An append to a JSON stream."""
    return Append(content=messages_of(body), content_type="application/json")


TEXT = Wish(content_type="text/plain")
JSON = Wish(content_type="application/json")


async def read_all(streams: DurableStreams, path: str, owner: Owner = ME) -> tuple[list[bytes], list[int], Chunk]:
    """All that is there, the numbers at which each read stopped, and the last chunk."""
    parts: list[bytes] = []
    stops: list[int] = []
    at = 0
    while True:
        chunk = await streams.read(path, owner, at)
        parts += chunk.parts
        stops.append(chunk.next)
        at = chunk.next
        if chunk.up_to_date:
            return parts, stops, chunk


async def insist(streams: DurableStreams, append: Append) -> bool:
    """Append until it is known what became of it; False where the stream was closed."""
    while True:
        try:
            await streams.append("p", ME, append)
        except StoreUnavailable:
            continue
        except StreamClosed:
            return False
        return True


async def created(streams: DurableStreams, wish: Wish = TEXT) -> None:
    while True:
        try:
            await streams.create("p", ME, wish)
        except StoreUnavailable:
            continue
        return


async def reading(streams: DurableStreams) -> tuple[list[bytes], list[int], Chunk]:
    while True:
        try:
            return await read_all(streams, "p")
        except StoreUnavailable:
            continue


async def lose(streams: DurableStreams, path: str, keep: int) -> None:
    """The store forgets all but so many records of a stream, as a failover to a replica that lagged behind does."""
    store: Any = streams._store
    job = await store.get(name_of(path, ME))
    entry = store._find(*job.key)
    del entry.log._records[keep:]
    entry.log.last = keep
    entry.set_metadata({LAST: entry_of(entry.log._records[-1]).nonce})
