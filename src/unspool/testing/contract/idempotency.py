"""Idempotent starts, and who may see what."""

from __future__ import annotations

import asyncio

import pytest

from unspool.errors import InvalidArgument, NotFound
from unspool.jobs import ANYONE, Status
from unspool.manager import GenerationManager
from unspool.outcomes import Unknown
from unspool.producer import Generation
from unspool.testing.contract.kit import LEASE, Cluster, Puppet, begin, eventually, read, settled


class TestIdempotency:
    """Scenario 58."""

    async def test_thirty_two_starts_at_once_are_one_generation(self, cluster: Cluster) -> None:
        """Scenario 58: the 31 others attach; so does a retry after the end; a new key starts anew."""
        replicas = [await cluster.replica("a"), await cluster.replica("b")]
        began: list[int] = []
        end = asyncio.Event()

        async def run(generation: Generation) -> None:
            began.append(generation.generation)
            await end.wait()

        answers = await asyncio.gather(*(replicas[n % 2].start("s", run, user="u", request_id="r") for n in range(32)))
        assert sum(not answer.attached for answer in answers) == 1
        assert {answer.key for answer in answers} == {answers[0].key}

        async def one_began() -> bool:
            return began == [1]

        await eventually(one_began)
        end.set()
        await settled(replicas[0])
        late = await replicas[1].start("s", run, user="u", request_id="r")
        assert (late.attached, late.status, late.generation) == (True, Status.COMPLETE, 1)
        anew = await replicas[1].start("s", run, user="u", request_id="another")
        assert (anew.attached, anew.generation) == (False, 2)

    async def test_an_attempt_that_failed_before_it_said_anything_gives_its_id_back(self, cluster: Cluster) -> None:
        """Its owner died at once: the same request, repeated, gets an answer, and holds the id from then on."""
        one, two = await cluster.replica("a", lease=LEASE), await cluster.replica("b")
        await begin(one, request_id="r")
        await cluster.kill(one)
        job = await settled(two)
        assert job.terminal is not None
        assert (job.terminal.data["code"], job.last_offset) == ("owner_lost", 1)
        puppet = Puppet()
        again = await two.start("s", puppet, user="u", request_id="r")
        assert (again.attached, again.generation) == (False, 2)
        await puppet.say("here it is")
        assert (await two.start("s", Puppet(), user="u", request_id="r")).generation == 2
        await two.delete("s", user="u", generation=1)
        assert (await two.start("s", Puppet(), user="u", request_id="r")).generation == 2

    async def test_a_failure_that_said_something_keeps_its_id(self, cluster: Cluster) -> None:
        """What was read cannot be taken back: a repeated request is told how it ended."""
        one, two = await cluster.replica("a", lease=LEASE), await cluster.replica("b")
        run = await begin(one, request_id="r")
        await run.say("so far")
        await cluster.kill(one)
        await settled(two)
        again = await two.start("s", Puppet(), user="u", request_id="r")
        assert (again.attached, again.generation) == (True, 1)

    async def test_an_attached_start_runs_nothing(self, manager: GenerationManager) -> None:
        """The run that came with the second start is never called."""
        await begin(manager, request_id="r")

        async def never(_: Generation) -> None:
            raise AssertionError("called")

        job = await manager.start("s", never, user="u", request_id="r")
        assert (job.generation, job.status) == (1, Status.RUNNING)


