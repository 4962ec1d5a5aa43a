"""The world of the machine in `test_manager_machine.py`: two managers over one store, clients, and what always holds.

It lives on the simulation's event loop: no time passes that nobody waits for, and a failing example fails again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from random import Random
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant
from msgspec.structs import replace

from tests.unit.machine_oracle import Stream, Turn
from unspool.backends.memory import MemoryStore, MemoryTransport
from unspool.content import Fold, Snapshot
from unspool.events import Record
from unspool.jobs import ANYONE, GenerationKey, Limits, Metadata, Owner, Status, stream_name, stream_of
from unspool.manager import GenerationManager
from unspool.options import Options
from unspool.sse import Decoder, native_frame
from unspool.testing.contract.kit import Puppet
from unspool.testing.hostile import HostileTransport
from unspool.testing.simulation.loop import SimLoop
from unspool.viewer import End, Viewer

STREAMS = ("s", "t", "u")
OWNERS = (Owner("a"), Owner("b"), Owner("a", "tenant"), Owner())
RETENTION, COMPLETED_RETENTION = 60.0, 20.0
EPOCH = 1_800_000_000.0


class Follower:
    """A client: what it was given, and its viewer while it is connected. `wire`: it reads frames, as HTTP does."""

    def __init__(self, turn: Turn, wire: bool) -> None:
        self.turn = turn
        self.wire = wire
        self.replica = 0
        self.viewer: Viewer | None = None
        self.position = 0
        self.fold = Fold()
        self.ended = False

    async def read(self) -> Sequence[Record] | None:
        viewer = self.viewer
        assert viewer is not None
        if not self.wire:
            return await viewer.records()
        frames = await viewer.frames(native_frame)
        return None if frames is None else [_record(self.turn, message) for message in Decoder().feed(frames)]

    def take(self, records: Sequence[Record]) -> None:
        """Every record is the next one that may be shown; a snapshot is the fold of what it says it covers."""
        if records and records[0].type == "sync":
            sync, records = records[0], records[1:]
            assert sync.data["status"] in set(Status)
            self.position = sync.offset
            self.fold.apply(sync)
        if records:
            assert list(records) == self.turn.shown(self.position, records[-1].offset)
            self.position = records[-1].offset
            self.ended = records[-1].terminal
            self.fold.apply_all(records)
        self._check_content()

    def _check_content(self) -> None:
        expected, found = self.turn.content_at(self.position).public(), self.fold.snapshot()
        if self.ended and self.turn.status is Status.ERROR:
            found = replace(found, parts=found.parts[:-1])  # what the terminal record itself adds
        if expected.title is None:
            found = replace(found, title=None)  # a snapshot may bring that of the job's metadata
        assert replace(found, offset=0) == replace(expected, offset=0)

    async def drop(self) -> None:
        if self.viewer is not None:
            self.viewer.close()
            self.viewer.close()
            if self.viewer.end is not End.RELEASED:
                assert await self.viewer.records() is None
            self.viewer = None


def _record(turn: Turn, message: Any) -> Record:
    generation, _, offset = message.id.partition("-")
    assert int(generation) == turn.number
    return Record(int(offset), message.event, message.data.encode())


class World(RuleBasedStateMachine):
    """Two replicas whose hints cannot be relied on, small windows, logs that are trimmed, and the oracle's lists."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[dict[str, Any]] = []
        self.log = logging.getLogger("unspool")
        self.log.setLevel(logging.CRITICAL)  # runs that fail are meant to
        self.puppets: dict[Turn, Puppet] = {}
        self.known: dict[str, Stream] = {}
        self.order: list[Turn] = []  # those kept that are settled, in the order in which they were
        self.followers: list[Follower] = []

    @initialize(seed=st.integers(0, 2**16), max_jobs=st.sampled_from([2, 4, 100]))
    def begin(self, seed: int, max_jobs: int) -> None:
        self.loop = SimLoop(Random(seed), shuffle=0.0, on_error=self.failures.append)
        self.max_jobs = max_jobs
        self.store = MemoryStore(max_jobs=max_jobs, clock=self.now)
        self.transport = MemoryTransport()
        self.seed = seed
        self.managers: list[GenerationManager] = []
        for _ in range(2):
            self.managers.append(self.do(self._manager()))

    async def _manager(self) -> GenerationManager:
        self.seed += 1
        options = Options(
            window=6, log_records=24, checkpoint_every=8, poll=0.05, sweep=10_000, drain=0.0, abort_grace=0.1,
            lease=1.5, retention=RETENTION, completed_retention=COMPLETED_RETENTION,
            limits=Limits(stall=0),  # it may wait for longer than a run may be silent
        )  # fmt: skip
        manager = GenerationManager(
            self.store, HostileTransport(self.transport, seed=self.seed, delay=0.02), options=options
        )
        await manager.start_up()
        return manager

    def now(self) -> float:
        return EPOCH + self.loop.time()

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        async def timed() -> Any:
            async with asyncio.timeout(200):
                return await work

        return self.loop.run_until_complete(timed())

    def teardown(self) -> None:
        self.log.setLevel(logging.NOTSET)
        if not hasattr(self, "managers"):
            return

        async def end() -> None:
            for follower in self.followers:
                await follower.drop()
            for manager in self.managers:
                if not manager.closing:
                    await manager.stop(drain=0)
            await asyncio.sleep(1)

        self.do(end())
        assert not asyncio.all_tasks(self.loop)
        assert not self.failures
        self.loop.close()

    # picking

    @property
    def turns(self) -> list[Turn]:
        return [turn for stream in self.known.values() for turn in stream.turns.values()]

    @property
    def running(self) -> list[Turn]:
        return [turn for turn in self.turns if turn.active]

    def owner(self, turn: Turn) -> dict[str, Any]:
        return self.known[turn.stream].owner._asdict()

    def has_its_own(self, name: str, owner: Owner) -> bool:
        """Whether an owner has a stream of the same id in another tenant than this one is of."""
        other = stream_name(stream_of(name)[0], owner.tenant)
        return other != name and other in self.known and self.known[other].owner == owner

    def settle(self, turn: Turn, status: Status) -> None:
        turn.seal(status, self.now())
        self.order.append(turn)

    def forget(self, turn: Turn) -> None:
        stream = self.known[turn.stream]
        self.order.remove(turn)
        del stream.turns[turn.number]
        for request_id in [name for name, number in stream.requests.items() if number == turn.number]:
            del stream.requests[request_id]

    # what always holds

    async def _observe(self, turn: Turn) -> None:
        page = await self.store.read(GenerationKey(turn.stream, turn.number), 0, 10_000)
        assert page.first_offset <= len(turn.records) + 1
        for record in page.records:
            if record.offset <= len(turn.records):
                assert record == turn.records[record.offset - 1]
            else:
                turn.records.append(record)
        assert page.last_offset == len(turn.records)
        turn.check_log()

    @invariant()
    def everything_agrees(self) -> None:
        """Logs, contents, jobs, listings and counts are those of the oracle, on both replicas."""

        async def work() -> None:
            for turn in self.turns:
                await self._observe(turn)
                await self._check_job(turn)
            for manager in self.managers:
                await self._check_listings(manager)

        if hasattr(self, "managers"):
            self.do(work())

    async def _check_job(self, turn: Turn) -> None:
        owner, expected = self.owner(turn), turn.content
        for manager in self.managers:
            job = await manager.job(turn.stream_id, **owner, generation=turn.number)
            assert (job.status, job.last_offset) == (turn.status, len(turn.records))
            assert job.metadata == replace(Metadata(), **turn.metadata)
            assert job.terminal == (None if turn.active else turn.records[-1])
            snapshot = await manager.snapshot(turn.stream_id, **owner, generation=turn.number)
            assert snapshot == expected
            self._check_fold(turn, expected)

    @staticmethod
    def _check_fold(turn: Turn, expected: Snapshot) -> None:
        """Cut in two, the first half through `dump` and `load`: the same."""
        half = Fold()
        half.apply_all(turn.records[: len(turn.records) // 2])
        whole = Fold.load(half.dump())
        whole.apply_all(record for record in turn.records if not record.terminal)
        assert whole.snapshot() == expected

    async def _check_listings(self, manager: GenerationManager) -> None:
        counts = await manager.counts()
        assert counts.total == len(self.turns)
        for status in Status:
            assert counts.by_status[status] == sum(turn.status is status for turn in self.turns)
        for owner in OWNERS:
            mine = {(turn.stream, turn.number): turn for turn in self.turns if self.known[turn.stream].owner == owner}
            assert {job.key for job in await manager.jobs(**owner._asdict())} == set(mine)
            active = {job.key for job in await manager.active(**owner._asdict())}
            assert active == {key for key, turn in mine.items() if turn.active}
        assert len(await manager.jobs(user=ANYONE)) == len(self.turns)
