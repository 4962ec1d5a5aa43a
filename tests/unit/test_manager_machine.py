"""A state machine over two managers: everything a caller can do, in any order, against an oracle that is lists."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.fuzz.inputs import deltas, vocabulary
from tests.unit.machine_oracle import Stream, Turn
from tests.unit.machine_world import COMPLETED_RETENTION, OWNERS, RETENTION, STREAMS, Follower, World
from unspool.errors import (
    CapacityExceeded,
    GenerationConflict,
    GenerationStopped,
    Gone,
    InvalidPosition,
    NotFound,
    RunFailed,
    ViewerReleased,
)
from unspool.events import Event
from unspool.jobs import GenerationKey, Job, Owner, Status, stream_name, stream_of
from unspool.outcomes import AlreadySettled, Stopped, Unknown
from unspool.testing.contract.kit import Puppet

streams = st.sampled_from(STREAMS)
owners = st.sampled_from(OWNERS)
replicas = st.sampled_from([0, 1])
places = st.integers(0, 99)


class Machine(World):
    """Three ids of streams, four owners in two tenants, and whatever they do."""

    # creating

    @rule(
        name=streams, owner=owners, replica=replicas, request_id=st.sampled_from([None, None, "r1", "r2"]),
        expect=st.sampled_from([None, None, None, "right", 0, 7]), title=st.sampled_from([None, "T"]),
    )  # fmt: skip
    def create(
        self, name: str, owner: Owner, replica: int, request_id: str | None, expect: Any, title: str | None
    ) -> None:
        """A first generation or the next turn, the same request again, a stale expectation, somebody else's stream."""
        self.do(self._create(name, owner, replica, request_id, expect, title))

    async def _create(
        self, name: str, owner: Owner, replica: int, request_id: str | None, expect: Any, title: str | None
    ) -> None:
        key = stream_name(name, owner.tenant)
        stream = self.known.get(key)
        used = stream.used if stream is not None else 0
        expect = used if expect == "right" else expect
        puppet = Puppet()

        def start() -> Coroutine[Any, Any, Job]:
            return self.managers[replica].start(
                name, puppet, **owner._asdict(), request_id=request_id, expect_generation=expect,
                metadata={"title": title} if title else None,
            )  # fmt: skip

        if stream is not None and stream.owner != owner:
            with pytest.raises(NotFound):
                await start()
            return
        held = stream.holder(request_id) if stream is not None else None
        if held is not None:
            job = await start()
            assert (job.attached, job.generation) == (True, held.number)
            return
        if expect is not None and expect != used:
            with pytest.raises(GenerationConflict):
                await start()
            return
        old = stream.last if stream is not None and stream.last is not None and stream.last.active else None
        if sum(turn.active for turn in self.turns) >= self.max_jobs and old is None:
            with pytest.raises(CapacityExceeded):  # and nothing is forgotten for it
                await start()
            return
        while len(self.turns) >= self.max_jobs and self.order:
            self.forget(self.order[0])
        job = await start()
        assert (job.generation, job.attached, job.status) == (used + 1, False, Status.RUNNING)
        if stream is None:
            stream = self.known[key] = Stream(owner)
        stream.used = job.generation
        turn = stream.turns[job.generation] = Turn(key, job.generation, replica)
        turn.metadata = {"title": title} if title else {}
        self.puppets[turn] = puppet
        if request_id is not None:
            stream.requests[request_id] = job.generation
        if old is not None:
            self.settle(old, Status.REPLACED)
        await puppet.generation()

    # emitting

    @precondition(lambda self: self.running)
    @rule(place=places, events=st.lists(deltas | vocabulary, min_size=1, max_size=12), apart=st.booleans())
    def emit(self, place: int, events: list[Event], apart: bool) -> None:
        """Events of every type; deltas that are emitted without a pause may merge."""
        turn = self.running[place % len(self.running)]

        async def work() -> None:
            generation = await self.puppets[turn].generation()
            for event in events:
                await generation.emit_event(event)
                turn.emit(event)
                if apart:
                    await asyncio.sleep(0)
            await generation._writer.flush()

        self.do(work())

    @precondition(lambda self: self.running)
    @rule(place=places, replica=replicas, title=st.sampled_from(["X", None]))
    def update(self, place: int, replica: int, title: str | None) -> None:
        """Metadata, set and cleared from either side."""
        turn = self.running[place % len(self.running)]

        async def work() -> None:
            if turn.number == self.known[turn.stream].used:
                await self.managers[replica].update(turn.stream_id, **self.owner(turn), title=title, prompt_tokens=7)
                turn.metadata |= {"title": title, "prompt_tokens": 7}
            await (await self.puppets[turn].generation()).update(icon_url=title)
            turn.metadata["icon_url"] = title

        self.do(work())

    @precondition(lambda self: self.puppets)
    @rule(place=places, event=deltas)
    def emit_late(self, place: int, event: Event) -> None:
        """A run that was stopped, replaced or has ended writes on: nothing of it arrives anywhere."""
        over = [turn for turn in self.puppets if not turn.active]
        if not over:
            return

        async def work() -> None:
            generation = await self.puppets[over[place % len(over)]].generation()
            try:
                await generation.emit_event(event)
                await generation._writer.flush()
            except GenerationStopped:
                return
            raise AssertionError("a generation that has ended took an event")

        self.do(work())

    # ending

    @precondition(lambda self: self.running)
    @rule(place=places, how=st.sampled_from(["return", "fail", "refuse", "cancel"]))
    def finish(self, place: int, how: str) -> None:
        """The run comes to its end, one way or another."""
        turn = self.running[place % len(self.running)]

        async def work() -> None:
            puppet = self.puppets[turn]
            match how:
                case "return":
                    puppet.finish()
                case "fail":
                    puppet.fail(ValueError("no"))
                case "refuse":
                    puppet.fail(RunFailed("no", code="run_failed"))
                case _:
                    puppet._end.cancel()
            status = {"return": Status.COMPLETE, "cancel": Status.ABORTED}.get(how, Status.ERROR)
            await self._until_settled(turn, status)

        self.do(work())

    async def _until_settled(self, turn: Turn, status: Status) -> None:
        run = self.managers[turn.replica].replica.runs.get(GenerationKey(turn.stream, turn.number))
        if run is not None:
            await run.done.wait()
        job = await self.store.get(turn.stream, turn.number)
        assert job.status is status
        self.settle(turn, status)

    @precondition(lambda self: self.known)
    @rule(name=streams, owner=owners, replica=replicas, older=st.integers(-1, 1), reason=st.sampled_from([None, "r"]))
    def abort(self, name: str, owner: Owner, replica: int, older: int, reason: str | None) -> None:
        """Stop from either replica: the last, an older or a future generation, one's own or somebody else's."""
        stream = self.known.get(stream_name(name, owner.tenant))
        generation = None if older == 0 or stream is None else max(stream.used + older, 1)
        turn = stream and stream.turns.get(generation or stream.used)

        async def work() -> None:
            outcome = await self.managers[replica].abort(name, generation=generation, **owner._asdict(), reason=reason)
            if turn is None or stream is None or stream.owner != owner:
                assert isinstance(outcome, Unknown)
                return
            assert isinstance(outcome, Stopped if turn.active else AlreadySettled)
            assert outcome.job is not None
            if turn.active:
                self.settle(turn, Status.ABORTED)
                await asyncio.wait_for(self.puppets[turn].signalled.wait(), 5)
            assert outcome.job.status is turn.status
            await self._observe(turn)
            assert (outcome.text, outcome.content) == (turn.content.text, turn.content.parts)
            assert outcome.usage == turn.content.usage
            assert outcome.final == turn.records[-1]

        self.do(work())

    @rule(replica=replicas)
    def restart(self, replica: int) -> None:
        """A replica is shut down: its runs are interrupted, its viewers released; another one takes its place."""

        async def work() -> None:
            mine = [turn for turn in self.running if turn.replica == replica]
            await self.managers[replica].stop(drain=0)
            sealed = list(self.store._settled)  # those of one replica may be sealed in any order
            for turn in sorted(mine, key=lambda turn: sealed.index(GenerationKey(turn.stream, turn.number))):
                self.settle(turn, Status.ERROR)
            self.managers[replica] = await self._manager()

        self.do(work())

    # keeping

    @rule(seconds=st.sampled_from([0.05, 1.0, 19.0, 45.0]))
    def wait(self, seconds: float) -> None:
        """Time passes, and then what is past its retention is swept away: that, and nothing else."""

        async def work() -> None:
            await asyncio.sleep(seconds)
            for manager in self.managers:
                assert manager._supervisor is not None
                await manager._supervisor.sweep()
                await manager._supervisor.retain()

        self.do(work())
        for turn in list(self.order):
            kept = COMPLETED_RETENTION if turn.status is Status.COMPLETE else RETENTION
            if self.now() - turn.settled_at >= kept:
                self.forget(turn)

    @precondition(lambda self: self.order)
    @rule(place=places, owner=owners, replica=replicas)
    def delete(self, place: int, owner: Owner, replica: int) -> None:
        """An ended generation is deleted early, by its owner; a running one never."""
        turns = self.turns
        turn = turns[place % len(turns)]
        mine = self.known[turn.stream].owner == owner
        if self.has_its_own(turn.stream, owner):
            return
        deleted = self.do(self.managers[replica].delete(turn.stream_id, **owner._asdict(), generation=turn.number))
        assert deleted is (mine and not turn.active)
        if deleted:
            self.forget(turn)

    # following

    @precondition(lambda self: self.known)
    @rule(
        place=places, owner=st.sampled_from([None, None, *OWNERS]), replica=replicas, wire=st.booleans(),
        snapshot=st.booleans(),
    )  # fmt: skip
    def follow(self, place: int, owner: Owner | None, replica: int, wire: bool, snapshot: bool) -> None:
        """A client connects for the first time, to any generation; one who is not the owner finds nothing."""
        turns = self.turns
        if not turns:
            return
        turn = turns[place % len(turns)]
        mine = self.known[turn.stream].owner
        if owner is not None and owner != mine:
            if self.has_its_own(turn.stream, owner):
                return
            with pytest.raises(NotFound):
                self.do(self.managers[replica].view(turn.stream_id, **owner._asdict(), generation=turn.number))
            return
        follower = Follower(turn, wire)
        self.followers.append(follower)
        self._attach(follower, replica, snapshot)

    def _attach(self, follower: Follower, replica: int, snapshot: bool) -> None:
        turn = follower.turn
        view = self.managers[replica].view(
            turn.stream_id, **self.owner(turn), generation=turn.number, after=follower.position, snapshot=snapshot
        )
        if turn.number not in self.known[turn.stream].turns:
            with pytest.raises(Gone):
                self.do(view)
            self.followers.remove(follower)
            return
        viewer = follower.viewer = self.do(view)
        follower.replica = replica
        follower.ended = False
        if not snapshot and follower.position < len(turn.records):
            assert viewer.end is None

    @precondition(lambda self: self.followers)
    @rule(place=places, replica=replicas, snapshot=st.booleans())
    def reconnect(self, place: int, replica: int, snapshot: bool) -> None:
        """It drops, and resumes anywhere, by its position or with a snapshot."""
        follower = self.followers[place % len(self.followers)]
        self.do(follower.drop())
        self._attach(follower, replica, snapshot)

    @precondition(lambda self: self.followers)
    @rule(place=places)
    def drop(self, place: int) -> None:
        """It leaves for good."""
        self.do(self.followers.pop(place % len(self.followers)).drop())

    @precondition(lambda self: self.followers)
    @rule(place=places)
    def read(self, place: int) -> None:
        """It takes what is there, if something is; a pause is cancelled without a loss."""
        follower = self.followers[place % len(self.followers)]
        self.do(self._read(follower, 0.01))

    async def _read(self, follower: Follower, seconds: float) -> bool:
        """Whether something came."""
        if follower.viewer is None:
            return False
        try:
            async with asyncio.timeout(seconds):
                records = await follower.read()
        except TimeoutError:
            return False
        except (NotFound, Gone):
            assert follower.turn.number not in self.known[follower.turn.stream].turns
            follower.viewer = None
            return False
        except ViewerReleased:
            follower.viewer = None
            return False
        if records is None:
            follower.viewer = None
            assert follower.position == len(follower.turn.records)
            return False
        follower.take(records)
        return True

    @precondition(lambda self: self.followers)
    @rule(place=places)
    def catch_up(self, place: int) -> None:
        """A follower that stays gets everything that was written, up to the terminal record."""
        follower = self.followers[place % len(self.followers)]

        async def work() -> None:
            while await self._read(follower, 5.0):
                if follower.turn.active and not follower.turn.shown(follower.position, len(follower.turn.records)):
                    break
            if follower.viewer is None:
                return
            assert not follower.turn.shown(follower.position, len(follower.turn.records))
            assert follower.ended is not follower.turn.active

        self.do(work())

    @precondition(lambda self: self.known)
    @rule(place=places, replica=replicas, beyond=st.integers(1, 3), owner=owners)
    def ask_for_what_is_not(self, place: int, replica: int, beyond: int, owner: Owner) -> None:
        """Positions beyond the end, generations that are to come or gone, streams of others: each is said aloud."""
        key, stream = list(self.known.items())[place % len(self.known)]
        name = stream_of(key)[0]
        manager = self.managers[replica]
        mine = stream.owner._asdict()

        async def work() -> None:
            for number in range(1, stream.used + 2):
                if number in stream.turns:
                    after = len(stream.turns[number].records) + beyond
                    with pytest.raises(InvalidPosition):
                        await manager.view(name, **mine, generation=number, after=after)
                else:
                    with pytest.raises(Gone if number <= stream.used else NotFound):
                        await manager.job(name, **mine, generation=number)
                    assert await manager.resume_state(name, **mine, generation=number) is None
            if owner != stream.owner and not self.has_its_own(key, owner):
                theirs = owner._asdict()
                for verb in (manager.job, manager.snapshot, manager.was_synced, manager.update):
                    with pytest.raises(NotFound):
                        await verb(name, **theirs)
                assert await manager.resume_state(name, **theirs) is None

        self.do(work())


@pytest.mark.timeout(3600)  # of the deep profile
class TestMachine(Machine.TestCase):
    """The machine, as pytest runs it."""

    settings = settings(max_examples=2 * settings().max_examples)
