"""A state machine over the manager: everything a caller can do, in any order, against a model that is a list."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from unspool.backends.memory import MemoryStore, MemoryTransport
from unspool.content import Fold, fold
from unspool.errors import GenerationStopped
from unspool.events import Record
from unspool.jobs import ACTIVE, Status
from unspool.manager import GenerationManager
from unspool.options import Options
from unspool.outcomes import AlreadySettled, Stopped
from unspool.testing.contract.kit import Puppet, settled
from unspool.testing.hostile import HostileTransport
from unspool.viewer import Viewer


class Follower:
    """A client: what it was given so far, and its viewer while it is connected."""

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.viewer: Viewer | None = None
        self.position = 0
        self.fold = Fold()
        self.offsets: list[int] = []
        self.ended = False

    def take(self, records: Any) -> None:
        for record in records or ():
            self.fold.apply(record)
            if record.type == "sync":
                self.offsets = list(range(1, record.offset + 1))
            else:
                self.offsets.append(record.offset)
            self.position = record.offset
            self.ended = record.terminal


class Machine(RuleBasedStateMachine):
    """One stream, two replicas, hints that cannot be relied on, small windows and a log that is trimmed."""

    followers = Bundle("followers")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.run: Puppet | None = None
        self.generation = 0
        self.status: dict[int, Status] = {}
        self.written: dict[int, str] = {}
        self.count = 0
        self.made: list[Follower] = []
        self.do(self._begin())

    def do(self, work: Any) -> Any:
        async def timed() -> Any:
            async with asyncio.timeout(10):
                return await work

        return self.loop.run_until_complete(timed())

    async def _begin(self) -> None:
        self.store = MemoryStore()
        transport = MemoryTransport()
        options = Options(
            window=6,
            log_records=24,
            checkpoint_every=8,
            poll=0.005,
            sweep=0.005,
            drain=0.0,
            abort_grace=0.1,
            lease=1.5,
        )
        self.managers = [
            GenerationManager(self.store, HostileTransport(transport, seed=seed, delay=0.001), options=options)
            for seed in (1, 2)
        ]
        for manager in self.managers:
            await manager.start_up()

    def teardown(self) -> None:
        async def end() -> None:
            for follower in self.made:
                if follower.viewer is not None:
                    follower.viewer.close()
            for manager in self.managers:
                await manager.stop(drain=0)
            await asyncio.sleep(0)

        self.do(end())
        assert not asyncio.all_tasks(self.loop)
        self.loop.close()

    @property
    def running(self) -> bool:
        return self.status.get(self.generation) in ACTIVE

    @rule(replica=st.sampled_from([0, 1]))
    def create(self, replica: int) -> None:
        """A first generation, or the next turn: the running one is replaced."""

        async def work() -> None:
            old, self.run = self.run, Puppet()
            job = await self.managers[replica].start("s", self.run)
            assert job.generation == self.generation + 1
            await self.run.generation()
            if old is not None and self.running:
                self.status[self.generation] = Status.REPLACED
                old_job = await self.managers[0].job("s", generation=self.generation)
                assert old_job.status is Status.REPLACED
            self.generation = job.generation
            self.status[job.generation] = Status.RUNNING
            self.written[job.generation] = ""

        self.do(work())

    @precondition(lambda self: self.running)
    @rule(words=st.integers(1, 15), apart=st.booleans())
    def emit(self, words: int, apart: bool) -> None:
        """Text that says its own place, one record each or merging."""

        async def work() -> None:
            assert self.run is not None
            generation = await self.run.generation()
            for _ in range(words):
                self.count += 1
                word = f"{self.count} "
                try:
                    await generation.text(word)
                except GenerationStopped:
                    return  # replaced on the other replica, and heard of it just now
                self.written[self.generation] += word
                if apart:
                    await asyncio.sleep(0)
            await generation._writer.flush()

        self.do(work())

    @precondition(lambda self: self.running)
    @rule()
    def emit_internal(self) -> None:
        """Something that no follower may see."""

        async def work() -> None:
            assert self.run is not None
            await self.run.emit("text.delta", internal=True, text="SECRET", part_id="hidden")

        self.do(work())

    @precondition(lambda self: self.running)
    @rule(fail=st.booleans())
    def finish(self, fail: bool) -> None:
        """The run comes to its end."""

        async def work() -> None:
            assert self.run is not None
            if fail:
                self.run.fail(ValueError("no"))
            else:
                self.run.finish()
            job = await settled(self.managers[0], user=None)
            assert job.status is (Status.ERROR if fail else Status.COMPLETE)
            self.status[self.generation] = job.status

        self.do(work())

    @precondition(lambda self: self.generation > 0)
    @rule(replica=st.sampled_from([0, 1]))
    def abort(self, replica: int) -> None:
        """Stop, from either replica, whatever the status."""

        async def work() -> None:
            outcome = await self.managers[replica].abort("s")
            if self.running:
                assert isinstance(outcome, Stopped)
                assert outcome.text == self.written[self.generation]
                self.status[self.generation] = Status.ABORTED
            else:
                assert isinstance(outcome, AlreadySettled)
                assert outcome.status is self.status[self.generation]

        self.do(work())

    @precondition(lambda self: self.generation > 0)
    @rule(target=followers, replica=st.sampled_from([0, 1]), snapshot=st.booleans())
    def follow(self, replica: int, snapshot: bool) -> Follower:
        """A client connects for the first time."""
        follower = Follower(self.generation)
        self.made.append(follower)
        self._attach(follower, replica, snapshot)
        return follower

    def _attach(self, follower: Follower, replica: int, snapshot: bool) -> None:
        manager = self.managers[replica]
        after = 0 if snapshot else follower.position
        follower.viewer = self.do(manager.view("s", generation=follower.generation, after=after, snapshot=snapshot))

    @rule(follower=followers, replica=st.sampled_from([0, 1]), snapshot=st.booleans())
    def reconnect(self, follower: Follower, replica: int, snapshot: bool) -> None:
        """It drops, and resumes anywhere, by position or with a snapshot."""
        if follower.ended:
            return
        assert follower.viewer is not None
        self.do(self._drop(follower.viewer))
        self._attach(follower, replica, snapshot)

    async def _drop(self, viewer: Viewer) -> None:
        viewer.close()
        assert await viewer.records() is None

    @rule(follower=followers)
    def read(self, follower: Follower) -> None:
        """It takes what is there, if something is."""

        async def work() -> None:
            assert follower.viewer is not None
            try:
                async with asyncio.timeout(0.003):
                    follower.take(await follower.viewer.records())
            except TimeoutError:
                pass

        self.do(work())

    @rule(follower=consumes(followers))
    def catch_up(self, follower: Follower) -> None:
        """In the end every follower has everything that was written, once, and nothing else."""

        async def work() -> None:
            assert follower.viewer is not None
            last = (await self.managers[0].job("s", generation=follower.generation)).last_offset
            log = (await self.store.read((await self.store.get("s", follower.generation)).key, 0, 1000)).records
            shown = max((record.offset for record in log if not record.internal), default=0)
            while follower.position < min(last, shown) and not follower.ended:
                follower.take(await follower.viewer.records())
            follower.viewer.close()
            assert follower.fold.snapshot().text == self.written[follower.generation]
            assert follower.offsets == sorted(set(follower.offsets))
            assert follower.ended is (self.status[follower.generation] not in ACTIVE)

        self.do(work())

    @invariant()
    def the_log_is_whole(self) -> None:
        """Dense offsets, one terminal at most and only at the end; status and counts agree with the model."""

        async def work() -> None:
            counts = await self.managers[1].counts()
            for status in Status:
                assert counts.by_status[status] == list(self.status.values()).count(status)
            for generation, status in self.status.items():
                job = await self.store.get("s", generation)
                log: list[Record] = list((await self.store.read(job.key, 0, 1000)).records)
                assert [record.offset for record in log] == list(range(job.first_offset, job.last_offset + 1))
                assert [record.terminal for record in log[:-1]] == [False] * (len(log) - 1 if log else 0)
                assert job.status is status
                assert (job.terminal is not None) is (status not in ACTIVE)
                if job.first_offset == 1:
                    assert fold(log).text == self.written[generation]
                assert (await self.managers[1].snapshot("s", generation=generation)).text == self.written[generation]

        if self.generation:
            self.do(work())


Machine.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestMachine = Machine.TestCase
