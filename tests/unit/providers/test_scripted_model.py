"""ScriptedModel: plays its script, the same every time, and can be stopped at any point of it."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unspool import events
from unspool.content import fold
from unspool.errors import RunFailed
from unspool.events import Event, Record, check_event, encode_data
from unspool.providers.base import Message
from unspool.testing.model import (
    CallTool,
    Fail,
    Finish,
    ReportUsage,
    Say,
    ScriptedModel,
    Stall,
    Think,
    Wait,
    chunks,
)

ASK: list[Message] = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "What is a {log}?"}]


async def play(model, messages=ASK, *, call_id="c1", **options):
    return [event async for event in model.stream(messages, call_id=call_id, **options)]


def folded(got):
    return fold(Record(n, event.type, encode_data(event.data)) for n, event in enumerate(got, 1))


async def test_script_is_played_in_order():
    """Each step becomes its events, between one start and one end."""
    model = ScriptedModel(
        [
            Think("Let me see."),
            Say("Two words"),
            CallTool("add", {"a": 1}),
            CallTool("now", "", call_id="t9"),
            ReportUsage(1000, 100, cache_read_tokens=800, reasoning_tokens=20),
        ]
    )
    got = await play(model, agent="scout")
    assert got[0] == Event("step.started", {"id": "c1", "kind": "message", "name": "scripted", "agent": "scout"})
    assert got[-1].data["finish_reason"] == "tool_calls"
    content = folded(got)
    assert [part["type"] for part in content.parts] == ["reasoning", "text", "tool", "tool"]
    assert content.text == "Two words"
    tools = [(part["call_id"], part["name"], part["arguments"]) for part in content.parts[2:]]
    assert tools == [("c1/tool/1", "add", '{"a":1}'), ("t9", "now", "")]
    (usage,) = content.usage
    assert (usage["input_tokens"], usage["cache_read_tokens"], usage["reasoning_tokens"]) == (1000, 800, 20)
    assert all(event.data["agent"] == "scout" for event in got)


async def test_without_a_script_it_makes_up_a_whole_answer():
    """The made-up answer takes up the question, in Markdown, with reasoning and usage, and only in valid events."""
    got = await play(ScriptedModel())
    for event in got:
        check_event(event)
    content = folded(got)
    assert [part["type"] for part in content.parts] == ["reasoning", "text"]
    assert "What is a {log}?" in content.text
    assert "\n- " in content.text
    assert "```python\n" in content.text
    assert len(content.usage) == 1
    assert content.steps[0]["status"] == "finished"


async def test_empty_conversation_and_endless_question_are_answered():
    """There is an answer to nothing, and a long question is not repeated at length."""
    assert folded(await play(ScriptedModel(), [])).text
    assert len(folded(await play(ScriptedModel(), [{"role": "user", "content": "why " * 9999}])).text) < 3000


@given(seed=st.integers(0, 50))
async def test_same_seed_and_messages_give_the_same_events(seed):
    """An answer depends on seed and messages alone, not on what the model was asked before."""
    asked_before = ScriptedModel(seed=seed)
    await play(asked_before, [{"role": "user", "content": "Something else?"}])
    assert await play(asked_before) == await play(ScriptedModel(seed=seed))


async def test_seeds_differ():
    """Another seed gives another answer."""
    assert len({folded(await play(ScriptedModel(seed=seed))).text for seed in range(5)}) > 1


@given(text=st.text(alphabet="abcdefg hij\n\t*`é日🧵", max_size=200), seed=st.integers(0, 9))
def test_chunks_are_the_text_and_none_is_empty(text, seed):
    """Cutting loses nothing, and never makes an empty chunk."""
    cut = list(chunks(text, Random(seed)))
    assert "".join(cut) == text
    assert all(cut)


async def test_delays_vary_by_half_around_the_mean_and_are_seeded():
    """Every chunk waits for about `delay`; waits are those of the script, and the same every time."""

    async def slept():
        waits = []

        async def sleep(seconds):
            waits.append(seconds)

        await play(ScriptedModel([Say("one two three four"), Wait(9), Say("five")], delay=0.1, sleep=sleep))
        return waits

    first = await slept()
    assert first == await slept()
    assert first[4] == 9
    assert all(0.05 <= seconds <= 0.15 for seconds in first[:4] + first[5:])
    assert len(set(first)) == len(first) == 6


async def test_failure_ends_the_call_as_a_provider_does():
    """Fail raises RunFailed with its code, after what was said."""
    model = ScriptedModel([Say("Hm"), Fail("Busy.", code="rate_limited", retryable=True), Say("never")])
    stream = model.stream(ASK, call_id="c1")
    assert [(await anext(stream)).type for _ in range(2)] == [events.STEP_STARTED, events.TEXT_DELTA]
    with pytest.raises(RunFailed) as caught:
        await anext(stream)
    assert (caught.value.message, caught.value.reason, caught.value.retryable) == ("Busy.", "rate_limited", True)
    assert (model.failed, model.stopped) == (1, 0)


async def test_finish_ends_the_script_where_it_stands():
    """Nothing after Finish is played, and its reason is told."""
    got = await play(ScriptedModel([Say("x"), Finish("length"), Say("never")]))
    assert folded(got).text == "x"
    assert got[-1].data["finish_reason"] == "length"


async def test_stall_lasts_until_cancelled_and_is_counted():
    """A stalled call ends by cancellation only, and counts as stopped."""
    model = ScriptedModel([Say("x"), Stall()])
    said = asyncio.Event()

    async def read():
        async for event in model.stream(ASK, call_id="c1"):
            if event.type == events.TEXT_DELTA:
                said.set()

    reader = asyncio.create_task(read())
    await said.wait()
    assert (model.calls, model.stopped) == (1, 0)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert model.stopped == 1


async def test_closing_early_is_counted_and_finishing_is_not():
    """`stopped` counts the calls that were closed before their end."""
    model = ScriptedModel([Say("one two three")])
    stream = model.stream(ASK, call_id="c1")
    await anext(stream)
    await stream.aclose()
    await play(model)
    assert (model.calls, model.stopped) == (2, 1)


async def test_script_may_depend_on_the_messages():
    """A function as script makes a second turn that differs from the first."""
    model = ScriptedModel(
        lambda messages: [Say("done")] if messages[-1]["role"] == "tool" else [CallTool("now", call_id="t1")]
    )
    assert (await play(model))[-1].data["finish_reason"] == "tool_calls"
    got = await play(model, [*ASK, {"role": "tool", "tool_call_id": "t1", "content": "12:00"}])
    assert folded(got).text == "done"


async def test_requests_are_remembered_within_bounds():
    """A test can see what was asked; a server that runs for ever does not remember it all."""
    model = ScriptedModel([Say("x")])
    tool = {"type": "function", "function": {"name": "now"}}
    for n in range(50):
        await play(model, call_id=f"c{n}", tools=[tool])
    assert (model.calls, len(model.requests)) == (50, 32)
    assert (model.requests[-1].call_id, model.requests[-1].tools) == ("c49", (tool,))
    await model.close()
