"""OpenAIModel against a server that speaks OpenAI's wire format, through the real client library."""

from __future__ import annotations

import asyncio

import pytest
from openai import AsyncOpenAI

from tests.waiting import HANG
from unspool import events
from unspool.content import fold
from unspool.errors import ConfigurationError, RunFailed
from unspool.events import Event, Record, encode_data
from unspool.providers.openai import OpenAIModel

ASK = [{"role": "user", "content": "Hello?"}]
USAGE = {
    "prompt_tokens": 1000,
    "completion_tokens": 100,
    "total_tokens": 1100,
    "prompt_tokens_details": {"cached_tokens": 800},
    "completion_tokens_details": {"reasoning_tokens": 20},
}


def chunk(delta=None, *, finish=None, index=0, **fields):
    choice = {"index": index, "delta": delta or {}, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **fields}


def last(usage=USAGE):
    return chunk() | {"choices": [], "usage": usage}


def playing(*items, done=True):
    """An answer that streams `items` and ends as OpenAI does."""

    async def answer(exchange):
        await exchange.stream()
        for item in items:
            await exchange.send(item)
        if done:
            await exchange.send("[DONE]")
        await exchange.end()

    return answer


def refusing(status, error):
    async def answer(exchange):
        await exchange.refuse(status, {"error": error})

    return answer


@pytest.fixture
async def model(upstream):
    client = AsyncOpenAI(base_url=f"{upstream.url}/v1", api_key="sk-test", max_retries=0)
    yield OpenAIModel("gpt-test", client=client)
    await client.close()


async def ask(model, messages=ASK, **options):
    return [event async for event in model.stream(messages, call_id="s/1/a/1/1", **options)]


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


async def test_text_usage_and_end_come_in_the_order_of_the_contract(upstream, model):
    """A plain answer is step.started, its deltas, one usage, step.finished."""
    upstream.answer = playing(
        chunk({"role": "assistant", "content": ""}), chunk({"content": "Hel"}), chunk({"content": "lo"}),
        chunk(finish="stop"), last(),
    )  # fmt: skip
    got = await ask(model)
    assert got[0] == Event("step.started", {"id": "s/1/a/1/1", "kind": "message", "name": "gpt-test"})
    assert got[1:3] == [Event("text.delta", {"text": "Hel"}), Event("text.delta", {"text": "lo"})]
    usage = got[3].data
    assert (usage["call_id"], usage["model"], usage["provider"]) == ("s/1/a/1/1", "gpt-test", "openai")
    assert (usage["input_tokens"], usage["cache_read_tokens"], usage["reasoning_tokens"]) == (1000, 800, 20)
    assert (usage["output_tokens"], usage["raw"]) == (100, USAGE)
    finished = {"id": "s/1/a/1/1", "kind": "message", "finish_reason": "stop"}
    assert got[4:] == [Event("step.finished", finished)]


