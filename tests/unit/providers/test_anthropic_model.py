"""AnthropicModel against a server that speaks Anthropic's wire format, through the real client library."""

from __future__ import annotations

import asyncio

import pytest
from anthropic import AsyncAnthropic

from tests.waiting import HANG
from unspool import events
from unspool.content import fold
from unspool.errors import ConfigurationError, RunFailed
from unspool.events import Event, Record, encode_data
from unspool.providers.anthropic import AnthropicModel

ASK = [{"role": "user", "content": "Hello?"}]
START = {
    "input_tokens": 10,
    "cache_creation_input_tokens": 300,
    "cache_read_input_tokens": 50,
    "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 200},
    "output_tokens": 1,
}


def start(usage=START):
    message = {"id": "m", "type": "message", "role": "assistant", "model": "claude", "content": [], "usage": usage}
    return {"type": "message_start", "message": message}


def block(index, kind, **fields):
    return {"type": "content_block_start", "index": index, "content_block": {"type": kind, **fields}}


def delta(index, kind, **fields):
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **fields}}


def text(index, words):
    return [block(index, "text", text=""), delta(index, "text_delta", text=words), stop(index)]


def stop(index):
    return {"type": "content_block_stop", "index": index}


def end(reason="end_turn", **usage):
    delta = {"stop_reason": reason, "stop_sequence": None}
    return [{"type": "message_delta", "delta": delta, "usage": {"output_tokens": 7, **usage}}, {"type": "message_stop"}]


def playing(*items):
    """An answer that streams `items`, each under the name of its type, with a ping in between."""

    async def answer(exchange):
        await exchange.stream()
        for item in items:
            await exchange.send(item, event=item["type"])
            await exchange.send({"type": "ping"}, event="ping")
        await exchange.end()

    return answer


def failing_with(status, kind, message="secret"):
    async def answer(exchange):
        await exchange.refuse(status, {"type": "error", "error": {"type": kind, "message": message}})

    return answer


@pytest.fixture
async def model(upstream):
    client = AsyncAnthropic(base_url=upstream.url, api_key="sk-test", max_retries=0)
    yield AnthropicModel("claude-test", client=client)
    await client.close()


async def ask(model, messages=ASK, **options):
    return [event async for event in model.stream(messages, call_id="c1", **options)]


async def failing(model):
    """The events up to the failure, and the failure."""
    got = []
    stream = model.stream(ASK, call_id="c1")
    while True:
        try:
            got.append(await anext(stream))
        except RunFailed as failure:
            return got, failure


def folded(got):
    return fold(Record(n, event.type, encode_data(event.data)) for n, event in enumerate(got, 1))


def kinds(got):
    return [event.type for event in got]


async def test_thinking_text_usage_and_end_come_in_the_order_of_the_contract(upstream, model):
    """An answer is step.started, reasoning, text, one usage, step.finished."""
    upstream.answer = playing(
        start(),
        block(0, "thinking", thinking="", signature=""),
        delta(0, "thinking_delta", thinking="Hmm"),
        delta(0, "signature_delta", signature="s"),
        stop(0),
        *text(1, "Hello"),
        *end(),
    )
    got = await ask(model)
    assert got[:3] == [
        Event("step.started", {"id": "c1", "kind": "message", "name": "claude-test"}),
        Event("reasoning.delta", {"text": "Hmm"}),
        Event("text.delta", {"text": "Hello"}),
    ]
    assert kinds(got)[3:] == [events.USAGE, events.STEP_FINISHED]
    assert got[-1].data == {"id": "c1", "kind": "message", "finish_reason": "stop"}


async def test_usage_replaces_and_keeps_the_split_by_lifetime(upstream, model):
    """Cumulative figures replace those of the start; the split that only the start tells stays; input is the sum."""
    upstream.answer = playing(start(), *text(0, "x"), *end(cache_creation_input_tokens=310))
    usage = next(event.data for event in await ask(model) if event.type == events.USAGE)
    assert (usage["input_tokens"], usage["output_tokens"]) == (10 + 310 + 50, 7)
    assert (usage["cache_read_tokens"], usage["cache_write_tokens"], usage["cache_write_1h_tokens"]) == (50, 310, 200)
    assert usage["raw"]["cache_creation"]["ephemeral_5m_input_tokens"] == 100