class TestAccess:
    """Scenarios 59 and 60, and trusted code."""

    @pytest.mark.parametrize(("user", "tenant"), [("bob", None), (None, None), ("alice", "other")])
    async def test_not_yours_is_as_not_there(self, cluster: Cluster, user: str | None, tenant: str | None) -> None:
        """Scenario 59: every verb answers a stranger about a stream of Alice's exactly as about one that is not."""
        one, two = await cluster.replica("a"), await cluster.replica("b")
        await begin(one, "hers", user="alice", request_id="r")
        for manager in (one, two):
            answers: list[str] = []
            for stream in ("hers", "nobodys"):
                asked = [
                    manager.view(stream, user=user, tenant=tenant),
                    manager.view(stream, user=user, tenant=tenant, generation=1, after=99),
                    manager.job(stream, user=user, tenant=tenant),
                    manager.snapshot(stream, user=user, tenant=tenant),
                    manager.update(stream, user=user, tenant=tenant, sender="me"),
                    manager.was_synced(stream, user=user, tenant=tenant),
                ]
                for ask in asked:
                    with pytest.raises(NotFound) as raised:
                        await ask
                    answers.append(f"{raised.value} {raised.value.details}")
                assert await manager.resume_state(stream, user=user, tenant=tenant) is None
                assert await manager.abort(stream, user=user, tenant=tenant) == Unknown()
                assert not await manager.delete(stream, user=user, tenant=tenant, generation=1)
            assert len(set(answers)) == 1
            assert await manager.active(user=user, tenant=tenant) == []
            assert await manager.jobs(user=user, tenant=tenant) == []
        job = await one.job("hers", user="alice")
        assert (job.status, job.abort, job.metadata.sender) == (Status.RUNNING, None, None)

    async def test_a_job_without_a_user_belongs_to_no_user(self, manager: GenerationManager) -> None:
        """Scenario 59, where the owner field is missing: nobody in particular is not everybody."""
        await begin(manager, user=None)
        with pytest.raises(NotFound):
            await manager.job("s", user="bob")
        assert (await manager.job("s")).status is Status.RUNNING

    async def test_active_lists_only_what_is_active(self, cluster: Cluster) -> None:
        """Scenario 60, A24: running and paused ones of this user, on either replica."""
        one, two = await cluster.replica("a"), await cluster.replica("b")
        runs = {
            name: await begin(one, name) for name in ("running", "paused", "complete", "error", "aborted", "deleted")
        }
        await runs["paused"].emit("approval.requested", action_id="a")
        runs["complete"].finish()
        runs["error"].fail(RuntimeError("no"))
        runs["deleted"].finish()
        await one.abort("aborted", user="u")
        for name in ("complete", "error", "deleted"):
            await settled(one, name)
        await one.delete("deleted", user="u", generation=1)
        await begin(one, "others", user="v")
        for manager in (one, two):
            assert [job.stream_id for job in await manager.active(user="u")] == ["running", "paused"]
            assert await manager.active(user="w") == []
            assert {job.stream_id for job in await manager.jobs(user="u")} == set(runs) - {"deleted"}
            assert [job.stream_id for job in await manager.jobs(user="u", status=Status.ERROR)] == ["error"]
            counts = await manager.counts()
            assert (counts.total, counts.by_status[Status.RUNNING]) == (6, 2)

    async def test_trusted_code_reaches_everything(self, cluster: Cluster) -> None:
        """ANYONE stands for whoever owns it; a job on A is listed, watched, told and stopped from B (A27)."""
        one, two = await cluster.replica("a"), await cluster.replica("b")
        run = await begin(one, user="alice")
        await run.say("x")
        viewer = await two.view("s", user=ANYONE)
        assert [record.type for record in await viewer.records() or ()] == ["text.delta"]
        viewer.close()
        assert (await two.update("s", user=ANYONE, sender="Bo")).metadata.sender == "Bo"
        assert [job.stream_id for job in await two.jobs(user=ANYONE)] == ["s"]
        assert (await two.abort("s", user=ANYONE)).ok

    async def test_bad_arguments_are_named(self, manager: GenerationManager) -> None:
        """What no store should see is refused at the door."""
        for stream_id in ("", "a\nb", "é", "x" * 257):
            with pytest.raises(InvalidArgument):
                await manager.start(stream_id, Puppet(), user="u")
        with pytest.raises(InvalidArgument):
            await manager.start("s", Puppet(), user="u", request_id="")
        with pytest.raises(InvalidArgument):
            await manager.start("s", Puppet(), user="u", expect_generation=-1)
        with pytest.raises(InvalidArgument):
            await manager.start("s", Puppet(), user="u", metadata={"unknown": 1})
        assert (await manager.counts()).total == 0

    async def test_a_run_in_the_callers_own_task(self, manager: GenerationManager) -> None:
        """`open`: leaving normally completes, for whoever follows."""
        async with manager.open("s", user="u", metadata={"model": "m"}) as generation:
            reader = await read(manager)
            await generation.text("x")
        await reader.end()
        assert reader.types == ["text.delta", "completed"]
