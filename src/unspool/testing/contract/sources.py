"""Contract: live content, usage and graphs handed over by a run; what anybody is told is a copy at a known offset."""

from __future__ import annotations

from typing import Any

import pytest

from unspool.errors import InvalidEvent, RunFailed
from unspool.jobs import Limits
from unspool.manager import GenerationManager
from unspool.outcomes import Stopped
from unspool.testing.contract.kit import Cluster, begin, read, settled


class _Graph:
    """A graph as an agent framework has one: it grows while it works."""

    def __init__(self) -> None:
        self.parts: list[dict[str, Any] | None] = []
        self.steps: list[dict[str, Any]] = []

    def content_parts(self) -> list[dict[str, Any] | None]:
        return self.parts

    def run_steps(self) -> list[dict[str, Any]]:
        return self.steps


class TestSources:
    async def test_live_parts_reach_every_replica_as_records(self, cluster: Cluster) -> None:
        """A18: text grows, a tool call goes on, a gap is filled: the same content for everybody, on every replica."""
        one, two = await cluster.replica("a"), await cluster.replica("b")
        puppet = await begin(one)
        reader = await read(two)
        gen = await puppet.generation()
        parts: list[dict[str, Any] | None] = [{"type": "text", "text": "Let me "}]
        gen.sources(parts=parts)
        await gen.collect()
        assert parts[0] is not None
        parts[0]["text"] += "look."
        tool = {"type": "tool", "call_id": "c1", "name": "search", "arguments": '{"q":', "step": "s1"}
        parts += [tool, None]
        await gen.collect()
        tool["arguments"] += '"cats"}'
        parts[2] = {"type": "reasoning", "text": "hm", "agent": "a1"}
        await gen.collect()
        tool |= {"status": "done", "output": ["a", "b"]}
        puppet.finish()
        await reader.end()
        expected = [
            {"type": "text", "part_id": "live-1", "text": "Let me look."},
            {"type": "tool", "call_id": "c1", "name": "search", "arguments": '{"q":"cats"}', "status": "done",
             "output": ["a", "b"], "step": "s1"},
            {"type": "reasoning", "part_id": "live-3", "text": "hm", "agent": "a1"},
        ]  # fmt: skip
        assert reader.content.parts == expected
        assert (await one.snapshot("s", user="u")).parts == expected
        assert (await two.snapshot("s", user="u")).parts == expected

    async def test_what_is_reported_is_never_the_live_object(self, manager: GenerationManager) -> None:
        """A18: neither a later change of the source nor a change of the report shows in the other."""
        puppet = await begin(manager)
        gen = await puppet.generation()
        parts: list[dict[str, Any] | None] = [{"type": "file", "url": "a.png", "sizes": [1]}]
        usage: list[dict[str, Any]] = [{"model": "m", "input_tokens": 3}]
        gen.sources(parts=parts, usage=usage)
        first = await gen.snapshot()
        assert parts[0] is not None
        parts[0]["sizes"].append(2)
        usage[0]["input_tokens"] = 99
        first.parts[0]["sizes"].append(3)
        first.usage[0]["model"] = "changed"
        second = await manager.snapshot("s", user="u")
        assert second.offset == first.offset == 2
        assert second.parts == [{"type": "file", "url": "a.png", "sizes": [1]}]
        assert [(entry["model"], entry["input_tokens"]) for entry in second.usage] == [("m", 3)]
        puppet.finish()

    async def test_an_abort_keeps_what_the_sources_hold_at_that_moment(self, cluster: Cluster) -> None:
        """A18 with A7: nobody collected, and yet the partial answer and the usage are in the answer to Stop."""
        one, two = await cluster.replica("a"), await cluster.replica("b")
        puppet = await begin(one)
        gen = await puppet.generation()
        parts: list[dict[str, Any] | None] = []
        usage: list[dict[str, Any]] = []
        gen.sources(parts=parts, usage=usage)
        parts.append({"type": "text", "text": "so far"})
        usage.append({"call_id": "call-1", "output_tokens": 2})
        outcome = await two.abort("s", user="u")
        assert isinstance(outcome, Stopped)
        assert outcome.text == "so far"
        assert [entry["call_id"] for entry in outcome.usage] == ["call-1"]

    async def test_a_failed_run_keeps_them_too(self, manager: GenerationManager) -> None:
        puppet = await begin(manager)
        (await puppet.generation()).sources(parts=[{"type": "text", "text": "half"}])
        puppet.fail(ValueError("no more"))
        await settled(manager)
        assert (await manager.snapshot("s", user="u")).text == "half"

    async def test_sources_are_read_while_the_run_is_silent(self, cluster: Cluster) -> None:
        """Viewers see a live object grow, though the run never calls `collect`."""
        one, two = await cluster.replica("a"), await cluster.replica("b")
        puppet = await begin(one)
        reader = await read(two)
        graph = _Graph()
        (await puppet.generation()).sources(graph=graph)
        graph.parts.append({"type": "text", "text": "one"})
        await reader.until_text("one")
        graph.parts[0] = {"type": "text", "text": "one two"}
        await reader.until_text("one two")
        puppet.finish()
        await reader.end()

    async def test_a_graph_brings_its_run_steps(self, manager: GenerationManager) -> None:
        """A18 with A21: latest version of each step, in order, on what the store reports."""
        puppet = await begin(manager)
        gen = await puppet.generation()
        graph = _Graph()
        gen.sources(graph=graph)
        graph.steps.append({"id": "s1", "index": 0, "kind": "tool_calls"})
        await gen.collect()
        graph.steps[0] = {"id": "s1", "index": 0, "kind": "tool_calls", "status": "finished"}
        graph.steps.append({"id": "s2", "index": 1, "kind": "message"})
        snapshot = await gen.snapshot()
        assert [(step["id"], step["status"]) for step in snapshot.steps] == [("s1", "finished"), ("s2", "running")]
        puppet.finish()

    async def test_what_was_told_cannot_be_taken_back(self, manager: GenerationManager) -> None:
        """A rewritten text or a shorter list is refused with its place named; the log keeps what it has."""
        puppet = await begin(manager)
        gen = await puppet.generation()
        parts: list[dict[str, Any] | None] = [{"type": "text", "text": "abc"}, {"type": "text", "text": "d"}]
        gen.sources(parts=parts)
        await gen.collect()
        parts[0] = {"type": "text", "text": "xyz"}
        with pytest.raises(InvalidEvent, match="live part 0"):
            await gen.collect()
        parts[0] = {"type": "text", "text": "abc!"}
        del parts[1]
        with pytest.raises(InvalidEvent, match="shrank to 1"):
            await gen.collect()
        with pytest.raises(InvalidEvent, match="already"):
            gen.sources(parts=[])
        parts.append({"type": "text", "text": "d"})
        puppet.finish()
        assert (await settled(manager)).status == "complete"
        assert (await manager.snapshot("s", user="u")).text == "abc!d"

    async def test_a_run_whose_live_content_did_not_all_get_into_the_log_fails(self, cluster: Cluster) -> None:
        """Without any call of `collect`: by the bound of the log, or by what no log may hold. A stop stays a stop."""
        manager = await cluster.replica("a")

        async def ended(stream: str, parts: list[dict[str, Any] | None], **more: Any) -> dict[str, Any]:
            puppet = await begin(manager, stream, limits=Limits(log_bytes=1000))
            (await puppet.generation()).sources(parts=parts)
            if more.get("stop"):
                await manager.abort(stream, user="u")
            elif more.get("fail"):
                puppet.fail(RunFailed("x", code="own"))
            else:
                puppet.finish()
            terminal = (await settled(manager, stream)).terminal
            assert terminal is not None
            return terminal.data

        full: list[dict[str, Any] | None] = [{"type": "text", "text": "x" * 990}, {"type": "text", "text": "y" * 990}]
        assert (await ended("bound", full))["code"] == "limit_exceeded"
        assert (await manager.snapshot("bound", user="u")).text == "x" * 990
        assert (await ended("event", [{"type": "text", "text": "\ud800"}]))["code"] == "invalid_event"
        assert (await ended("failed", full, fail=True))["code"] == "own"
        assert (await ended("stopped", full, stop=True))["by"] == "user"

    async def test_sources_that_cannot_be_read_do_not_keep_a_run_from_its_end(self, manager: GenerationManager) -> None:
        class Broken(_Graph):
            def content_parts(self) -> list[dict[str, Any] | None]:
                raise RuntimeError("gone")

        puppet = await begin(manager)
        gen = await puppet.generation()
        gen.sources(graph=Broken())
        await gen.text("fine")
        puppet.finish()
        assert (await settled(manager)).status == "complete"
        assert (await manager.snapshot("s", user="u")).text == "fine"
