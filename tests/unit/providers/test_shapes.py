"""What providers may send instead of what they should: it is read, or the call fails in a way that a run can tell."""

from __future__ import annotations

from typing import Any

import pytest

from unspool.errors import RunFailed
from unspool.providers import shapes
from unspool.providers.call import ModelCall
from unspool.providers.chat import ChatStream


def _choice(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, **fields}]}


@pytest.mark.parametrize(
    "chunk",
    [
        7,
        "text",
        {"choices": 7},
        {"choices": [7]},
        {"usage": [7]},
        _choice(delta="text"),
        _choice(delta={"reasoning": 7}),
        _choice(delta={"content": 7}),
        _choice(delta={"tool_calls": {"index": 0}}),
        _choice(delta={"tool_calls": [7]}),
        _choice(delta={"tool_calls": [{"index": []}]}),
        _choice(delta={"tool_calls": [{"index": 0, "id": 7}]}),
        _choice(delta={"tool_calls": [{"index": 0, "function": {"name": ["f"]}}]}),
        _choice(delta={"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": {"a": "\ud800"}}}]}),
        _choice(finish_reason={"stop": True}),
    ],
)
def test_a_chunk_of_another_shape_fails_the_call(chunk: Any) -> None:
    """With the code that says so; nothing else gets out, whatever the value."""
    with pytest.raises(RunFailed) as failed:
        list(ChatStream(ModelCall("m", "p", "c")).feed(chunk))
    assert failed.value.reason == "provider_error"


def test_null_counts_as_absent() -> None:
    """Many servers send every field, with null in those that say nothing."""
    answer = ChatStream(ModelCall("m", "p", "c"))
    delta = {"role": None, "content": None, "reasoning_content": None, "refusal": None, "tool_calls": None}
    assert list(answer.feed({"choices": [{"index": 0, "delta": delta, "finish_reason": None}], "usage": None})) == []
    assert list(answer.feed({"choices": None})) == []
    assert list(answer.feed({"choices": [{"delta": None, "finish_reason": "stop"}]})) == []
    assert [event.type for event in answer.finish()] == ["step.finished"]


def test_a_name_can_travel() -> None:
    """Half a character in an id or a reason is replaced: a log could not hold it."""
    assert shapes.name("call\ud83d") == "call?"
    assert shapes.name("") is None
    assert shapes.name(None) is None
