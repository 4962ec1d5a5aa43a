"""The handle of a run: what it takes, copies, counts and refuses when an event is emitted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from unspool.errors import InvalidArgument, InvalidEvent, RunFailed
from unspool.events import EVENT_BYTES
from unspool.jobs import Limits, Status
from unspool.manager import GenerationManager
from unspool.options import Options
from unspool.testing.contract.kit import begin, read, settled

pytestmark = pytest.mark.virtual_time


@pytest_asyncio.fixture
async def manager() -> AsyncIterator[GenerationManager]:
    async with GenerationManager(options=Options(poll=0.02, sweep=0.02, drain=0.0)) as manager:
        yield manager


async def test_marks_of_a_delta_are_those_of_the_moment_in_which_it_was_emitted(manager: GenerationManager) -> None:
    """Changed in the same step, also to what is no JSON: the log has what they were, and the run continues."""
    run = await begin(manager, user=None)
    generation = await run.generation()
    marks: dict[str, Any] = {"n": 1}
    await generation.emit("text.delta", {"text": "a", "meta": marks})
    await generation.emit("text.delta", {"text": "b", "meta": {"n": 1}})
    marks["n"] = True
    await generation.emit("text.delta", {"text": "c", "meta": marks})
    await generation.emit("tool.args.delta", {"call_id": "t", "text": "{", "meta": marks})
    marks["n"] = object()
    with pytest.raises(InvalidEvent):
        await generation.emit("text.delta", {"text": "d", "meta": marks})
    run.finish()
    reader = await read(manager, user=None)
    await reader.end()
    assert [record.payload for record in reader.records[:-1]] == [
        b'{"part_id":"p1","text":"ab","meta":{"n":1}}',
        b'{"part_id":"p1","text":"c","meta":{"n":true}}',
        b'{"call_id":"t","text":"{","meta":{"n":true}}',
    ]
    assert (await settled(manager, user=None)).status is Status.COMPLETE


@pytest.mark.parametrize("kind", ["text.delta", "tool.args.delta"])
@pytest.mark.parametrize(
    "more", [{"blob": "x" * EVENT_BYTES}, {"id": "x" * EVENT_BYTES}, {"id": "\ud800"}, {"blob": "\ud800"}]
)
async def test_ids_and_marks_of_a_delta_are_bounded_as_all_data_is(
    manager: GenerationManager, kind: str, more: dict[str, str]
) -> None:
    """They are refused in the call that brought them; the run continues."""
    run = await begin(manager, user=None)
    generation = await run.generation()
    name = "part_id" if kind == "text.delta" else "call_id"
    data = {name: "i", "text": "a"} | {name if field == "id" else field: value for field, value in more.items()}
    with pytest.raises(InvalidEvent):
        await generation.emit(kind, data)
    await run.say("b")
    run.finish()
    assert (await settled(manager, user=None)).last_offset == 2


async def test_an_event_that_is_refused_changes_nothing(manager: GenerationManager) -> None:
    """Neither title nor status, nor which part the next text belongs to, nor how the run will have ended."""
    run = await begin(manager, user=None, limits=Limits(log_bytes=100))
    generation = await run.generation()
    await run.say("x" * 50)
    before = await manager.job("s")
    for kind, data, error in (
        ("title", {"text": "T" * 50}, RunFailed),
        ("approval.requested", {"action_id": "a" * 50}, RunFailed),
        ("tool.call", {"call_id": "c" * 50, "name": "n"}, RunFailed),
        ("step.finished", {"id": "s" * 50, "finish_reason": "length"}, RunFailed),
        ("created", {"user_message": "no object"}, InvalidArgument),
    ):
        with pytest.raises(error):
            await generation.emit(kind, data)
    await generation._writer.flush()
    assert await manager.job("s") == before
    assert not generation.paused
    assert [part.id for part in generation._open_parts.values()] == ["p1"]
    run.finish()
    terminal = (await settled(manager, user=None)).terminal
    assert terminal is not None
    assert terminal.data == {"finish_reason": "stop"}


async def test_the_final_message_is_what_it_was_when_it_was_given(manager: GenerationManager) -> None:
    """Changed afterwards, also to what is no JSON: the run is sealed with what it was."""
    run = await begin(manager, user=None)
    generation = await run.generation()
    message: dict[str, Any] = {"text": "final", "parts": [1]}
    generation.finish(message=message)
    message["parts"].append(object())
    with pytest.raises(InvalidEvent):
        generation.finish(finish_reason="\ud800")
    run.finish()
    terminal = (await settled(manager, user=None)).terminal
    assert terminal is not None
    assert terminal.data == {"finish_reason": "stop", "message": {"text": "final", "parts": [1]}}
