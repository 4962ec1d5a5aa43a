"""The meter: each provider's chunks, as they come and cut short; and whatever else may come."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unspool.events import Event
from unspool.ledger.estimates import estimate, tiktoken_counter, tokens_of
from unspool.ledger.meter import Meter
from unspool.ledger.usage import LARGEST, Usage, usage_event
from unspool.testing.model import ScriptedModel


def metered(*chunks: object, keep: int = 0) -> Meter:
    meter = Meter(keep)
    for chunk in chunks:
        meter.observe(chunk)
    return meter


def objects(value: Any) -> Any:
    """The same as the objects of a client library."""
    if isinstance(value, dict):
        plain = value
        made = SimpleNamespace(**{name: objects(part) for name, part in value.items()})
        made.model_dump = lambda: plain
        return made
    return [objects(part) for part in value] if isinstance(value, list) else value


def openai_chat(usage: dict[str, Any] | None) -> list[Any]:
    texts = [
        {"choices": [{"delta": {"content": text}, "finish_reason": None}], "usage": None} for text in ("Hel", "lo")
    ]
    return [*texts, {"choices": [{"delta": {}, "finish_reason": "stop"}]}, {"choices": [], "usage": usage}]


ANTHROPIC: list[Any] = [
    {
        "type": "message_start",
        "message": {
            "usage": {
                "input_tokens": 10, "cache_creation_input_tokens": 30, "cache_read_input_tokens": 5, "output_tokens": 1,
                "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
            }
        },
    },
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "ping"},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7}},
    {"type": "message_stop"},
]  # fmt: skip

# chunks; input, output, cache read, cache write, an hour's; bytes of text; how many chunks are the whole truth
STREAMS: dict[str, tuple[list[Any], tuple[int, ...], int, int]] = {
    "OpenAI chat": (openai_chat({"prompt_tokens": 9, "completion_tokens": 2}), (9, 2, 0, 0, 0), 5, 4),
    "Anthropic": (ANTHROPIC, (45, 7, 5, 30, 20), 5, 5),
    "OpenAI Responses": (
        [
            {"type": "response.created", "response": {"usage": None}},
            {"type": "response.output_text.delta", "delta": "Hello"},
            {"type": "response.output_text.done", "text": "Hello"},
            {"type": "response.completed", "response": {"usage": {"input_tokens": 9, "output_tokens": 2}}},
        ],
        (9, 2, 0, 0, 0), 5, 4,
    ),
    "Gemini": (
        [
            {
                "candidates": [{"content": {"parts": [{"text": "Hel"}]}}],
                "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 1},
            },
            {
                "candidates": [{"content": {"parts": [{"text": "lo"}]}, "finishReason": "STOP"}],
                "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 2, "thoughtsTokenCount": 3},
            },
        ],
        (9, 5, 0, 0, 0), 5, 2,
    ),
    "Gemini's Python client": (
        [
            {"candidates": [{"content": {"parts": [{"text": "Hello"}]}, "finish_reason": None}]},
            {"candidates": None, "usage_metadata": {"prompt_token_count": 9, "candidates_token_count": 2}},
        ],
        (9, 2, 0, 0, 0), 5, 3,
    ),
    "LangChain": (
        [
            {
                "content": "",
                "usage_metadata": {"input_tokens": 9, "output_tokens": 0, "input_token_details": {"cache_read": 4}},
            },
            {"content": "Hel"},
            {"content": [{"type": "text", "text": "lo"}]},
            {"content": "", "usage_metadata": {"input_tokens": 0, "output_tokens": 2}, "chunk_position": "last"},
        ],
        (9, 2, 4, 0, 0), 5, 4,
    ),
    "LangGraph": (
        [
            ({"content": "Hello"}, {"langgraph_node": "agent"}),
            ({"content": "", "usage_metadata": {"input_tokens": 9, "output_tokens": 2},
              "response_metadata": {"finish_reason": "stop"}}, {}),
        ],
        (9, 2, 0, 0, 0), 5, 2,
    ),
    "Bedrock": (
        [
            {"contentBlockDelta": {"delta": {"text": "Hello"}, "contentBlockIndex": 0}},
            {"messageStop": {"stopReason": "end_turn"}},
            {"metadata": {"usage": {"inputTokens": 4, "outputTokens": 2, "cacheReadInputTokens": 5}}},
        ],
        (9, 2, 5, 0, 0), 5, 3,
    ),
    "pydantic-ai": (
        ["Hello", {"input_tokens": 9, "output_tokens": 2, "cache_read_tokens": 4, "details": {}}],
        (9, 2, 4, 0, 0), 5, 2,
    ),
    "our own events": (
        [
            Event("step.started", {"id": "c"}),
            Event("reasoning.delta", {"text": "He"}),
            Event("text.delta", {"text": "ll"}),
            Event("tool.args.delta", {"call_id": "t", "text": "o"}),
            usage_event(Usage(input_tokens=9, output_tokens=2), call_id="c", model="m", provider="p"),
            Event("step.finished", {"id": "c"}),
        ],
        (9, 2, 0, 0, 0), 5, 6,
    ),
}  # fmt: skip


def counts(usage: Usage | None) -> tuple[int, ...]:
    assert usage is not None
    return (
        usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, usage.cache_write_tokens,
        usage.cache_write_1h_tokens,
    )  # fmt: skip


@pytest.mark.parametrize("as_objects", [False, True], ids=["json", "objects"])
@pytest.mark.parametrize(("chunks", "told", "size", "final"), STREAMS.values(), ids=STREAMS)
def test_a_stream_is_read_to_its_end(
    chunks: list[Any], told: tuple[int, ...], size: int, final: int, as_objects: bool
) -> None:
    whole = [objects(chunk) if as_objects and isinstance(chunk, dict) else chunk for chunk in chunks]
    meter = metered(*whole)
    assert counts(meter.usage) == told
    assert meter.size == size
    assert meter.fault is None
    assert [metered(*whole[:n]).final for n in range(len(whole) + 1)] == [n >= final for n in range(len(whole) + 1)]


def test_whole_answers_are_read_too() -> None:
    chat = metered({"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}],
                    "usage": {"prompt_tokens": 9, "completion_tokens": 2}})  # fmt: skip
    message = metered({"type": "message", "content": [{"type": "text", "text": "Hello"}],
                       "usage": {"input_tokens": 9, "output_tokens": 2}})  # fmt: skip
    response = metered({"object": "response", "metadata": {}, "usage": {"input_tokens": 9, "output_tokens": 2}})
    for meter in (chat, message, response):
        assert counts(meter.usage) == (9, 2, 0, 0, 0)
        assert meter.final


def test_what_anthropic_told_at_the_start_is_exact_for_the_input() -> None:
    """Cut short after the start: an input to the token, an output from the text."""
    meter = metered(*ANTHROPIC[:4], {"type": "content_block_delta", "delta": {"text": "x" * 95}})
    assert not meter.final
    found = estimate(meter.usage, None, tokens_of(meter.size))
    assert found is not None
    assert (found.input_tokens, found.cache_write_1h_tokens, found.output_tokens, found.source) == (
        45,
        20,
        25,
        "estimate",
    )


def test_an_estimate_needs_something_to_go_by() -> None:
    assert estimate(None, None, 0) is None
    assert estimate(None, 5, 0) == Usage(input_tokens=5, source="estimate")
    assert estimate(None, None, 3) == Usage(output_tokens=3, source="estimate")


def test_bytes_are_counted_not_characters() -> None:
    assert metered("abcd").size == 4
    assert metered("日本").size == 6
    assert metered("\ud800").size == 1
    assert [tokens_of(size) for size in (0, 1, 4, 5)] == [0, 1, 1, 2]


def test_text_is_kept_for_a_tokenizer_up_to_a_bound() -> None:
    assert metered("ab", "cd", keep=4).text == "abcd"
    assert metered("ab", "cd", "e", keep=4).text is None
    assert metered("ab").text is None


def test_the_tokenizer_counts() -> None:
    count = tiktoken_counter()
    assert count("hello world", "gpt-4o") == 2
    assert count("<|endoftext|> \ud800", "some other model") > 2
    assert 2_000 <= count("a" * 100_000, "gpt-4o") <= 100_000


HOSTILE = [
    {"choices": [], "usage": {"prompt_tokens": -1, "completion_tokens": 2}},
    {"choices": [], "usage": {"prompt_tokens": True, "completion_tokens": 2}},
    {"choices": [], "usage": {"prompt_tokens": float("nan"), "completion_tokens": 2}},
    {"choices": [], "usage": {"prompt_tokens": LARGEST + 1, "completion_tokens": 2}},
    {"choices": [], "usage": "many"},
    {"choices": [], "usage": {"tokens": 5}},
    {"choices": [], "usage": {}},
    {"type": "message_delta", "usage": [1]},
    {"content": "", "usage_metadata": {"input_tokens": "9"}},
    {"usageMetadata": {"promptTokenCount": 1.5}},
    {"metadata": {"usage": {"inputTokens": None, "outputTokens": -2}}},
]


@pytest.mark.parametrize("chunk", HOSTILE, ids=range(len(HOSTILE)))
def test_a_usage_that_makes_no_sense_is_unknown_and_keeps_what_was_known(chunk: dict[str, Any]) -> None:
    meter = metered("text", chunk)
    assert meter.usage is None
    assert meter.fault is not None
    assert meter.observed
    before = metered(*ANTHROPIC[:1], chunk)
    assert before.usage is not None


class Trap:
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("do not look")


def test_objects_that_break_when_they_are_looked_at_do_no_harm() -> None:
    assert metered(Trap()).usage is None
    assert metered(None, 5, b"x", object(), [], (), {}).observed is False


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from([
            "choices", "delta", "content", "usage", "type", "message", "usage_metadata", "usageMetadata", "candidates",
            "parts", "text", "metadata", "prompt_tokens", "input_tokens", "output_tokens", "response", "details",
            "input_token_details", "cache_read", "promptTokenCount", "inputTokens", "message_start", "message_delta",
        ]),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@given(st.lists(JSON, max_size=5))
def test_nothing_that_a_provider_sends_makes_it_raise(chunks: list[Any]) -> None:
    meter = metered(*chunks)
    if meter.usage is not None:
        assert all(0 <= count <= LARGEST for count in counts(meter.usage))


def test_deltas_that_sum_up_too_high_are_not_believed() -> None:
    chunk = {"content": "", "usage_metadata": {"input_tokens": LARGEST, "output_tokens": 1}}
    meter = metered(chunk, chunk)
    assert meter.fault is not None
    assert counts(meter.usage)[0] == LARGEST


def test_the_clients_own_objects_are_read() -> None:
    """Chunks as the libraries of OpenAI and Anthropic build them."""
    from anthropic.types import RawContentBlockDeltaEvent, RawMessageDeltaEvent, RawMessageStartEvent
    from openai.types.chat import ChatCompletionChunk

    def chunk(choices: list[Any], usage: dict[str, int] | None = None) -> ChatCompletionChunk:
        whole = {"id": "1", "created": 1, "model": "m", "object": "chat.completion.chunk", "choices": choices}
        return ChatCompletionChunk.model_validate({**whole, "usage": usage})

    choice = {"index": 0, "delta": {"content": "Hello"}, "finish_reason": None}
    usage = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
    meter = metered(chunk([choice]), chunk([], usage))
    assert (counts(meter.usage), meter.size, meter.final) == ((9, 2, 0, 0, 0), 5, True)

    message = {
        "usage": ANTHROPIC[0]["message"]["usage"], "id": "1", "type": "message", "role": "assistant", "model": "m",
        "content": [], "stop_reason": None, "stop_sequence": None,
    }  # fmt: skip
    meter = metered(
        RawMessageStartEvent.model_validate({"type": "message_start", "message": message}),
        RawContentBlockDeltaEvent.model_validate(ANTHROPIC[3]),
        RawMessageDeltaEvent.model_validate(
            {**ANTHROPIC[4], "delta": {"stop_reason": "end_turn", "stop_sequence": None, "container": None}}
        ),
    )
    assert (counts(meter.usage), meter.size, meter.final) == ((45, 7, 5, 30, 20), 5, True)


async def test_our_own_models_are_read() -> None:
    """The scripted model's events, to the end and cut short."""
    events = [event async for event in ScriptedModel(delay=0).stream([{"role": "user", "content": "hi"}], call_id="c")]
    whole, half = metered(*events), metered(*events[: len(events) // 2])
    assert whole.final
    assert whole.usage is not None
    assert whole.usage.output_tokens > 0
    assert whole.size == sum(len(event.data["text"].encode()) for event in events if event.type.endswith(".delta"))
    assert not half.final
    assert 0 < half.size < whole.size
