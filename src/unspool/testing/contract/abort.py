"""Stop: from anywhere, answered after the seal, exactly one outcome."""

from __future__ import annotations

import asyncio

from unspool.content import Snapshot
from unspool.errors import Fenced, GenerationStopped
from unspool.jobs import Job, Status
from unspool.manager import GenerationManager
from unspool.options import Hooks
from unspool.outcomes import AlreadySettled, SaveFailed, Stopped
from unspool.producer import Generation
from unspool.testing.contract.kit import Cluster, Puppet, begin, read, settled, within


class TestAbort:
    """Scenarios 33 to 44, A15 to A17."""

    async def test_the_answer_has_content_text_and_usage(self, manager: GenerationManager) -> None:
        """Scenario 33: both models' usage, one final marked unfinished for the viewers, the signal fired."""
        run = await begin(manager)
        await run.emit("created", conversation_id="c", user_message={"id": "q", "text": "hi"})
        await run.say("so ", "far")
        for model in ("m1", "m2"):
            await run.emit("usage", call_id=model, model=model, output_tokens=2)
        reader = await read(manager)
        outcome = await manager.abort("s", user="u", reason="enough")
        assert isinstance(outcome, Stopped)
        assert (outcome.ok, outcome.text, outcome.job.status) == (True, "so far", Status.ABORTED)
        assert [entry["model"] for entry in outcome.usage] == ["m1", "m2"]
        assert [part["type"] for part in outcome.content] == ["text"]
        assert run.signalled.is_set()
        got = await reader.end()
        assert got[-1] == outcome.final
        data = got[-1].data
        assert (data["by"], data["reason"], data["early"], data["title"]) == ("user", "enough", False, "New Chat")
        assert data["request_message"] == {"id": "q", "text": "hi"}
        answer = data["response_message"]
        assert (answer["id"], answer["parent_id"], answer["sender"]) == ("q_", "q", "AI")
        assert (answer["text"], answer["unfinished"], answer["error"]) == ("so far", True, False)
        assert reader.types.count("aborted") == 1

    async def test_an_early_abort_has_no_turn(self, manager: GenerationManager) -> None:
        """Scenario 34, A16: no conversation, no response."""
        await begin(manager)
        outcome = await manager.abort("s", user="u")
        assert outcome.final is not None
        data = outcome.final.data
        assert (data["early"], data["conversation_id"], data["response_message"]) == (True, None, None)
        assert (outcome.content, outcome.text) == ([], "")

    async def test_an_abort_before_the_run_has_begun_is_honoured(self, manager: GenerationManager) -> None:
        """The very first thing that happens to a run may be its Stop."""
        begun = asyncio.Event()

        async def run(_: Generation) -> None:
            begun.set()

        await manager.start("s", run, user="u")
        outcome = await manager.abort("s", user="u")
        assert isinstance(outcome, Stopped | AlreadySettled)
        assert isinstance(outcome, Stopped) is not begun.is_set()

    async def test_after_created_it_is_not_early(self, manager: GenerationManager) -> None:
        """Scenario 35: the turn exists, with an empty unfinished response."""
        run = await begin(manager)
        await run.emit("created", user_message={"id": "q"}, response_id="r", sender="Bo")
        await run.emit("title", text="Named")
        outcome = await manager.abort("s", user="u")
        assert outcome.final is not None
        data = outcome.final.data
        assert (data["early"], data["conversation_id"], data["title"]) == (False, "s", "Named")
        answer = data["response_message"]
        assert (answer["id"], answer["sender"], answer["content"], answer["text"]) == ("r", "Bo", [], "")

    async def test_text_without_created_has_an_answer_of_its_own(self, manager: GenerationManager) -> None:
        """A17: the last resort for a response id."""
        run = await begin(manager)
        await run.say("x")
        outcome = await manager.abort("s", user="u")
        assert outcome.final is not None
        assert outcome.final.data["response_message"]["id"] == "aborted_"

    async def test_a_login_prompt_alone_is_early(self, manager: GenerationManager) -> None:
        """Scenario 36: and the prompt is in no message."""
        run = await begin(manager)
        await run.emit("tool.auth", call_id="t", url="https://login")
        outcome = await manager.abort("s", user="u")
        assert outcome.final is not None
        assert outcome.final.data["early"]
        assert outcome.content == []

    async def test_stop_from_another_replica(self, cluster: Cluster) -> None:
        """Scenario 37: the owner's signal fires, viewers on both get one final, usage is complete."""
        one, two = await cluster.replica("a"), await cluster.replica("b")
        run = await begin(one)
        await run.say("x")
        readers = [await read(one), await read(two)]
        await readers[1].reach(1)
        await run.say("y")
        await run.emit("usage", call_id="m", output_tokens=1)
        outcome = await within(two.abort("s", user="u"))
        assert isinstance(outcome, Stopped)
        assert (outcome.text, len(outcome.usage)) == ("xy", 1)
        await within(run.signalled.wait())
        for reader in readers:
            got = await reader.end()
            assert reader.types.count("aborted") == 1
            assert got[-1] == outcome.final

    async def test_stop_from_another_replica_without_any_viewer(self, cluster: Cluster) -> None:
        """Scenario 38: the last viewer is long gone; B has never seen the log."""
        one, two = await cluster.replica("a"), await cluster.replica("b")
        run = await begin(one)
        reader = await read(one)
        await run.say("x")
        await reader.reach(1)
        await reader.leave()
        await run.emit("usage", call_id="m", output_tokens=1)
        outcome = await within(two.abort("s", user="u"))
        assert isinstance(outcome, Stopped)
        assert (outcome.text, len(outcome.usage)) == ("x", 1)
        await within(run.signalled.wait())

    async def test_stop_without_any_hint(self, cluster: Cluster) -> None:
        """Scenario 39: every hint is lost; the owner hears of it within a renewal, B answers only after the seal."""
        one, two = await cluster.replica("a", lease=5.0), await cluster.replica("b", abort_grace=10.0)
        await one.replica.channel.close()
        await two.replica.channel.close()
        run = await begin(one)
        await run.say("x")
        outcome = await within(two.abort("s", user="u"))
        assert isinstance(outcome, Stopped)
        assert run.signalled.is_set()
        assert outcome.job.lease.epoch == 1, "the owner sealed, nobody took over"

    async def test_stop_of_a_dead_owner_is_answered(self, cluster: Cluster) -> None:
        """The caller seals when the owner is dead, long before its lease would have run out."""
        one, two = await cluster.replica("a", lease=60.0), await cluster.replica("b", abort_grace=0.1)
        run = await begin(one)
        await run.say("x")
        reader = await read(two)
        await cluster.kill(one)
        outcomes = await within(asyncio.gather(*(two.abort("s", user="u") for _ in range(3))))
        assert all(isinstance(outcome, Stopped) for outcome in outcomes)
        assert {outcome.final for outcome in outcomes} == {outcomes[0].final}
        assert outcomes[0].text == "x"
        await reader.end()
        assert reader.types == ["text.delta", "aborted"]

    async def test_completion_against_abort_a_thousand_times(self, cluster: Cluster) -> None:
        """Scenario 40: one outcome each time, one final, the status consistent with it, the loser told so."""
        one, two = await cluster.replica("a", max_jobs=2000), await cluster.replica("b")
        outcomes: set[str] = set()
        for n in range(1000):
            stream = f"s{n}"
            run = Puppet()
            await one.start(stream, run, user="u")
            if n % 3:
                await run.generation()
            asker = two if n % 50 == 0 else one
            abort = asyncio.ensure_future(asker.abort(stream, user="u"))
            for _ in range(n % 7):
                await asyncio.sleep(0)
            if n % 4 == 3:  # a store that is further away takes longer to be asked
                await asyncio.sleep(n % 9 / 2000)
            run.finish()
            outcome = await within(abort)
            job = await settled(one, stream)
            assert isinstance(outcome, Stopped | AlreadySettled)
            assert isinstance(outcome, Stopped) is (job.status is Status.ABORTED)
            assert job.status in {Status.ABORTED, Status.COMPLETE}
            assert outcome.final == job.terminal
            log = (await one.store.read(job.key, 0, 10)).records
            assert [record.terminal for record in log] == [True]
            outcomes.add(job.status)
        assert outcomes == {Status.ABORTED, Status.COMPLETE}, "the race was run both ways"

    async def test_an_ended_job_cannot_be_stopped(self, cluster: Cluster) -> None:
        """Scenario 41: told so, with its content; the status stays."""
        one, two = await cluster.replica("a"), await cluster.replica("b")
        run = await begin(one)
        await run.say("all")
        run.finish()
        await settled(one)
        for manager in (one, two):
            outcome = await manager.abort("s", user="u")
            assert isinstance(outcome, AlreadySettled)
            assert (outcome.ok, outcome.status, outcome.text) == (False, Status.COMPLETE, "all")
        assert (await one.job("s", user="u")).status is Status.COMPLETE

    async def test_what_comes_after_the_stop_is_refused(self, cluster: Cluster) -> None:
        """Scenario 42: a run that goes on emitting, deaf to everything, reaches neither the log nor a viewer."""
        one, two = await cluster.replica("a", abort_grace=0.1), await cluster.replica("b")
        refused = asyncio.Event()
        leave = asyncio.Event()

        async def run(generation: Generation) -> None:
            await generation.text("before")
            while not leave.is_set():
                try:
                    await asyncio.sleep(0.001)
                    await generation.text("after" if generation.stopping.is_set() else "")
                except (GenerationStopped, Fenced):  # Fenced where the other one was faster
                    refused.set()
                except asyncio.CancelledError:
                    pass

        try:
            await one.start("s", run, user="u")
            readers = [await read(one), await read(two)]
            await readers[1].reach(1)
            outcome = await within(two.abort("s", user="u"))
            await within(refused.wait())
            assert isinstance(outcome, Stopped)
            assert outcome.text == "before"
            for reader in readers:
                await reader.end()
                assert reader.content.text == "before"
                assert reader.types[-1] == "aborted"
        finally:
            leave.set()  # nothing else ends it

    async def test_usage_of_a_stopped_call_still_counts(self, manager: GenerationManager) -> None:
        """Scenario 44, as far as the log goes: what the model reports during its clean-up is in the answer, once."""

        async def run(generation: Generation) -> None:
            try:
                await generation.text("x")
                await asyncio.Event().wait()
            finally:
                await generation.usage("m", output_tokens=5)

        await manager.start("s", run, user="u")
        reader = await read(manager)
        await reader.reach(1)
        outcome = await manager.abort("s", user="u")
        assert isinstance(outcome, Stopped)
        assert outcome.usage == [{"call_id": "m", "output_tokens": 5}]
        assert [record.type for record in await reader.end()] == ["text.delta", "usage", "aborted"]

    async def test_a_partial_that_cannot_be_saved_is_no_normal_end(self, cluster: Cluster) -> None:
        """Scenario 43: viewers are told to reload; aborting again tries to save again."""
        working = False
        saved: list[str] = []

        async def save(_: Job, content: Snapshot) -> None:
            if not working:
                raise OSError("disk full")
            saved.append(content.text)

        manager = await cluster.replica(hooks=Hooks(save_partial=[save]))
        run = await begin(manager)
        await run.say("x")
        reader = await read(manager)
        outcome = await manager.abort("s", user="u")
        assert isinstance(outcome, SaveFailed)
        assert (outcome.ok, outcome.text, outcome.job.status) == (False, "x", Status.ERROR)
        got = await reader.end()
        assert (got[-1].type, got[-1].data["code"]) == ("failed", "save_failed")
        assert isinstance(await manager.abort("s", user="u"), SaveFailed)
        working = True
        assert isinstance(await manager.abort("s", user="u"), AlreadySettled)
        assert saved == ["x"]
