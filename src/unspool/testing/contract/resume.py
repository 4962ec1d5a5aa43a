"""Resuming: dropping, reloading, changing the device, and going on exactly where one was."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from unspool.content import Snapshot
from unspool.errors import InvalidPosition, NotFound
from unspool.jobs import Job
from unspool.manager import GenerationManager
from unspool.options import Hooks
from unspool.producer import Generation
from unspool.testing.contract.kit import Cluster, begin, eventually, read, settled, within


class TestResume:
    """Scenarios 17 to 27."""

    async def test_a_snapshot_comes_first_then_only_what_follows(self, cluster: Cluster) -> None:
        """Scenario 17: on this replica and on another, the total equals the truth."""
        one, two = await cluster.replica("a"), await cluster.replica("b")
        run = await begin(one)
        first = await read(one)
        await run.say("A", "B")
        await first.reach(2)
        await first.leave()
        await run.say("C")
        readers = [await read(one, snapshot=True), await read(two, snapshot=True), await read(two, after=2)]
        for reader in readers[:2]:
            await reader.reach(3)
            assert reader.types == ["sync"]
        await run.say("D")
        run.finish()
        for reader in readers[:2]:
            await reader.end()
            assert reader.offsets == [3, 4, 5]
            assert reader.content.text == "ABCD"
        await readers[2].end()
        assert readers[2].offsets == [3, 4, 5]
        assert first.content.text + readers[2].content.text == "ABCD"

    async def test_two_hundred_reconnects_at_random_moments_are_exact(self, cluster: Cluster) -> None:
        """Scenario 18: with positions or snapshots, on either replica: no loss, no repeat."""
        replicas = [await cluster.replica("a", window=32), await cluster.replica("b", window=32)]
        dice = Random(18)
        stop = asyncio.Event()

        async def run(generation: Generation) -> None:
            n = 0
            while not stop.is_set():
                n += 1
                await generation.emit("custom", {"name": "n", "value": n})
                await asyncio.sleep(0.001 * dice.random())

        await replicas[0].start("s", run, user="u")
        seen: list[int] = []
        for n in range(200):
            reader = await read(dice.choice(replicas), after=seen[-1] if seen else 0)
            wanted = dice.randrange(4)
            await reader.until(lambda reader, wanted=wanted: len(reader.records) >= wanted)
            await reader.leave()
            seen += reader.offsets
            if n == 199:
                stop.set()
        last = await read(replicas[1], after=seen[-1])
        await last.end()
        seen += last.offsets
        job = await settled(replicas[0])
        assert seen == list(range(1, job.last_offset + 1))

    async def test_two_hundred_snapshots_at_random_moments_are_exact(self, cluster: Cluster) -> None:
        """Scenario 18 with snapshots: every one, and what follows it, makes the whole."""
        replicas = [await cluster.replica("a", window=16), await cluster.replica("b", window=16)]
        run = await begin(replicas[0])
        dice = Random(81)
        readers = [await read(replicas[0])]
        for n in range(100):
            await run.say(f"{n} ")
            readers += [await read(dice.choice(replicas), snapshot=True) for _ in range(2)]
            await asyncio.sleep(0)
        run.finish()
        for reader in readers:
            await reader.end()
            assert reader.content.text == "".join(f"{n} " for n in range(100))

    async def test_a_first_connection_may_be_a_resume(self, cluster: Cluster) -> None:
        """Scenario 19: nothing that was buffered is repeated after the snapshot."""
        one, two = await cluster.replica("a"), await cluster.replica("b")
        run = await begin(one)
        await run.say("a", "b")
        readers = [await read(one, snapshot=True), await read(two, snapshot=True)]
        run.finish()
        for reader in readers:
            await reader.end()
            assert reader.types[-1] == "completed"
            assert reader.content.text == "ab"
            assert reader.offsets[0] == 2

    async def test_two_tabs_resume_at_once_and_one_gives_up(self, manager: GenerationManager) -> None:
        """Scenario 20: the other is exact, and so is a third that comes later."""
        run = await begin(manager)
        await run.say("a", "b")
        viewers = [await manager.view("s", user="u", snapshot=True) for _ in range(2)]
        viewers[0].close()
        assert await viewers[0].records() is None
        await run.say("c")
        other = await viewers[1].records()
        third = await read(manager, snapshot=True)
        run.finish()
        await third.end()
        assert third.content.text == "abc"
        assert other is not None
        assert [(record.type, record.data["text"]) for record in other] == [("sync", "abc")]
        viewers[1].close()

    async def test_a_snapshot_is_no_alias(self, manager: GenerationManager) -> None:
        """Scenario 21, A18: what changes afterwards, in the run or in the caller's copy, does not reach it."""
        run = await begin(manager)
        data = {"name": "n", "value": ["old"]}
        await run.emit("tool.call", call_id="t", name="look", arguments={"q": 1})
        await (await run.generation()).emit("custom", data)
        data["value"] = ["new"]
        before = await manager.snapshot("s", user="u")
        before.parts[0]["name"] = "spoiled"
        assert (await manager.snapshot("s", user="u")).parts[0]["name"] == "look"
        again = await manager.snapshot("s", user="u")
        await run.emit("tool.result", call_id="t", output="found")
        assert again.parts[0]["status"] == "running"
        run.finish()
        reader = await read(manager)
        assert (await reader.end())[1].data["value"] == ["old"]

    async def test_run_steps_are_there_once_in_their_latest_version(self, cluster: Cluster) -> None:
        """Scenario 22, A21: on every replica, also after the run is over."""
        one, two = await cluster.replica("a"), await cluster.replica("b")
        run = await begin(one)
        await run.emit("step.started", id="1", index=0, kind="tool_calls", name="search")
        await run.emit("step.started", id="2", index=1, kind="message")
        await run.emit("step.finished", id="1", name="search twice")
        run.finish()
        await settled(one)
        for manager in (one, two):
            state = await manager.resume_state("s", user="u")
            assert state is not None
            assert [(step["id"], step["status"]) for step in state.steps] == [("1", "finished"), ("2", "running")]
            assert state.steps[0]["name"] == "search twice"
            assert state.steps[0]["index"] == 0

    async def test_titles_prompts_and_usage_are_recoverable(self, cluster: Cluster) -> None:
        """Scenarios 23 and 62, B5: the last title, one prompt per call, all usage, equal figures included."""
        one, two = await cluster.replica("a"), await cluster.replica("b")
        run = await begin(one)
        await run.emit("title", text="First")
        await run.emit("title", text="Last")
        for url in ("https://old", "https://new"):
            await run.emit("tool.auth", call_id="t", url=url)
        await run.emit("tool.auth", call_id="gone", url="https://x")
        await run.emit("tool.result", call_id="gone", output=None)
        for call_id in ("m1", "m2"):
            await run.emit("usage", call_id=call_id, input_tokens=7, output_tokens=9)
        for manager in (one, two):
            reader = await read(manager, snapshot=True)
            await reader.reach(1)
            state = reader.records[0].data
            assert state["title"] == "Last"
            assert [prompt["url"] for prompt in state["prompts"]] == ["https://new"]
            assert [entry["call_id"] for entry in state["usage"]] == ["m1", "m2"]
            await reader.leave()

    async def test_five_cycles_of_leaving_are_exact_and_told(self, cluster: Cluster) -> None:
        """Scenario 24, A11: 'all viewers left' is told five times, each with the content so far."""
        told: list[str] = []

        async def left(_: Job, content: Snapshot) -> None:
            told.append(content.text)

        manager = await cluster.replica(hooks=Hooks(all_viewers_left=[left]))
        run = await begin(manager)
        position, text = 0, ""
        for n in range(5):
            reader = await read(manager, after=position)
            await run.say(str(n))
            await reader.reach(position + 1)
            await reader.leave()
            text += reader.content.text
            position = reader.offsets[-1]

            async def heard(n: int = n) -> bool:
                return len(told) == n + 1

            await eventually(heard)
        assert text == "01234"
        assert told == ["0", "01", "012", "0123", "01234"]

    async def test_a_trimmed_position_is_answered_with_a_snapshot(self, cluster: Cluster) -> None:
        """Scenario 25: marked as such, on both replicas, never a silent gap."""
        one = await cluster.replica("a", window=8, log_records=20, checkpoint_every=10)
        two = await cluster.replica("b", window=8, log_records=20, checkpoint_every=10)
        run = await begin(one)
        words = [f"{n} " for n in range(100)]
        await run.say(*words)
        readers = [await read(one, after=1), await read(two, after=1)]
        for reader in readers:
            await reader.reach(2)
            assert reader.records[0].type == "sync"
            assert reader.records[0].data["reason"] == "trimmed"
        run.finish()
        for reader in readers:
            await reader.end()
            assert reader.content.text == "".join(words)

    async def test_what_was_trimmed_is_told_after_the_end_too(self, cluster: Cluster) -> None:
        """However the log is kept from then on: a replica that has never seen it tells all of its content."""
        one = await cluster.replica("a", window=8, log_records=20, checkpoint_every=10)
        run = await begin(one)
        words = [f"{n} " for n in range(100)]
        await run.say(*words)
        run.finish()
        await settled(one)
        supervisor = one._supervisor
        assert supervisor is not None
        await supervisor.retain()
        reader = await read(await cluster.replica("b", window=8))
        await reader.end()
        assert (reader.types[0], reader.types[-1]) == ("sync", "completed")
        assert reader.content.text == "".join(words)

    async def test_a_position_beyond_the_end_is_refused(self, cluster: Cluster) -> None:
        """Scenario 26: the refusal names the current generation and its offsets."""
        one, two = await cluster.replica("a"), await cluster.replica("b")
        run = await begin(one)
        await run.say("a", "b", "c")
        run = await begin(one)
        await run.say("x")
        for manager in (one, two):
            for after in (2, 3, -1):
                with pytest.raises(InvalidPosition) as raised:
                    await manager.view("s", user="u", after=after)
                assert raised.value.details == {"generation": 2, "first_offset": 1, "last_offset": 1}
            with pytest.raises(NotFound):
                await manager.view("s", user="u", generation=3)
            old = await (await read(manager, generation=1, after=2)).end()
            assert [record.type for record in old] == ["text.delta", "replaced"]

    async def test_an_interrupted_handshake_consumes_nothing(self, manager: GenerationManager) -> None:
        """Scenario 27: a viewer that dies before, during and after its snapshot takes nothing from the next."""
        run = await begin(manager)
        await run.say("a", "b")
        for turns in range(6):
            viewer = await manager.view("s", user="u", snapshot=True)
            task = asyncio.ensure_future(viewer.records())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            viewer.close()
        reader = await read(manager, snapshot=True)
        await run.say("c")
        run.finish()
        await reader.end()
        assert reader.content.text == "abc"

    async def test_the_sync_mark_follows_the_viewers(self, cluster: Cluster) -> None:
        """A20: set by a snapshot, known on every replica, reset when all have left; no second tab goes without."""
        one, two = await cluster.replica("a"), await cluster.replica("b")
        run = await begin(one)
        await run.say("a")
        assert not await one.was_synced("s", user="u")
        readers = [await read(one, snapshot=True) for _ in range(2)]
        for reader in readers:
            await reader.reach(1)
            assert reader.types == ["sync"]
        assert await one.was_synced("s", user="u")
        assert await two.was_synced("s", user="u")
        for reader in readers:
            await reader.leave()

        async def reset() -> bool:
            return not await one.was_synced("s", user="u") and not await two.was_synced("s", user="u")

        assert await within(eventually(reset))

    async def test_resume_state_is_none_for_what_is_unknown(self, manager: GenerationManager) -> None:
        """A19: none if unknown, else everything that a client shows, with the offset that it covers."""
        assert await manager.resume_state("no", user="u") is None
        run = await begin(manager)
        await run.emit("created", user_message={"id": "q"}, conversation_id="c", response_id="r", sender="Bo")
        await run.say("a")
        state = await manager.resume_state("s", user="u")
        assert state is not None
        assert (state.generation, state.offset, state.text, state.response_id) == (1, 2, "a", "r")
        assert (state.conversation_id, state.sender, state.user_message) == ("c", "Bo", {"id": "q"})
        assert await manager.resume_state("s", user="other") is None
