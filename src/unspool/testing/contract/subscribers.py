"""Subscribers: many, on any replica, each on its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from unspool.content import Snapshot
from unspool.events import Record
from unspool.jobs import Job, Status
from unspool.manager import GenerationManager
from unspool.options import Hooks
from unspool.testing.contract.kit import Cluster, begin, eventually, read, settled, within


class TestSubscribers:
    """Scenarios 28 to 32, and A10, A11."""

    async def test_leaving_twice_disturbs_nobody(self, cluster: Cluster) -> None:
        """Scenario 28: the other two go on, and are counted as two."""
        one, two = await cluster.replica("a"), await cluster.replica("b")
        run = await begin(one)
        readers = [await read(manager) for manager in (one, one, one, two)]
        await run.say("a")
        for reader in readers:
            await reader.reach(1)
        readers[0].viewer.close()
        readers[0].viewer.close()
        assert one.statistics()["viewers"] == 2
        await run.say("b")
        run.finish()
        assert await readers[0].end() == readers[0].records[:1]
        for reader in readers[1:]:
            await reader.end()
            assert reader.content.text == "ab"
        assert one.statistics()["viewers"] == 0

    async def test_leaving_one_replica_leaves_the_run_alone(self, cluster: Cluster) -> None:
        """Scenario 29: the last viewer on A goes; B continues, and nothing counts as abandoned there."""
        left: list[str] = []

        def hooks(name: str) -> Hooks:
            async def gone(_: Job, __: Snapshot) -> None:
                left.append(name)

            return Hooks(all_viewers_left=[gone])

        one, two = await cluster.replica("a", hooks=hooks("a")), await cluster.replica("b", hooks=hooks("b"))
        run = await begin(one)
        here, there = await read(one), await read(two)
        await run.say("x")
        await here.reach(1)
        await here.leave()

        async def told() -> bool:
            return left == ["a"]

        await eventually(told)
        await run.say("y")
        await there.reach(2)
        assert left == ["a"]
        assert (await one.job("s", user="u")).status is Status.RUNNING

    async def test_a_failing_hook_stops_no_other(self, cluster: Cluster) -> None:
        """Scenario 30: each abandonment calls every hook once, with the content then."""
        saved: list[tuple[str, str]] = []

        async def bad(_: Job, __: Snapshot) -> None:
            saved.append(("bad", ""))
            raise RuntimeError("disk full")

        async def good(job: Job, content: Snapshot) -> None:
            saved.append((job.stream_id, content.text))

        manager = await cluster.replica(hooks=Hooks(all_viewers_left=[bad, good]))
        run = await begin(manager)
        await run.say("so far")
        reader = await read(manager)
        await reader.reach(1)
        await reader.leave()

        async def both() -> bool:
            return len(saved) == 2

        await eventually(both)
        assert saved == [("bad", ""), ("s", "so far")]

    async def test_the_first_viewer_is_told(self, cluster: Cluster) -> None:
        """A11: each time the count rises from zero, and not for the second viewer."""
        told: list[int] = []

        async def first(job: Job) -> None:
            told.append(job.generation)

        manager = await cluster.replica(hooks=Hooks(first_viewer=[first]))
        await begin(manager)
        for times in (1, 2):
            readers = [await read(manager), await read(manager)]

            async def heard(times: int = times) -> bool:
                return len(told) == times

            await eventually(heard)
            for reader in readers:
                await reader.leave()

    async def test_a_throwing_callback_loses_only_its_own_turn(self, cluster: Cluster) -> None:
        """Scenario 31: that viewer and the others get what follows."""
        one, two = await cluster.replica("a"), await cluster.replica("b")
        run = await begin(one)
        got: dict[str, list[str]] = {"bad": [], "good": [], "there": []}

        def into(name: str, bad: bool = False) -> Callable[[Record], None]:
            def take(record: Record) -> None:
                got[name].append(record.type)
                if bad and len(got[name]) == 1:
                    raise RuntimeError("my fault")

            return take

        subscriptions = [
            await one.subscribe("s", user="u", on_record=into("bad", bad=True), on_done=into("bad")),
            await one.subscribe("s", user="u", on_record=into("good"), on_done=into("good")),
            await two.subscribe("s", user="u", on_record=into("there"), on_done=into("there")),
        ]
        await run.say("a", "b")
        run.finish()
        for subscription in subscriptions:
            await within(subscription.wait())
        assert list(got.values()) == [["text.delta", "text.delta", "completed"]] * 3

    async def test_chunk_done_and_error_are_told_apart(self, manager: GenerationManager) -> None:
        """A10: `failed` goes to `on_error`, every other end to `on_done`, all else to `on_record`; async ones too."""
        for end in ("fine", "bad"):
            run = await begin(manager, end)
            got: list[str] = []

            async def later(record: Record, got: list[str] = got) -> None:
                await asyncio.sleep(0)
                got.append(f"record {record.type}")

            subscription = await manager.subscribe(
                end, user="u", on_record=later,
                on_done=lambda record, got=got: got.append(f"done {record.type}"),
                on_error=lambda record, got=got: got.append(f"error {record.type}"),
            )  # fmt: skip
            await run.say("a")
            if end == "bad":
                run.fail(ValueError("no"))
            else:
                run.finish()
            await within(subscription.wait())
            assert got == ["record text.delta", "error failed" if end == "bad" else "done completed"]

    async def test_nothing_is_delivered_after_cancelling(self, manager: GenerationManager) -> None:
        """Scenario 32: subscribed to an ended job and cancelled at once, or in the midst: not one callback more."""
        run = await begin(manager)
        got: list[Record] = []
        live = await manager.subscribe("s", user="u", on_record=got.append, on_done=got.append)
        await run.say("a")

        async def one() -> bool:
            return len(got) == 1

        await eventually(one)
        live.cancel()
        live.cancel()
        await run.say("b")
        run.finish()
        await settled(manager)
        late = await manager.subscribe("s", user="u", on_record=got.append, on_done=got.append)
        late.cancel()
        for subscription in (live, late):
            await within(subscription.wait())
        assert len(got) == 1