async def test_request_is_what_was_asked_for(upstream):
    """Model, messages, tools, the wish for usage and every extra field are in the request; the key is in its header."""
    upstream.answer = playing(chunk({"content": "x"}, finish="stop"))
    model = OpenAIModel(
        "gpt-test", base_url=f"{upstream.url}/v1", api_key="sk-mine", extra={"temperature": 0, "min_p": 0.1}
    )
    tools = [{"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}]
    await ask(model, tools=tools)
    await model.close()
    (request,) = upstream.requests
    assert request.path == "/v1/chat/completions"
    assert request.headers["authorization"] == "bearer sk-mine"
    assert request.body == {
        "model": "gpt-test", "messages": ASK, "tools": tools, "stream": True,
        "stream_options": {"include_usage": True}, "temperature": 0, "min_p": 0.1,
    }  # fmt: skip


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
async def test_reasoning_under_either_name_is_reasoning(upstream, model, field):
    """Both names that servers use for reasoning become reasoning.delta."""
    upstream.answer = playing(chunk({field: "Hmm", "content": None}), chunk({"content": "Yes"}), chunk(finish="stop"))
    got = await ask(model)
    assert got[1:3] == [Event("reasoning.delta", {"text": "Hmm"}), Event("text.delta", {"text": "Yes"})]


async def test_reasoning_under_both_names_is_told_once(upstream, model):
    """A server that fills both fields with the same text does not say it twice."""
    upstream.answer = playing(chunk({"reasoning": "Hmm", "reasoning_content": "Hmm"}), chunk(finish="stop"))
    assert folded(await ask(model)).parts == [{"type": "reasoning", "part_id": None, "text": "Hmm"}]


async def test_parallel_tool_calls_keep_apart(upstream, model):
    """Tool calls interleaved by index fold into one part each, named once, with their arguments whole."""
    upstream.answer = playing(
        chunk({"tool_calls": [{"index": 0, "id": "t0", "function": {"name": "add", "arguments": ""}}]}),
        chunk({"tool_calls": [{"index": 1, "id": "t1", "function": {"name": "mul", "arguments": '{"a"'}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"x":1}'}},
                              {"index": 1, "function": {"arguments": ":2}"}}]}),
        chunk(finish="tool_calls"), last(),
    )  # fmt: skip
    got = await ask(model)
    assert kinds(got).count(events.TOOL_CALL) == 2
    assert [(part["call_id"], part["name"], part["arguments"]) for part in folded(got).parts] == [
        ("t0", "add", '{"x":1}'),
        ("t1", "mul", '{"a":2}'),
    ]
    assert (got[-1].data["finish_reason"], got[-1].data["kind"]) == ("tool_calls", "tool_calls")


async def test_tool_calls_of_careless_servers(upstream, model):
    """Calls that all have index 0, no id, arguments before the name or as an object come out whole nevertheless."""
    upstream.answer = playing(
        chunk({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "one", "arguments": "{}"}}]}),
        chunk({"tool_calls": [{"index": 0, "id": "b", "function": {"name": "two", "arguments": {"k": 1}}}]}),
        chunk({"tool_calls": [{"index": 1, "function": {"arguments": '{"early"'}}]}),
        chunk({"tool_calls": [{"index": 1, "id": "", "function": {"name": "three", "arguments": ":1}"}}]}),
        chunk(finish="tool_calls"),
    )  # fmt: skip
    parts = folded(await ask(model)).parts
    assert [(part["call_id"], part["name"], part["arguments"]) for part in parts] == [
        ("a", "one", "{}"),
        ("b", "two", '{"k":1}'),
        ("s/1/a/1/1/tool/3", "three", '{"early":1}'),
    ]


async def test_tool_call_without_a_name_fails(upstream, model):
    """A tool call that nobody could answer is a failure, not a silent loss."""
    upstream.answer = playing(
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}), chunk(finish="tool_calls")
    )
    assert (await failing(model))[1].reason == "provider_error"


async def test_refusal_is_text(upstream, model):
    """What the model says in place of an answer reaches the reader."""
    upstream.answer = playing(chunk({"refusal": "I can't."}), chunk(finish="stop"))
    assert folded(await ask(model)).text == "I can't."


async def test_character_cut_in_two_surrogates_is_made_whole(upstream, model):
    """A server that escapes its JSON and cuts inside a character loses nothing of it."""
    upstream.answer = playing(
        chunk({"content": "a\ud83e"}), chunk({"content": "\uddf5b"}), chunk({"content": "\ud800c"}),
        chunk({"content": "é"}, finish="stop"),
    )  # fmt: skip
    got = await ask(model)
    assert folded(got).text == "a🧵b\ufffdcé"


async def test_agent_is_on_every_event(upstream, model):
    """With an agent, each event names it."""
    upstream.answer = playing(
        chunk({"reasoning": "r", "content": "x"}),
        chunk({"tool_calls": [{"index": 0, "id": "t", "function": {"name": "f", "arguments": "{}"}}]}),
        chunk(finish="tool_calls"), last(),
    )  # fmt: skip
    got = await ask(model, agent="scout")
    assert len(got) == 7
    assert {event.data["agent"] for event in got} == {"scout"}


