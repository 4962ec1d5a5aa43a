"""Chat Completions as a projection: chunks as OpenAI's client knows them, which add up to the answer in one piece."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.unit.http.test_responses import records, steps
from unspool.http.dialects.chat_completions import ChatCompletions
from unspool.sse import Decoder

Json = dict[str, Any]

ends = st.sampled_from(
    [
        ("completed", {"finish_reason": "stop"}),
        ("completed", {"finish_reason": "a word of its own"}),
        ("failed", {"code": "rate_limited", "message": "no"}),
        ("aborted", {"by": "user"}),
    ]
)


def begin() -> ChatCompletions:
    return ChatCompletions(stream_id="chatcmpl-1", generation=1, created_at=1_700_000_000.5)


def asked(usage: bool) -> tuple[str, Json]:
    return ("request", {"chat-completions": {"model": "m", "include_usage": usage}})


def decoded(frames: Sequence[bytes]) -> list[Json]:
    messages = Decoder().feed(b"".join(frames))
    assert messages[-1].data == "[DONE]"
    return [json.loads(message.data) for message in messages[:-1]]


@given(st.lists(steps, max_size=30), ends, st.booleans(), st.data())
def test_chunks_add_up(middle: list[tuple[str, Json]], end: tuple[str, Json], usage: bool, data: st.DataObject) -> None:
    """Text, reasoning and tool calls of all chunks are those of the answer, and usage comes last, where it was asked
    for; what did not come to its end has no reason to have finished, and an error instead. Dumped and loaded anywhere,
    the rest is the same."""
    fed = records([asked(usage), *middle, end])
    whole, known = begin(), list[tuple[int, bytes]]()
    frames: list[bytes] = []
    for record in fed:
        known.append((whole.count, whole.dump()))
        frames += whole.feed(record)
    count, state = known[data.draw(st.integers(0, len(fed) - 1))]
    again = ChatCompletions.load(state)
    assert [frame for record in fed[again.offset :] for frame in again.feed(record)] == frames[count:]
    chunks = decoded(frames)
    completed = end[0] == "completed"
    if not completed:
        assert chunks.pop()["error"] == whole.failure
    elif usage:
        last = chunks.pop()
        assert last["choices"] == []
        assert last["usage"] == whole.completion()["usage"]
    told = [ChatCompletionChunk.model_validate(chunk).choices[0] for chunk in chunks]
    assert [choice.finish_reason for choice in told[:-1]] == [None] * (len(told) - 1)
    assert (told[-1].finish_reason == "stop") is completed
    answer = ChatCompletion.model_validate(whole.completion()).choices[0].message
    assert (answer.content or "") == "".join(choice.delta.content or "" for choice in told)
    calls: dict[int, list[str]] = {}
    for choice in told:
        for call in choice.delta.tool_calls or ():
            assert call.function is not None
            calls.setdefault(call.index, []).append(call.function.arguments or "")
    assert ["".join(parts) for parts in calls.values()] == [
        call.function.arguments for call in answer.tool_calls or () if call.type == "function"
    ]


def test_why_it_finished() -> None:
    """Reasons that clients know are told, in the stream and in one piece; any other word is a stop."""
    for reason, told in (("length", "length"), ("tool_calls", "tool_calls"), ("content_filter", "content_filter"),
                         ("max", "stop")):  # fmt: skip
        whole = begin()
        frames = [
            frame for record in records([("completed", {"finish_reason": reason})]) for frame in whole.feed(record)
        ]
        assert decoded(frames)[-1]["choices"][0]["finish_reason"] == told
        assert whole.completion()["choices"][0]["finish_reason"] == told


def test_usage_in_detail() -> None:
    """Summed over all calls, with what was cached and thought; none where nothing is known."""
    usage = {
        "call_id": "m", "input_tokens": 10, "cache_read_tokens": 4, "cache_write_tokens": 1, "output_tokens": 5,
        "reasoning_tokens": 2,
    }  # fmt: skip
    whole = begin()
    assert whole.completion()["usage"] is None
    for record in records([asked(True), ("usage", usage), ("usage", usage)]):
        whole.feed(record)
    assert whole.completion()["usage"] == {
        "prompt_tokens": 20, "prompt_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 2},
        "completion_tokens": 10, "completion_tokens_details": {"reasoning_tokens": 4}, "total_tokens": 30,
    }  # fmt: skip
