"""Usage: every provider's shape reads into the one shape, whose invariants hold whatever was sent."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unspool.errors import InvalidArgument
from unspool.events import check_event, encode_data
from unspool.ledger import Usage, normalise, usage_event
from unspool.ledger.usage import LARGEST

COUNTS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "cache_write_1h_tokens",
          "reasoning_tokens")  # fmt: skip


def counts(usage):
    return tuple(getattr(usage, name) for name in COUNTS)


SHAPES = {
    "OpenAI chat": (
        {
            "prompt_tokens": 1000,
            "completion_tokens": 100,
            "total_tokens": 1100,
            "prompt_tokens_details": {"cached_tokens": 800, "cache_write_tokens": 50, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 20},
        },
        (1000, 100, 800, 50, 0, 20),
    ),
    "OpenAI chat, relayed with Anthropic's fields beside it": (
        {
            "prompt_tokens": 1000,
            "completion_tokens": 100,
            "prompt_tokens_details": {"cached_tokens": 800},
            "cache_read_input_tokens": 800,
            "cache_creation_input_tokens": 0,
        },
        (1000, 100, 800, 0, 0, 0),
    ),
    "OpenAI chat, with nulls": (
        {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": None, "completion_tokens_details": None},
        (5, 2, 0, 0, 0, 0),
    ),
    "OpenAI Responses": (
        {
            "input_tokens": 1000,
            "input_tokens_details": {"cached_tokens": 800, "cache_write_tokens": 50},
            "output_tokens": 100,
            "output_tokens_details": {"reasoning_tokens": 20},
        },
        (1000, 100, 800, 50, 0, 20),
    ),
    "Anthropic": (
        {
            "input_tokens": 788,
            "cache_creation_input_tokens": 30_808,
            "cache_read_input_tokens": 0,
            "output_tokens": 163,
        },
        (31_596, 163, 0, 30_808, 0, 0),
    ),
    "Anthropic, read and written": (
        {
            "input_tokens": 3802,
            "cache_creation_input_tokens": 768,
            "cache_read_input_tokens": 30_808,
            "output_tokens": 149,
        },
        (35_378, 149, 30_808, 768, 0, 0),
    ),
    "Anthropic, split by lifetime, with thinking": (
        {
            "input_tokens": 10,
            "cache_creation_input_tokens": 300,
            "cache_read_input_tokens": 50,
            "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 200},
            "output_tokens": 90,
            "output_tokens_details": {"thinking_tokens": 60},
            "service_tier": "standard",
        },
        (360, 90, 50, 300, 200, 60),
    ),
    "Anthropic, the split alone": (
        {
            "input_tokens": 10,
            "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 200},
            "output_tokens": 1,
        },
        (310, 1, 0, 300, 200, 0),
    ),
    "Anthropic, without a cache": ({"input_tokens": 10, "output_tokens": 5}, (10, 5, 0, 0, 0, 0)),
    "LangChain": (
        {
            "input_tokens": 4424,
            "output_tokens": 5,
            "total_tokens": 4429,
            "input_token_details": {"cache_creation": 4410, "cache_read": 0},
            "output_token_details": {"reasoning": 3},
        },
        (4424, 5, 0, 4410, 0, 3),
    ),
    "LangChain, split by lifetime": (
        {
            "input_tokens": 4424,
            "output_tokens": 5,
            "input_token_details": {
                "cache_creation": 0,
                "cache_read": 4,
                "ephemeral_5m_input_tokens": 4000,
                "ephemeral_1h_input_tokens": 410,
            },
        },
        (4424, 5, 4, 4410, 410, 0),
    ),
    "LangChain, another service tier": (
        {
            "input_tokens": 1000,
            "output_tokens": 100,
            "input_token_details": {"flex": 200, "flex_cache_read": 800},
            "output_token_details": {"flex": 80, "flex_reasoning": 20},
        },
        (1000, 100, 800, 0, 0, 20),
    ),
    "pydantic-ai": (
        {
            "input_tokens": 1000,
            "cache_write_tokens": 50,
            "cache_read_tokens": 800,
            "output_tokens": 100,
            "input_audio_tokens": 0,
            "details": {"reasoning_tokens": 20},
        },
        (1000, 100, 800, 50, 0, 20),
    ),
    "Gemini": (
        {
            "promptTokenCount": 1000,
            "candidatesTokenCount": 80,
            "thoughtsTokenCount": 20,
            "toolUsePromptTokenCount": 30,
            "cachedContentTokenCount": 800,
            "totalTokenCount": 1130,
        },
        (1030, 100, 800, 0, 0, 20),
    ),
    "Bedrock Converse": (
        {"inputTokens": 10, "outputTokens": 5, "cacheReadInputTokens": 50, "cacheWriteInputTokens": 300},
        (360, 5, 50, 300, 0, 0),
    ),
    "Bedrock Converse, split by lifetime": (
        {
            "inputTokens": 10,
            "outputTokens": 5,
            "cacheReadInputTokens": 50,
            "cacheWriteInputTokens": 300,
            "cacheDetails": [{"ttl": "1h", "inputTokens": 200}, {"ttl": "5m", "inputTokens": 100}],
        },
        (360, 5, 50, 300, 200, 0),
    ),
}


@pytest.mark.parametrize(("raw", "expected"), SHAPES.values(), ids=SHAPES)
def test_shapes(raw, expected):
    """Each known shape reads into inclusive counts, with the raw kept."""
    usage = normalise(raw)
    assert counts(usage) == expected
    assert (usage.raw, usage.source, usage.suspect) == (raw, "provider", False)


def test_contradiction_is_clamped_and_marked():
    """Parts that exceed their whole give way to it; the usage is suspect and keeps what was sent."""
    raw = {
        "prompt_tokens": 100,
        "completion_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 80, "cache_write_tokens": 50},
        "completion_tokens_details": {"reasoning_tokens": 11},
    }
    usage = normalise(raw)
    assert counts(usage) == (100, 10, 80, 20, 0, 10)
    assert usage.suspect
    assert usage.raw == raw


def test_written_for_an_hour_never_exceeds_written():
    """The part that is kept for an hour is a part of what was written."""
    usage = normalise({"input_tokens": 9, "cache_write_tokens": 5, "cache_write_1h_tokens": 7})
    assert (usage.cache_write_1h_tokens, usage.suspect) == (5, True)


@pytest.mark.parametrize("bad", [-1, float("nan"), 1.0, True, False, "12", LARGEST + 1, 10**30, [], {}])
@pytest.mark.parametrize(
    ("path", "build"),
    [
        ("prompt_tokens", lambda bad: {"prompt_tokens": bad}),
        (
            "completion_tokens_details.reasoning_tokens",
            lambda bad: {"prompt_tokens": 1, "completion_tokens_details": {"reasoning_tokens": bad}},
        ),
        ("cache_read_input_tokens", lambda bad: {"input_tokens": 1, "cache_read_input_tokens": bad}),
        (
            "input_token_details.flex_cache_read",
            lambda bad: {"input_tokens": 1, "input_token_details": {"flex_cache_read": bad}},
        ),
        (
            "cacheDetails[].inputTokens",
            lambda bad: {"inputTokens": 1, "cacheDetails": [{"ttl": "1h", "inputTokens": bad}]},
        ),
    ],
)
def test_senseless_counts_are_refused_by_name(path, build, bad):
    """Negative, NaN, bool, fraction, text and huge are refused, and the error names the field."""
    with pytest.raises(InvalidArgument) as caught:
        normalise(build(bad))
    assert path in caught.value.message
    assert caught.value.details["field"] == path


@pytest.mark.parametrize("raw", [{"input_tokens": LARGEST, "cache_read_input_tokens": 1}, {"prompt_tokens_details": 3}])
def test_sums_and_objects_are_checked_too(raw):
    """A sum beyond the limit and a count where an object belongs are refused."""
    with pytest.raises(InvalidArgument):
        normalise(raw)


@pytest.mark.parametrize("raw", [{}, {"cost": 1}, {"prompt_tokens": None}, {1: 2}, [], "x", None])
def test_what_is_no_usage_is_refused(raw):
    """Unknown is never read as zero."""
    with pytest.raises(InvalidArgument):
        normalise(raw)


def test_usage_event_is_whole_and_valid():
    """The event carries whose usage it is and every field, and is one that a log takes."""
    usage = normalise({"prompt_tokens": 3, "completion_tokens": 2})
    event = usage_event(usage, call_id="c1", model="m", provider="p", agent="scout")
    check_event(event)
    assert event.data == {
        "call_id": "c1", "model": "m", "provider": "p", "agent": "scout",
        "input_tokens": 3, "output_tokens": 2, "cache_read_tokens": 0, "cache_write_tokens": 0,
        "cache_write_1h_tokens": 0, "reasoning_tokens": 0, "source": "provider", "suspect": False,
        "raw": {"prompt_tokens": 3, "completion_tokens": 2},
    }  # fmt: skip
    assert "agent" not in usage_event(usage, call_id="c1", model="m", provider="p").data


count = st.none() | st.integers(0, 2000) | st.integers(0, LARGEST)
"""Small enough to meet and to contradict each other often, and sometimes as large as can be."""


def objects(*names, **nested):
    return st.fixed_dictionaries({}, optional={**dict.fromkeys(names, count), **nested})


known = st.one_of(
    objects(
        "prompt_tokens", "completion_tokens",
        prompt_tokens_details=objects("cached_tokens", "cache_write_tokens"),
        completion_tokens_details=objects("reasoning_tokens"),
    ),
    objects(
        "input_tokens", "output_tokens",
        input_tokens_details=objects("cached_tokens", "cache_write_tokens"),
        output_tokens_details=objects("reasoning_tokens", "thinking_tokens"),
    ),
    objects(
        "input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens",
        cache_creation=objects("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"),
    ),
    objects(
        "input_tokens", "output_tokens",
        input_token_details=objects("cache_creation", "cache_read", "priority_cache_read", "ephemeral_1h_input_tokens"),
        output_token_details=objects("reasoning", "flex_reasoning"),
    ),
    objects(*COUNTS, details=objects("reasoning_tokens")),
    objects(
        "promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount", "toolUsePromptTokenCount",
        "cachedContentTokenCount",
    ),
    objects("inputTokens", "outputTokens", "cacheReadInputTokens", "cacheWriteInputTokens"),
)  # fmt: skip
INNER = ("cached_tokens", "reasoning_tokens", "cache_read", "ephemeral_1h_input_tokens", "ttl", "inputTokens")
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "1h", "12"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(INNER), inner, max_size=3),
    max_leaves=5,
)
FIELDS = ("prompt_tokens", "prompt_tokens_details", "input_tokens", "cache_creation", "input_token_details", "details",
          "promptTokenCount", "inputTokens", "cacheDetails", "output_tokens_details")  # fmt: skip


def check_invariants(usage):
    assert all(type(value) is int and 0 <= value <= LARGEST for value in counts(usage))
    assert usage.input_tokens >= usage.cache_read_tokens + usage.cache_write_tokens
    assert usage.cache_write_tokens >= usage.cache_write_1h_tokens
    assert usage.output_tokens >= usage.reasoning_tokens


@given(known)
def test_invariants_hold_for_every_known_shape(raw):
    """Whatever the figures, the result keeps the invariants or the payload is refused; the raw is never changed."""
    before = msgspec.json.encode(raw)
    try:
        usage = normalise(raw)
    except InvalidArgument:
        return
    check_invariants(usage)
    assert usage.raw == raw
    assert msgspec.json.encode(raw) == before


@given(st.dictionaries(st.sampled_from(FIELDS), anything))
def test_nonsense_is_refused_or_read_but_never_crashes(raw):
    """Any JSON under the known names is either a usage that keeps the invariants, or InvalidArgument."""
    try:
        usage = normalise(raw)
    except InvalidArgument:
        return
    check_invariants(usage)


@given(known)
def test_own_shape_reads_back_as_itself(raw):
    """Normalising what was normalised changes nothing."""
    try:
        usage = normalise(raw)
    except InvalidArgument:
        return
    again = normalise({name: getattr(usage, name) for name in COUNTS})
    assert counts(again) == counts(usage)
    assert not again.suspect


@given(known)
def test_usage_events_go_through_json(raw):
    """A usage event reads back as the same usage."""
    try:
        usage = normalise(raw)
    except InvalidArgument:
        return
    data = msgspec.json.decode(encode_data(usage_event(usage, call_id="c", model="m", provider="p").data))
    assert msgspec.convert({name: data[name] for name in Usage.__struct_fields__}, Usage) == usage


@given(read=st.integers(0, 10**6), write=st.integers(0, 10**6), fresh=st.integers(0, 10**6), out=st.integers(0, 10**6))
def test_one_call_is_the_same_in_every_dialect(read, write, fresh, out):
    """The same call told in each provider's way gives the same counts: cached tokens are neither lost nor doubled."""
    total = fresh + read + write
    told = [
        {"prompt_tokens": total, "completion_tokens": out,
         "prompt_tokens_details": {"cached_tokens": read, "cache_write_tokens": write}},
        {"input_tokens": total, "output_tokens": out,
         "input_tokens_details": {"cached_tokens": read, "cache_write_tokens": write}},
        {"input_tokens": fresh, "output_tokens": out,
         "cache_read_input_tokens": read, "cache_creation_input_tokens": write},
        {"input_tokens": total, "output_tokens": out,
         "input_token_details": {"cache_read": read, "cache_creation": write}},
        {"input_tokens": total, "output_tokens": out, "cache_read_tokens": read, "cache_write_tokens": write},
        {"inputTokens": fresh, "outputTokens": out, "cacheReadInputTokens": read, "cacheWriteInputTokens": write},
    ]  # fmt: skip
    assert {counts(normalise(raw)) for raw in told} == {(total, out, read, write, 0, 0)}