async def test_growing_usage_is_told_once_with_its_last_figure(upstream, model):
    """Servers that send usage with every chunk are charged for the last of them."""
    growing = [chunk({"content": "x"}, usage={"prompt_tokens": 5, "completion_tokens": n}) for n in (1, 2, 3)]
    upstream.answer = playing(*growing, chunk(finish="stop", usage={"prompt_tokens": 5, "completion_tokens": 4}))
    got = await ask(model)
    assert [event.data["output_tokens"] for event in got if event.type == events.USAGE] == [4]
    assert kinds(got)[-2:] == [events.USAGE, events.STEP_FINISHED]


@pytest.mark.parametrize("usage", [None, {"prompt_tokens": -1, "completion_tokens": 2}, {"cost": 0.1}])
async def test_usage_that_is_missing_or_senseless_is_no_event(upstream, model, usage):
    """An answer whose usage is not told, or cannot be believed, is still an answer; its usage stays unknown."""
    upstream.answer = playing(chunk({"content": "x"}), chunk(finish="stop"), last(usage))
    assert kinds(await ask(model)) == [events.STEP_STARTED, events.TEXT_DELTA, events.STEP_FINISHED]


async def test_server_that_rejects_stream_options_is_asked_again_without(upstream, model):
    """An older server is asked once more without the wish for usage, and from then on never with it."""

    async def answer(exchange):
        if "stream_options" in exchange.body:
            await exchange.refuse(400, {"error": {"message": "Unrecognized request argument: stream_options"}})
        else:
            await playing(chunk({"content": "x"}, finish="stop"))(exchange)

    upstream.answer = answer
    await ask(model)
    await ask(model)
    assert ["stream_options" in request.body for request in upstream.requests] == [True, False, False]


@pytest.mark.parametrize(
    ("status", "error", "code", "retryable"),
    [
        (401, {"message": "Incorrect API key: sk-secret", "code": "invalid_api_key"}, "authentication", False),
        (403, {"message": "no"}, "authentication", False),
        (429, {"message": "Rate limit of org-secret", "code": "rate_limit_exceeded"}, "rate_limited", True),
        (429, {"message": "Quota", "code": "insufficient_quota"}, "rate_limited", False),
        (400, {"message": "Bad", "type": "invalid_request_error"}, "invalid_request", False),
        (404, {"message": "No such model", "code": "model_not_found"}, "invalid_request", False),
        (400, {"message": "…", "code": "context_length_exceeded"}, "context_length", False),
        (400, {"message": "This model's maximum context length is 8192 tokens"}, "context_length", False),
        (500, {"message": "Oops"}, "provider_unavailable", True),
        (503, {"message": "Overloaded"}, "provider_unavailable", True),
    ],
)
async def test_refusals_become_codes(upstream, model, status, error, code, retryable):
    """Each refusal has its code and says whether to try again; the provider's own words stay in the cause."""
    upstream.answer = refusing(status, error)
    got, failure = await failing(model)
    assert kinds(got) == [events.STEP_STARTED]
    assert (failure.reason, failure.retryable) == (code, retryable)
    assert "secret" not in failure.message
    assert failure.__cause__ is not None


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ({"message": "The server had an error", "type": "server_error", "code": None}, "provider_unavailable"),
        ({"message": "Slow down", "code": 429}, "rate_limited"),
        ({"message": "Bad gateway", "code": 502}, "provider_unavailable"),
        ({"message": "?"}, "provider_error"),
    ],
)
async def test_error_in_the_middle_of_a_stream(upstream, model, error, code):
    """An error event after some text fails the call; what was said until then has been passed on."""
    upstream.answer = playing(chunk({"content": "Hel"}), {"error": error})
    got, failure = await failing(model)
    assert folded(got).text == "Hel"
    assert failure.reason == code