async def test_parallel_tool_use(upstream, model):
    """Tool-use blocks fold into one tool part each, with their input whole."""
    upstream.answer = playing(
        start(),
        block(0, "tool_use", id="t0", name="add", input={}),
        delta(0, "input_json_delta", partial_json=""),
        delta(0, "input_json_delta", partial_json='{"x"'),
        delta(0, "input_json_delta", partial_json=":1}"),
        stop(0),
        block(1, "tool_use", id="t1", name="now", input={}),
        stop(1),
        block(2, "tool_use", id="t2", name="whole", input={"y": 2}),
        stop(2),
        *end("tool_use"),
    )
    got = await ask(model)
    assert [(part["call_id"], part["name"], part["arguments"]) for part in folded(got).parts] == [
        ("t0", "add", '{"x":1}'),
        ("t1", "now", ""),
        ("t2", "whole", '{"y":2}'),
    ]
    assert (got[-1].data["finish_reason"], got[-1].data["kind"]) == ("tool_calls", "tool_calls")


async def test_server_tools_leave_the_text_whole(upstream, model):
    """Blocks of tools that Anthropic runs itself are no tool calls of ours, and disturb nothing."""
    upstream.answer = playing(
        start(),
        block(0, "server_tool_use", id="s", name="web_search", input={}),
        delta(0, "input_json_delta", partial_json='{"query":"x"}'),
        stop(0),
        block(1, "web_search_tool_result", tool_use_id="s", content=[]),
        stop(1),
        *text(2, "Found"),
        *end(),
    )
    assert [part["type"] for part in folded(await ask(model)).parts] == ["text"]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("something_new", "something_new"),
    ],
)
async def test_finish_reasons(upstream, model, theirs, ours):
    """Every stop reason has its finish reason; one that nobody knows yet is passed on."""
    upstream.answer = playing(start(), *end(theirs))
    assert (await ask(model))[-1].data["finish_reason"] == ours


async def test_request_is_the_conversation_in_anthropics_shape(upstream):
    """System prompts, images, tool calls, tool results and tools arrive as Anthropic wants them."""
    upstream.answer = playing(start(), *end())
    model = AnthropicModel(
        "claude-test", base_url=upstream.url, api_key="sk-mine", max_tokens=99, extra={"temperature": 0}
    )
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}]},
        {"role": "developer", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}},
                {"type": "image_url", "image_url": {"url": "https://pictures.example/cat.png"}},
            ],
        },
        {
            "role": "assistant",
            "content": "Let me look.",
            "tool_calls": [
                {"id": "t0", "type": "function", "function": {"name": "look", "arguments": '{"at":"it"}'}},
                {"id": "t1", "type": "function", "function": {"name": "smell", "arguments": ""}},
                {"id": "t2", "type": "function", "function": {"name": "cut", "arguments": '{"short'}},
            ],
        },
        {"role": "tool", "tool_call_id": "t0", "content": "a cat"},
        {"role": "tool", "tool_call_id": "t1", "content": [{"type": "text", "text": "cat-like"}]},
        {"role": "tool", "tool_call_id": "t2", "content": None},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": ""},
    ]
    tools = [
        {"type": "function", "function": {"name": "look", "description": "Look.", "parameters": {"type": "object"}}},
        {"type": "function", "function": {"name": "smell"}},
        {"type": "web_search_20250305", "name": "web_search"},
    ]
    await ask(model, messages, tools=tools)
    await model.close()
    (request,) = upstream.requests
    assert (request.path, request.headers["authorization"]) == ("/v1/messages", "bearer sk-mine")
    assert request.body == {
        "model": "claude-test",
        "max_tokens": 99,
        "stream": True,
        "temperature": 0,
        "system": [
            {"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}},
            {"type": "text", "text": "Be brief."},
        ],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}},
                    {"type": "image", "source": {"type": "url", "url": "https://pictures.example/cat.png"}},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "Let me look."},
                    {"type": "tool_use", "id": "t0", "name": "look", "input": {"at": "it"}},
                    {"type": "tool_use", "id": "t1", "name": "smell", "input": {}},
                    {"type": "tool_use", "id": "t2", "name": "cut", "input": {"arguments": '{"short'}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t0", "content": [{"type": "text", "text": "a cat"}]},
                    {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "cat-like"}]},
                    {"type": "tool_result", "tool_use_id": "t2", "content": []},
                    {"type": "text", "text": "And?"},
                ],
            },
        ],
        "tools": [
            {"name": "look", "description": "Look.", "input_schema": {"type": "object"}},
            {"name": "smell", "input_schema": {"type": "object"}},
            {"type": "web_search_20250305", "name": "web_search"},
        ],
    }


@pytest.mark.parametrize(
    "message",
    [
        {"role": "wizard", "content": "x"},
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png,x"}}]},
    ],
)
async def test_what_anthropic_cannot_be_told_is_an_invalid_request(model, message):
    """A role or a part without a counterpart is refused before anything is sent."""
    with pytest.raises(RunFailed) as caught:
        await ask(model, [message])
    assert caught.value.reason == "invalid_request"


