"""What the contract suite is made of: the back end under test, replicas over it, scripted runs, readers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

import pytest
import pytest_asyncio

from unspool.content import Fold, Snapshot
from unspool.errors import ViewerReleased
from unspool.events import Record
from unspool.jobs import Job
from unspool.manager import GenerationManager
from unspool.options import Hooks, Options
from unspool.producer import Generation
from unspool.protocols import EventTransport, JobStore
from unspool.testing.hostile import HostileTransport
from unspool.viewer import Viewer

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds after which a wait of the suite counts as a hang."""

LEASE = 1.0
"""Seconds of a lease that a test lets run out: no shorter, since an owner on a busy machine renews late."""


class Backend(Protocol):
    """A back end under test. One fixture named `backend` that gives a fresh, empty one is all that the suite needs.

    `make` is called once for every replica: each gets a store and a transport that share their data with the others.
    """

    name: str

    async def make(self) -> tuple[JobStore, EventTransport]: ...

    async def close(self) -> None: ...


class Cluster:
    """Replicas of one application over one back end; `hostile`: their hints are mistreated."""

    def __init__(self, backend: Backend, *, hostile: bool) -> None:
        self.backend = backend
        self.hostile = hostile
        self._managers: list[GenerationManager] = []

    async def replica(
        self, name: str | None = None, *, hooks: Hooks | None = None, **options: Any
    ) -> GenerationManager:
        """A started manager whose periodic work is quick, unless `options` say otherwise."""
        store, transport = await self.backend.make()
        if self.hostile:
            transport = HostileTransport(transport, seed=len(self._managers) + 1)
        defaults: dict[str, Any] = {"lease": 5.0, "poll": 0.02, "sweep": 0.02, "abort_grace": 0.5, "drain": 0.0}
        manager = GenerationManager(
            store, transport, options=Options(**{**defaults, **options}), hooks=hooks, replica=name
        )
        await manager.start_up()
        self._managers.append(manager)
        return manager

    async def kill(self, manager: GenerationManager) -> None:
        """End a replica as kill -9 does: nothing is sealed, nobody is told."""
        replica, supervisor = manager.replica, manager._supervisor
        assert supervisor is not None
        await supervisor.stop()
        await replica.channel.close()
        for run in list(replica.runs.values()):
            run.lose()
            await run.done.wait()
        for viewer in list(replica.viewers):
            viewer.close()
        for tail in replica.tails.values():
            tail.close()
        manager._replica = manager._supervisor = None
        await manager.store.close()
        self._managers.remove(manager)

    async def pause(self, manager: GenerationManager) -> None:
        """Freeze a replica's periodic work and hearing, as SIGSTOP does; its runs notice nothing."""
        assert manager._supervisor is not None
        await manager._supervisor.stop()
        await manager.replica.channel.close()

    async def close(self) -> None:
        for manager in self._managers:
            await manager.stop(drain=0)
        await self.backend.close()


@pytest.fixture(params=["plain", "hostile"])
def hints(request: pytest.FixtureRequest) -> str:
    """How the transport treats hints."""
    return request.param


@pytest_asyncio.fixture
async def cluster(backend: Backend, hints: str) -> AsyncIterator[Cluster]:
    made = Cluster(backend, hostile=hints == "hostile")
    yield made
    await made.close()


@pytest_asyncio.fixture
async def manager(cluster: Cluster) -> GenerationManager:
    """One replica with small times."""
    return await cluster.replica("a")


@pytest_asyncio.fixture
async def store(backend: Backend) -> AsyncIterator[JobStore]:
    """The bare store."""
    made, _ = await backend.make()
    await made.open()
    yield made
    await made.close()
    await backend.close()