async def test_usage_told_before_an_error_is_not_lost(upstream, model):
    """What a failed call had reported until then is reported."""
    upstream.answer = playing(
        chunk({"content": "x"}, usage={"prompt_tokens": 7, "completion_tokens": 1}), {"error": {"message": "?"}}
    )
    got, _ = await failing(model)
    assert got[-1].data["input_tokens"] == 7


async def test_connection_cut_in_the_middle_is_provider_unavailable(upstream, model):
    """A connection that breaks off fails the call as one to try again."""

    async def answer(exchange):
        await exchange.stream()
        await exchange.send(chunk({"content": "Hel"}))
        exchange.cut()

    upstream.answer = answer
    got, failure = await failing(model)
    assert folded(got).text == "Hel"
    assert (failure.reason, failure.retryable) == ("provider_unavailable", True)


@pytest.mark.parametrize("done", [True, False])
async def test_stream_that_ends_without_a_finish_reason_has_broken_off(upstream, model, done):
    """Half an answer is never taken for a whole one, even when its stream ends in good order."""
    upstream.answer = playing(chunk({"content": "Hel"}), done=done)
    got, failure = await failing(model)
    assert events.STEP_FINISHED not in kinds(got)
    assert failure.reason == "provider_unavailable"


async def test_stream_that_is_not_json_is_provider_error(upstream, model):
    """Nonsense on the wire is the provider's failure, not a crash of ours."""
    upstream.answer = playing("{not json")
    assert (await failing(model))[1].reason == "provider_error"


async def test_server_that_is_not_there_is_provider_unavailable(upstream, model):
    """A refused connection is a failure to try again."""
    await upstream.stop()
    assert (await failing(model))[1].reason == "provider_unavailable"


def hanging(*items):
    """An answer that streams `items` and then nothing more, until the client hangs up."""

    async def answer(exchange):
        await exchange.stream()
        for item in items:
            await exchange.send(item)
        await exchange.gone.wait()

    return answer


async def hung_up(upstream):
    async with asyncio.timeout(HANG):
        await upstream.requests[0].gone.wait()


async def test_closing_the_iterator_closes_the_upstream_connection(upstream, model):
    """The server sees the disconnect when the iterator is closed between two events."""
    upstream.answer = hanging(chunk({"content": "Hel"}))
    stream = model.stream(ASK, call_id="c1")
    while (await anext(stream)).type != events.TEXT_DELTA:
        pass
    await stream.aclose()
    await hung_up(upstream)


async def test_cancelling_a_waiting_reader_closes_the_upstream_connection(upstream, model):
    """The server sees the disconnect when the task that waits for the next event is cancelled."""
    upstream.answer = hanging(chunk({"content": "Hel"}))
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
    await hung_up(upstream)


async def test_cancelling_before_the_answer_began_closes_the_upstream_connection(upstream, model):
    """A model that thinks in silence is let go as well."""
    asked = asyncio.Event()

    async def answer(exchange):
        asked.set()
        await exchange.gone.wait()

    upstream.answer = answer
    reader = asyncio.create_task(ask(model))
    await asked.wait()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    await hung_up(upstream)


async def test_close_is_idempotent_and_leaves_a_given_client_open(upstream, model):
    """close() gives back our own connections; a client that was passed in stays the caller's."""
    upstream.answer = playing(chunk({"content": "x"}, finish="stop"))
    await model.close()
    await model.close()
    assert len(await ask(model)) == 3
    own = OpenAIModel("m", base_url=upstream.url, api_key="k")
    await own.close()
    await own.close()


def test_missing_key_is_a_configuration_error(monkeypatch):
    """OpenAI's own server needs a key; a server of one's own may not."""
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigurationError, match="OPENAI_API_KEY"):
        OpenAIModel("gpt-test")
    OpenAIModel("llama", base_url="http://models.example/v1")
