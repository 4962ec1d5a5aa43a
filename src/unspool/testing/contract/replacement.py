"""Replacement: the next turn begins while the last one is still running."""

from __future__ import annotations

import pytest

from unspool.content import Snapshot
from unspool.errors import GenerationConflict, GenerationStopped, NotFound
from unspool.jobs import GenerationKey, Job, Status
from unspool.manager import GenerationManager
from unspool.options import Hooks
from unspool.outcomes import AlreadySettled, Unknown
from unspool.testing.contract.kit import Cluster, Puppet, begin, eventually, read, settled, within


class TestReplacement:
    """Scenarios 45 to 51."""

    @pytest.mark.parametrize("second", ["here", "there"])
    async def test_a_new_turn_ends_the_old_one(self, cluster: Cluster, second: str) -> None:
        """Scenario 45: turn 1's signal fires, its viewers get 'replaced' after all of its content; turn 2 is clean."""
        one, two = await cluster.replica("a", lease=1.5), await cluster.replica("b", lease=1.5)
        first = await begin(one)
        await first.say("old")
        readers = [await read(one), await read(two)]
        manager = one if second == "here" else two
        job = await manager.start("s", Puppet(), user="u", metadata={"model": "m2"})
        assert (job.generation, job.attached) == (2, False)
        await within(first.signalled.wait())
        for reader in readers:
            got = await reader.end()
            assert reader.types == ["text.delta", "replaced"]
            assert got[-1].data == {"by_generation": 2}
        assert (await one.job("s", user="u", generation=1)).status is Status.REPLACED
        state = await one.resume_state("s", user="u")
        assert state is not None
        assert (state.generation, state.content, state.offset) == (2, [], 0)

    @pytest.mark.parametrize("second", ["here", "there"])
    async def test_late_writes_of_the_old_turn_change_nothing(self, cluster: Cluster, second: str) -> None:
        """Scenario 46: complete, error, emit and metadata of turn 1 reach neither turn 2 nor turn 1."""
        one, two = await cluster.replica("a", lease=1.5), await cluster.replica("b", lease=1.5)
        first = await begin(one)
        stale = await first.generation()
        run = await begin(one if second == "here" else two)
        await within(first.signalled.wait())
        for late in (stale.text("late"), stale.update(sender="late"), stale.usage("m", output_tokens=1)):
            with pytest.raises(GenerationStopped):
                await late
        stale.finish(message={"text": "late"})
        first.finish()
        reader = await read(one)
        await run.say("new")
        run.finish()
        await reader.end()
        assert reader.types == ["text.delta", "completed"]
        job = await settled(one)
        assert (job.status, job.metadata.sender) == (Status.COMPLETE, None)
        old = await one.job("s", user="u", generation=1)
        assert (old.status, old.last_offset) == (Status.REPLACED, 1)

    async def test_a_resume_shows_nothing_of_the_old_turn(self, cluster: Cluster) -> None:
        """Scenario 47: content, final, response id, usage and title are turn 2's alone."""
        one, two = await cluster.replica("a"), await cluster.replica("b")
        first = await begin(one)
        await first.emit("created", response_id="r1", user_message={"id": "q1"})
        await first.emit("usage", call_id="m1", output_tokens=1)
        await first.emit("title", text="Old")
        await first.say("old")
        await begin(two)
        for manager in (one, two):
            reader = await read(manager, snapshot=True)
            await reader.until(lambda reader: bool(reader.records))
            state = reader.records[0].data
            assert state["generation"] == 2
            empty = (state["content"], state["usage"], state["response_id"], state["user_message"], state["title"])
            assert empty == ([], [], None, None, None)
            await reader.leave()

    async def test_identities_rise_and_an_old_one_reaches_nothing_new(self, manager: GenerationManager) -> None:
        """Scenario 48: create, end, delete, again and again."""
        keys: list[GenerationKey] = []
        for _ in range(4):
            run = await begin(manager)
            keys.append((await manager.job("s", user="u")).key)
            for old in keys[:-1]:
                assert isinstance(await manager.abort("s", user="u", generation=old.generation), Unknown)
                assert not await manager.delete("s", user="u", generation=old.generation)
            assert (await manager.job("s", user="u")).status is Status.RUNNING
            run.finish()
            await settled(manager)
            assert await manager.delete("s", user="u", generation=keys[-1].generation)
        assert [key.generation for key in keys] == [1, 2, 3, 4]

    async def test_a_stop_for_the_old_turn_spares_the_new_one(self, cluster: Cluster) -> None:
        """Scenario 49: the button holds turn 1's identity; it is told 'replaced', turn 2 runs on."""
        one, two = await cluster.replica("a"), await cluster.replica("b")
        await begin(one)
        run = await begin(two)
        for manager in (one, two):
            outcome = await manager.abort("s", user="u", generation=1)
            assert isinstance(outcome, AlreadySettled)
            assert outcome.status is Status.REPLACED
        await run.say("still here")
        assert (await one.job("s", user="u")).status is Status.RUNNING

    async def test_a_continuation_that_comes_late_is_refused(self, cluster: Cluster) -> None:
        """Scenario 50: it expected turn 1 to be the last; nothing has changed."""
        one, two = await cluster.replica("a"), await cluster.replica("b")
        (await begin(one)).finish()
        await settled(one)
        run = await begin(two)
        with pytest.raises(GenerationConflict):
            await one.start("s", Puppet(), user="u", expect_generation=1)
        await run.say("undisturbed")
        job = await one.job("s", user="u")
        assert (job.generation, job.status) == (2, Status.RUNNING)
        assert (await two.start("s", Puppet(), user="u", expect_generation=2)).generation == 3

    async def test_another_users_stream_cannot_be_taken(self, cluster: Cluster) -> None:
        """Scenario 51: refused as not found; the first user's run and listing are untouched."""
        one, two = await cluster.replica("a"), await cluster.replica("b")
        run = await begin(one, user="alice")
        for manager in (one, two):
            for user in ("bob", None):
                with pytest.raises(NotFound):
                    await manager.start("s", Puppet(), user=user)
        await run.say("mine")
        assert [job.stream_id for job in await two.active(user="alice")] == ["s"]
        assert (await one.job("s", user="alice")).status is Status.RUNNING

    async def test_the_settled_hook_hears_of_a_replaced_one(self, cluster: Cluster) -> None:
        """With its outcome and what it had said, once, on the replica that replaced it."""
        heard: list[tuple[Status, str]] = []

        async def settled_hook(job: Job, content: Snapshot) -> None:
            heard.append((job.status, content.text))

        one, two = await cluster.replica("a"), await cluster.replica("b", hooks=Hooks(settled=[settled_hook]))
        run = await begin(one)
        await run.say("half")
        await begin(two)

        async def told() -> bool:
            return bool(heard)

        await eventually(told)
        assert heard == [(Status.REPLACED, "half")]
