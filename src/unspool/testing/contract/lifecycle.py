"""Lifecycle and early events: what a viewer gets from a generation that begins, speaks and ends."""

from __future__ import annotations

import asyncio

import pytest

from unspool.content import fold
from unspool.errors import GenerationStopped, Gone, NotFound, RunFailed
from unspool.events import Record
from unspool.jobs import Status
from unspool.manager import GenerationManager
from unspool.outcomes import Unknown
from unspool.testing.contract.kit import Cluster, Puppet, begin, eventually, read, settled, within


class TestLifecycle:
    """Scenarios 1 to 10."""

    async def test_a_started_job_is_running_owned_listed_and_counted(self, manager: GenerationManager) -> None:
        """Scenario 1."""
        job = await manager.start("s", Puppet(), user="u")
        assert (job.status, job.user, job.generation) == (Status.RUNNING, "u", 1)
        assert job.created_at > 0
        assert [found.key for found in await manager.active(user="u")] == [job.key]
        counts = await manager.counts()
        assert (counts.total, counts.by_status[Status.RUNNING]) == (1, 1)

    async def test_three_deltas_then_one_final_then_the_end(self, manager: GenerationManager) -> None:
        """Scenario 2."""
        run = await begin(manager)
        reader = await read(manager)
        await run.say("a", "b", "c")
        (await run.generation()).finish(message={"text": "abc"}, finish_reason="stop")
        run.finish()
        got = await reader.end()
        assert reader.types == ["text.delta"] * 3 + ["completed"]
        assert got[-1].data == {"finish_reason": "stop", "message": {"text": "abc"}}
        assert await manager.active(user="u") == []

    async def test_a_failed_job_is_retrievable_with_its_text(self, manager: GenerationManager) -> None:
        """Scenario 3: status error, the text readable, the signal fired."""
        run = await begin(manager)
        await run.say("partial")
        run.fail(RunFailed("the model is full", code="overloaded", retryable=True))
        job = await settled(manager)
        assert job.status is Status.ERROR
        assert job.terminal is not None
        assert job.terminal.data == {"code": "overloaded", "message": "the model is full", "retryable": True}
        assert (await manager.snapshot("s", user="u")).text == "partial"
        await within((await run.generation()).stopping.wait())

    async def test_an_early_error_waits_for_its_first_viewer(self, manager: GenerationManager) -> None:
        """Scenario 4: delivered once, no final, and the connection ends."""
        run = await begin(manager)
        run.fail(RunFailed("no"))
        await settled(manager)
        assert [record.type for record in await (await read(manager)).end()] == ["failed"]

    async def test_an_error_beats_a_final(self, manager: GenerationManager) -> None:
        """Scenario 5: a run that stored its final message and then fails has failed."""
        run = await begin(manager)
        (await run.generation()).finish(message={"text": "done"})
        run.fail(RuntimeError("secret"))
        await settled(manager)
        (record,) = await (await read(manager)).end()
        assert record.type == "failed"
        assert "secret" not in str(record.data)

    async def test_past_retention_is_gone(self, cluster: Cluster) -> None:
        """Scenario 6: a definite answer, not a hang; the number stays used."""
        manager = await cluster.replica(completed_retention=0)
        run = await begin(manager)
        run.finish()

        async def gone() -> bool:
            try:
                await manager.view("s", user="u")
            except Gone:
                return True
            return False

        await eventually(gone)
        assert isinstance(await manager.abort("s", user="u"), Unknown)
        assert (await manager.start("s", Puppet(), user="u")).generation == 2

    async def test_within_retention_the_final_comes_at_once(self, cluster: Cluster) -> None:
        """Scenario 7: on the replica that ran it, and on another."""
        one, two = await cluster.replica("a"), await cluster.replica("b")
        run = await begin(one)
        await run.say("a")
        run.finish()
        await settled(one)
        for manager in (one, two):
            assert [record.type for record in await (await read(manager)).end()] == ["text.delta", "completed"]
            assert [record.type for record in await (await read(manager, after=1)).end()] == ["completed"]
            assert await (await read(manager, after=2)).end() == []

    async def test_an_unknown_id_is_unknown_to_every_verb(self, manager: GenerationManager) -> None:
        """Scenario 8: nothing is created by asking."""
        for ask in (manager.view("no"), manager.job("no"), manager.snapshot("no"), manager.update("no", sender="x")):
            with pytest.raises(NotFound):
                await ask
        assert await manager.resume_state("no") is None
        outcome = await manager.abort("no")
        assert (outcome, outcome.ok, outcome.content, outcome.text, outcome.usage) == (Unknown(), False, [], "", [])
        assert not await manager.delete("no", generation=1)
        assert (await manager.counts()).total == 0

    async def test_starting_and_stopping_twice_is_harmless(self, cluster: Cluster) -> None:
        """Scenario 9: no second periodic work, no exception, no further events."""
        manager = await cluster.replica()
        before = len(asyncio.all_tasks())
        await manager.start_up()
        assert len(asyncio.all_tasks()) == before
        run = await begin(manager)
        reader = await read(manager)
        await manager.stop()
        await manager.stop()
        await reader.end()
        assert reader.types == ["failed"]
        with pytest.raises(GenerationStopped):
            await run.say("late")

    async def test_retention_takes_the_ended_and_spares_the_running(self, cluster: Cluster) -> None:
        """Scenario 10."""
        manager = await cluster.replica(retention=0.1)
        failing = await begin(manager, "failing")
        running = await begin(manager, "running")
        failing.fail(RunFailed("no"))

        async def one_left() -> bool:
            return (await manager.counts()).total == 1

        await eventually(one_left)
        await running.say("still here")
        assert (await manager.snapshot("running", user="u")).text == "still here"

    async def test_a_run_goes_on_without_any_viewer(self, manager: GenerationManager) -> None:
        """A4: leaving ends nothing."""
        run = await begin(manager)
        reader = await read(manager)
        await run.say("a")
        await reader.reach(1)
        await reader.leave()
        await run.say("b")
        assert (await manager.job("s", user="u")).status is Status.RUNNING
        assert (await manager.snapshot("s", user="u")).text == "ab"

    async def test_status_tells_content_and_times(self, manager: GenerationManager) -> None:
        """A22, A8, A9: the job carries what its events said, and what it was told."""
        run = await begin(manager, metadata={"endpoint": "chat", "prompt_tokens": 3})
        await run.emit("created", conversation_id="c", response_id="r", sender="Bo", model="m",
                       user_message={"id": "q", "parent_id": None, "text": "hi"})  # fmt: skip
        await run.emit("title", text="Greetings")
        await (await run.generation()).update(prompt_tokens=0, endpoint=None)
        job = await manager.job("s", user="u")
        known = job.metadata
        assert (known.conversation_id, known.response_id, known.sender, known.model) == ("c", "r", "Bo", "m")
        assert (known.title, known.prompt_tokens, known.endpoint) == ("Greetings", 0, None)
        assert known.user_message == {"id": "q", "parent_id": None, "text": "hi"}
        assert job.active_at >= job.created_at
        state = await manager.resume_state("s", user="u")
        assert state is not None
        assert (state.title, state.sender, state.offset) == ("Greetings", "Bo", 2)


