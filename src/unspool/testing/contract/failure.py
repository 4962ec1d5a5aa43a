"""Failure and time: dead owners, pauses, stalls, outages, capacity, shutting down."""

from __future__ import annotations

import asyncio

import pytest

from unspool.content import Snapshot
from unspool.errors import CapacityExceeded, GenerationStopped, ShuttingDown, ViewerReleased
from unspool.jobs import Job, Limits, Status
from unspool.manager import GenerationManager
from unspool.options import Hooks
from unspool.producer import Generation
from unspool.testing.contract.kit import LEASE, Cluster, Puppet, begin, eventually, read, settled, within


class TestFailure:
    """Scenarios 52 to 57."""

    async def test_a_dead_owner_is_noticed_and_said_aloud(self, cluster: Cluster) -> None:
        """Scenario 52: a terminal error at every viewer, no longer active, the content kept, a new turn starts."""
        one, two = await cluster.replica("a", lease=LEASE), await cluster.replica("b")
        run = await begin(one)
        await run.say("so far")
        reader = await read(two)
        await reader.reach(1)
        await cluster.kill(one)
        got = await reader.end()
        assert (got[-1].type, got[-1].data["code"], got[-1].data["retryable"]) == ("failed", "owner_lost", True)
        assert await two.active(user="u") == []
        assert (await two.snapshot("s", user="u")).text == "so far"
        assert (await two.start("s", Puppet(), user="u")).generation == 2

    async def test_a_dead_owners_partial_is_saved_once(self, cluster: Cluster) -> None:
        """Of three survivors one takes over; a slow hook does not make another one do it again."""
        saved: list[str] = []

        async def save(_: Job, content: Snapshot) -> None:
            saved.append(content.text)
            await asyncio.sleep(1.5 * LEASE)

        one = await cluster.replica("a", lease=LEASE)
        others = [await cluster.replica(name, lease=LEASE, hooks=Hooks(save_partial=[save])) for name in "bcd"]
        run = await begin(one)
        await run.say("so far")
        await cluster.kill(one)
        job = await settled(others[0])
        assert job.status is Status.ERROR
        assert saved == ["so far"]

    async def test_a_stop_that_a_dead_owner_never_heard_is_honoured(self, cluster: Cluster) -> None:
        """Asked for before the crash, it is sealed as aborted, not as an error."""
        one, two = await cluster.replica("a", lease=LEASE), await cluster.replica("b")
        run = await begin(one)
        await run.say("x")
        await cluster.kill(one)
        await two.store.request_abort((await two.job("s", user="u")).key, "user", None)
        assert (await settled(two)).status is Status.ABORTED

    async def test_a_paused_owner_is_fenced_when_it_wakes(self, cluster: Cluster) -> None:
        """Its next append is refused, and its run is stopped; the log stays as the survivor sealed it."""
        one, two = await cluster.replica("a", lease=LEASE), await cluster.replica("b")
        run = await begin(one)
        await run.say("x")
        await cluster.pause(one)
        job = await settled(two)
        with pytest.raises(GenerationStopped):
            await run.say("late", "later")
        await within(run.signalled.wait())
        assert (await two.job("s", user="u")) == job

    async def test_a_renewed_lease_keeps_a_quiet_run_alive(self, cluster: Cluster) -> None:
        """Scenario 53 in small: many leases long and many retentions long, it is neither reaped nor taken over."""
        one = await cluster.replica("a", lease=LEASE, retention=0.0, completed_retention=0.0)
        two = await cluster.replica("b", lease=LEASE, retention=0.0, completed_retention=0.0)
        run = await begin(one)
        await run.say("x")
        created = (await one.job("s", user="u")).lease.expires_at

        async def renewed() -> bool:
            return (await two.job("s", user="u")).lease.expires_at > created + LEASE

        await eventually(renewed)
        job = await two.job("s", user="u")
        assert (job.lease.epoch, job.status) == (1, Status.RUNNING)
        await run.say("y")
        assert (await two.snapshot("s", user="u")).text == "xy"

    async def test_a_stalled_run_is_aborted_and_zero_disables_it(self, cluster: Cluster) -> None:
        """Scenario 54: silent past its limit; viewers are told, memory is released; a paused run is not stalled."""
        manager = await cluster.replica()
        silent = await begin(manager, "silent", limits=Limits(stall=1.0))
        waiting = await begin(manager, "waiting", limits=Limits(stall=1.0))
        await waiting.emit("approval.requested", action_id="a")
        await begin(manager, "free", limits=Limits(stall=0))
        reader = await read(manager, "silent")
        got = await reader.end()
        assert (got[-1].type, got[-1].data["by"], got[-1].data["reason"]) == ("aborted", "system", "stalled")
        await within(silent.signalled.wait())

        async def released() -> bool:
            return not any(key.stream_id == "silent" for key in manager.replica.tails)

        await eventually(released)
        assert (await manager.job("waiting", user="u")).status is Status.REQUIRES_ACTION
        assert (await manager.job("free", user="u")).status is Status.RUNNING

    async def test_a_run_past_its_duration_is_aborted(self, manager: GenerationManager) -> None:
        """However busy it is."""

        async def busy(generation: Generation) -> None:
            while True:
                await generation.text("x")
                await asyncio.sleep(0.001)

        await manager.start("s", busy, user="u", limits=Limits(duration=0.1))
        job = await settled(manager)
        assert job.terminal is not None
        assert (job.status, job.terminal.data["reason"]) == (Status.ABORTED, "duration")

    async def test_a_log_past_its_bytes_fails(self, manager: GenerationManager) -> None:
        """Its bound is said, and what was written stays."""

        async def run(generation: Generation) -> None:
            while True:
                await generation.text("x" * 100)

        await manager.start("s", run, user="u", limits=Limits(log_bytes=1050))  # ids of parts count, too
        job = await settled(manager)
        assert job.terminal is not None
        assert (job.status, job.terminal.data["code"]) == (Status.ERROR, "limit_exceeded")
        assert (await manager.snapshot("s", user="u")).text == "x" * 1000

    async def test_pausing_for_an_approval_shows_in_the_status(self, manager: GenerationManager) -> None:
        """`requires_action` while one is pending, active all the time, and in the resume state."""
        run = await begin(manager)
        await run.emit("approval.requested", action_id="a", what="delete all")
        await run.emit("approval.requested", action_id="b")
        assert (await manager.counts()).by_status[Status.REQUIRES_ACTION] == 1
        assert len(await manager.active(user="u")) == 1
        state = await manager.resume_state("s", user="u")
        assert state is not None
        assert [action["action_id"] for action in state.approvals] == ["a", "b"]
        await run.emit("approval.resolved", action_id="a", decision="no")
        assert (await manager.job("s", user="u")).status is Status.REQUIRES_ACTION
        await run.emit("approval.resolved", action_id="b", decision="yes")
        assert (await manager.job("s", user="u")).status is Status.RUNNING
        run.finish()
        assert (await settled(manager)).status is Status.COMPLETE

    async def test_shutting_down_interrupts_saves_and_releases(self, cluster: Cluster) -> None:
        """Scenario 57: ten runs are marked interrupted, each partial is saved once, viewers of others are released."""
        saved: list[str] = []

        async def save(job: Job, _: Snapshot) -> None:
            saved.append(job.stream_id)

        one, two = await cluster.replica("a", hooks=Hooks(save_partial=[save])), await cluster.replica("b")
        runs = [await begin(one, f"s{n}") for n in range(10)]
        for run in runs:
            await run.say("x")
        other = await begin(two, "other")
        await other.say("y")
        own = await read(one, "s0")
        foreign = await one.view("other", user="u", after=1)
        waiting = asyncio.ensure_future(foreign.records())
        await asyncio.sleep(0)
        await within(one.stop(drain=0))
        with pytest.raises(ViewerReleased) as released:
            await within(waiting)
        assert released.value.details == {"generation": 1, "offset": 1}
        await own.end()
        assert own.types == ["text.delta", "failed"]
        for n in range(10):
            job = await two.job(f"s{n}", user="u")
            assert job.terminal is not None
            assert (job.status, job.terminal.data["code"]) == (Status.ERROR, "interrupted")
        assert sorted(saved) == sorted(f"s{n}" for n in range(10))
        assert (await two.job("other", user="u")).status is Status.RUNNING

    async def test_draining_lets_runs_finish(self, cluster: Cluster) -> None:
        """Runs that end within the drain time complete; nothing new is started meanwhile."""
        manager, other = await cluster.replica("a"), await cluster.replica("b")
        run = await begin(manager)
        stopping = asyncio.ensure_future(manager.stop(drain=10.0))

        async def closing() -> bool:
            return manager.closing

        await eventually(closing)
        with pytest.raises(ShuttingDown):
            await manager.start("new", Puppet(), user="u")
        await run.say("last words")
        run.finish()
        await within(stopping)
        assert (await other.job("s", user="u")).status is Status.COMPLETE
        assert (await other.snapshot("s", user="u")).text == "last words"

    async def test_releasing_viewers_does_not_stop_the_replica_from_stopping(self, cluster: Cluster) -> None:
        """A server that is told to stop releases its viewers first; its runs are still ended afterwards."""
        manager, other = await cluster.replica("a"), await cluster.replica("b")
        run = await begin(manager)
        manager.replica.release_viewers()
        await within(manager.stop(drain=0))
        assert run.signalled.is_set()
        assert (await other.job("s", user="u")).settled


class TestCapacity:
    """Scenario 55, for back ends that bound their jobs; the others have more places than a test can take."""

    async def test_an_ended_job_makes_room_and_a_running_one_never(self, manager: GenerationManager) -> None:
        """Scenario 55, A26: refused clearly when nothing can go."""
        limit = getattr(manager.store, "_max_jobs", None)
        if limit is None or limit > 100:
            pytest.skip("this back end does not bound the number of jobs")
        runs = [await begin(manager, f"s{n}") for n in range(limit)]
        with pytest.raises(CapacityExceeded):
            await manager.start("more", Puppet(), user="u")
        assert (await manager.counts()).by_status[Status.RUNNING] == limit
        runs[3].finish()
        await settled(manager, "s3")
        await begin(manager, "more")
        assert (await manager.counts()).total == limit
        assert await manager.resume_state("s3", user="u") is None
        await begin(manager, "s0")
        assert (await manager.job("s0", user="u")).generation == 2