class Puppet:
    """A run that does what the test says: `say`, `finish`, `fail`. Give it to `start` as the run."""

    def __init__(self) -> None:
        self.signalled = asyncio.Event()
        self._generation: asyncio.Future[Generation] = asyncio.get_running_loop().create_future()
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def __call__(self, generation: Generation) -> None:
        self._generation.set_result(generation)
        try:
            await self._end
        except asyncio.CancelledError:
            self.signalled.set()
            raise

    async def generation(self) -> Generation:
        return await within(asyncio.shield(self._generation))

    async def say(self, *words: str) -> None:
        """Emit each word as a record of its own."""
        generation = await self.generation()
        for word in words:
            await generation.text(word)
            await generation._writer.flush()

    async def emit(self, type: str, internal: bool = False, **data: Any) -> None:
        """Emit one event, and wait until it is in the log."""
        generation = await self.generation()
        await generation.emit(type, data, internal=internal)
        await generation._writer.flush()

    def finish(self) -> None:
        """Return from the run."""
        if not self._end.done():
            self._end.set_result(None)

    def fail(self, error: Exception) -> None:
        """Raise from the run."""
        self._end.set_exception(error)


async def begin(manager: GenerationManager, stream_id: str = "s", *, user: str | None = "u", **more: Any) -> Puppet:
    """Start a generation whose run is a puppet, and wait until it has begun."""
    puppet = Puppet()
    await manager.start(stream_id, puppet, user=user, **more)
    await puppet.generation()
    return puppet


class Reader:
    """Reads a viewer to its end in a task of its own, and keeps what it got."""

    def __init__(self, viewer: Viewer) -> None:
        self.viewer = viewer
        self.records: list[Record] = []
        self._grew = asyncio.Event()
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async for record in self.viewer:
                self.records.append(record)
                self._grew.set()
        except ViewerReleased:
            pass  # `viewer.end` says so
        finally:
            self.viewer.close()
            self._grew.set()

    async def until(self, enough: Callable[[Reader], bool]) -> None:
        """Wait until what was read is enough."""
        async with asyncio.timeout(PATIENCE):
            while not enough(self):
                assert not self._task.done(), f"the viewer ended with {self.records}"
                self._grew.clear()
                await self._grew.wait()

    async def reach(self, offset: int) -> None:
        """Wait until this offset was read."""
        await self.until(lambda reader: bool(reader.records) and reader.records[-1].offset >= offset)

    async def until_text(self, text: str) -> None:
        """Wait until the text that was read is this."""
        await self.until(lambda reader: reader.content.text == text)

    async def end(self) -> list[Record]:
        """Wait for the end, and return everything."""
        await within(asyncio.shield(self._task))
        return self.records

    async def leave(self) -> None:
        """Detach, and wait until the reading is over."""
        self.viewer.close()
        await self.end()

    @property
    def offsets(self) -> list[int]:
        return [record.offset for record in self.records]

    @property
    def types(self) -> list[str]:
        return [record.type for record in self.records]

    @property
    def content(self) -> Snapshot:
        """What a client would show: the fold of what was read."""
        folded = Fold()
        folded.apply_all(self.records)
        return folded.snapshot()


async def read(manager: GenerationManager, stream_id: str = "s", *, user: str | None = "u", **more: Any) -> Reader:
    """Attach a viewer and begin to read it."""
    return Reader(await manager.view(stream_id, user=user, **more))


async def settled(manager: GenerationManager, stream_id: str = "s", *, user: str | None = "u", **more: Any) -> Job:
    """Wait until a generation is settled; the job as it then is."""

    async def look() -> Job | None:
        job = await manager.job(stream_id, user=user, **more)
        return job if job.settled else None

    return await eventually(look)


async def eventually(look: Callable[[], Coroutine[Any, Any, T | None]]) -> T:
    """Ask again until there is an answer."""
    async with asyncio.timeout(PATIENCE):
        while True:
            found = await look()
            if found:
                return found
            await asyncio.sleep(0.002)


async def within(work: Awaitable[T]) -> T:
    """Wait, but not for ever."""
    async with asyncio.timeout(PATIENCE):
        return await work