@pytest.mark.parametrize(
    ("status", "kind", "message", "code", "retryable"),
    [
        (401, "authentication_error", "secret", "authentication", False),
        (402, "billing_error", "secret", "rate_limited", False),
        (403, "permission_error", "secret", "authentication", False),
        (429, "rate_limit_error", "secret", "rate_limited", True),
        (400, "invalid_request_error", "secret", "invalid_request", False),
        (400, "invalid_request_error", "prompt is too long: 200251 tokens > 200000", "context_length", False),
        (404, "not_found_error", "secret", "invalid_request", False),
        (413, "request_too_large", "secret", "invalid_request", False),
        (500, "api_error", "secret", "provider_unavailable", True),
        (529, "overloaded_error", "secret", "provider_unavailable", True),
    ],
)
async def test_refusals_become_codes(upstream, model, status, kind, message, code, retryable):
    """Each refusal has its code and says whether to try again; the provider's own words stay in the cause."""
    upstream.answer = failing_with(status, kind, message)
    got, failure = await failing(model)
    assert kinds(got) == [events.STEP_STARTED]
    assert (failure.reason, failure.retryable) == (code, retryable)
    assert "secret" not in failure.message
    assert failure.__cause__ is not None


@pytest.mark.parametrize(
    ("kind", "code"),
    [("overloaded_error", "provider_unavailable"), ("api_error", "provider_unavailable"), ("odd", "provider_error")],
)
async def test_error_in_the_middle_of_a_stream(upstream, model, kind, code):
    """An error event fails the call after its text and the usage that was known by then."""
    upstream.answer = playing(start(), *text(0, "Hel"), {"type": "error", "error": {"type": kind, "message": "secret"}})
    got, failure = await failing(model)
    assert folded(got).text == "Hel"
    assert (got[-1].type, got[-1].data["input_tokens"]) == (events.USAGE, 360)
    assert failure.reason == code


async def test_connection_cut_in_the_middle_is_provider_unavailable(upstream, model):
    """A connection that breaks off fails the call, and not with half an answer taken for a whole one."""

    async def answer(exchange):
        await exchange.stream()
        for item in (start(), *text(0, "Hel")):
            await exchange.send(item, event=item["type"])
        exchange.cut()

    upstream.answer = answer
    got, failure = await failing(model)
    assert (folded(got).text, failure.reason, failure.retryable) == ("Hel", "provider_unavailable", True)


async def test_stream_that_ends_without_a_stop_reason_has_broken_off(upstream, model):
    """A stream that ends in good order before the answer does is a failure."""
    upstream.answer = playing(start(), *text(0, "Hel"))
    assert (await failing(model))[1].reason == "provider_unavailable"


async def test_stream_that_is_not_json_is_provider_error(upstream, model):
    """Nonsense on the wire is the provider's failure, not a crash of ours."""

    async def answer(exchange):
        await exchange.stream()
        await exchange.send("{not json", event="message_start")
        await exchange.end()

    upstream.answer = answer
    assert (await failing(model))[1].reason == "provider_error"


def hanging(*items):
    async def answer(exchange):
        await exchange.stream()
        for item in items:
            await exchange.send(item, event=item["type"])
        await exchange.gone.wait()

    return answer


async def test_closing_the_iterator_closes_the_upstream_connection(upstream, model):
    """The server sees the disconnect when the iterator is closed between two events."""
    upstream.answer = hanging(start(), *text(0, "Hel"))
    stream = model.stream(ASK, call_id="c1")
    while (await anext(stream)).type != events.TEXT_DELTA:
        pass
    await stream.aclose()
    async with asyncio.timeout(HANG):
        await upstream.requests[0].gone.wait()


async def test_cancelling_a_waiting_reader_closes_the_upstream_connection(upstream, model):
    """The server sees the disconnect when the task that waits for the next event is cancelled."""
    upstream.answer = hanging(start(), *text(0, "Hel"))
    said = asyncio.Event()

    async def read():
        async for event in model.stream(ASK, call_id="c1"):
            if event.type == events.TEXT_DELTA:
                said.set()

    reader = asyncio.create_task(read())
    await said.wait()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    async with asyncio.timeout(HANG):
        await upstream.requests[0].gone.wait()


def test_missing_key_is_a_configuration_error(monkeypatch, tmp_path):
    """Without credentials the model says so at once, not at the first call."""
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigurationError, match="ANTHROPIC_API_KEY"):
        AnthropicModel("claude-test")