class TestEarlyEvents:
    """Scenarios 11 to 16."""

    async def test_events_before_the_first_viewer_arrive_once_in_order(self, cluster: Cluster) -> None:
        """Scenario 11: here and on the other replica."""
        one, two = await cluster.replica("a"), await cluster.replica("b")
        run = await begin(one)
        await run.emit("created", user_message={"id": "q"})
        await run.say("a", "b")
        readers = [await read(one), await read(two)]
        run.finish()
        for reader in readers:
            await reader.end()
            assert reader.types == ["created", "text.delta", "text.delta", "completed"]
            assert reader.offsets == [1, 2, 3, 4]

    async def test_a_second_viewer_misses_nothing(self, manager: GenerationManager) -> None:
        """Scenario 12."""
        run = await begin(manager)
        await run.say("a", "b")
        first = await read(manager)
        await first.reach(2)
        second = await read(manager)
        run.finish()
        assert await first.end() == await second.end()

    async def test_connecting_while_it_is_emitting_loses_and_repeats_nothing(self, cluster: Cluster) -> None:
        """Scenario 13: viewers join on the other replica between any two events."""
        one, two = await cluster.replica("a"), await cluster.replica("b")
        run = await begin(one)
        readers = [await read(two)]
        for n in range(40):
            await run.say(str(n))
            readers.append(await read(two))
        run.finish()
        await settled(one)
        for reader in readers:
            await reader.end()
            assert reader.offsets == list(range(1, 42))

    async def test_internal_events_never_reach_a_viewer(self, cluster: Cluster) -> None:
        """Scenario 14: neither replayed nor live, nor in the content; the log has them."""
        one, two = await cluster.replica("a"), await cluster.replica("b")
        run = await begin(one)
        await run.emit("text.delta", internal=True, text="secret", part_id="x")
        await run.say("a")
        readers = [await read(one), await read(two), await read(two, snapshot=True)]
        await run.emit("custom", name="trace", internal=True)
        await run.say("b")
        run.finish()
        for reader in readers:
            await reader.end()
            assert reader.content.text == "ab"
            assert not any(record.internal for record in reader.records)
        page = await one.store.read((await one.job("s", user="u")).key, 0, 100)
        assert [record.internal for record in page.records] == [True, False, True, False, False]

    async def test_far_more_than_the_window_still_reaches_a_late_viewer(self, cluster: Cluster) -> None:
        """Scenario 15: the replica's memory is bounded, the content is whole."""
        one, two = await cluster.replica("a", window=16), await cluster.replica("b", window=16)
        run = await begin(one)
        await run.say(*(f"{n} " for n in range(300)))
        tail = one.replica.tails[(await one.job("s", user="u")).key]
        assert len(tail._records) <= 16
        readers = [await read(one), await read(two), await read(one, snapshot=True)]
        run.finish()
        for reader in readers:
            await reader.end()
            assert reader.content.text == "".join(f"{n} " for n in range(300))

    async def test_streams_do_not_cross(self, cluster: Cluster) -> None:
        """Scenario 16."""
        one, two = await cluster.replica("a"), await cluster.replica("b")
        runs = {name: await begin(manager, name) for name, manager in (("x", one), ("y", two))}
        readers = {name: [await read(one, name), await read(two, name)] for name in runs}
        for _ in range(5):
            for name, run in runs.items():
                await run.say(name)
        for name, run in runs.items():
            run.finish()
            for reader in readers[name]:
                await reader.end()
                assert reader.content.text == name * 5

    async def test_what_a_viewer_gets_is_what_the_log_holds(self, cluster: Cluster) -> None:
        """Invariants 1 and 2: here, elsewhere, live and late, the very same records."""
        one, two = await cluster.replica("a"), await cluster.replica("b")
        run = await begin(one)
        live = [await read(one), await read(two)]
        await run.emit("custom", name="n", value={"list": [], "big": 2**60, "float": 1.0, "text": "é🐎"})
        await run.emit("my.own.type", anything=[None, True])
        run.finish()
        job = await settled(one)
        log: list[Record] = list((await one.store.read(job.key, 0, 100)).records)
        for reader in [*live, await read(one), await read(two)]:
            assert await reader.end() == log
        assert fold(log).parts == []
