"""What providers stream: whatever they send, a run gets events that its log takes, or a typed failure."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from copy import deepcopy
from typing import Any

import anthropic
import httpx2
import openai
from hypothesis import strategies as st

from tests.fuzz.inputs import json_objects, json_values, texts
from tests.fuzz.target import Target
from unspool.content import fold
from unspool.errors import RunFailed
from unspool.events import STEP_FINISHED, STEP_STARTED, USAGE, Event, Record, check_event, encode_data
from unspool.providers import Message, Model
from unspool.providers.anthropic import AnthropicModel
from unspool.providers.call import ModelCall
from unspool.providers.chat import ChatStream
from unspool.providers.openai import OpenAIModel

_ASKED: list[Message] = [{"role": "user", "content": "hi"}]
Send = Callable[[httpx2.Request], httpx2.Response]

logging.getLogger("unspool.providers").setLevel(logging.ERROR)  # that a usage made no sense is no news here


def _check(events: Sequence[Event], failed: bool) -> None:
    fold(Record(place, event.type, encode_data(event.data)) for place, event in enumerate(events, 1))
    types = [event.type for event in events]
    assert types.count(USAGE) <= 1
    if not failed:
        assert types[-1] == STEP_FINISHED


async def _collect(stream: AsyncGenerator[Event, None]) -> tuple[list[Event], bool]:
    events: list[Event] = []
    try:
        async for event in stream:
            check_event(event)
            events.append(event)
    except RunFailed:
        return events, True
    return events, False


def _answer(body: bytes) -> httpx2.MockTransport:
    def send(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body)

    return httpx2.MockTransport(send)


async def _ask(model: Model) -> None:
    events, failed = await _collect(model.stream(_ASKED, call_id="c"))
    assert events[0].type == STEP_STARTED
    _check(events, failed)


def _spoiled(good: Sequence[Any]) -> st.SearchStrategy[Any]:
    """One of these values, whole, or with something in it replaced, added or dropped, at any depth."""

    @st.composite
    def draw_one(draw: st.DrawFn) -> Any:
        value = deepcopy(draw(st.sampled_from(good)))
        for _ in range(draw(st.integers(0, 2))):
            place: Any = value
            while isinstance(place, dict | list) and place:
                key = draw(st.sampled_from(list(place) if isinstance(place, dict) else list(range(len(place)))))
                inner: Any = place[key]
                if not isinstance(inner, dict | list) or not inner or draw(st.booleans()):
                    if draw(st.integers(0, 3)):
                        place[key] = draw(json_values | st.just("\ud83d"))
                    else:
                        del place[key]
                    break
                place = inner
        return value

    return draw_one()


# OpenAI and its imitators


def _chunk(**delta: Any) -> dict[str, Any]:
    finish = delta.pop("finish", None)
    return {
        "id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }  # fmt: skip


_tool = {"index": 0, "id": "t", "type": "function", "function": {"name": "f", "arguments": '{"a":'}}
CHUNKS = [
    _chunk(role="assistant", content="hello"),
    _chunk(reasoning_content="why"),
    _chunk(reasoning="why", refusal="no"),
    _chunk(content=[{"type": "text", "text": "part"}]),
    _chunk(tool_calls=[_tool, {"index": 0, "function": {"arguments": "1}"}}]),
    _chunk(finish="stop"),
    {**_chunk(), "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}},
    {"error": {"message": "overloaded", "code": "rate_limit_exceeded"}},
]
_chunks = st.lists(_spoiled(CHUNKS), max_size=5) | st.lists(json_values, max_size=3)


def check_chat(chunks: list[Any]) -> None:
    """The reader of chunks alone, as llama.cpp feeds it."""
    answer = ChatStream(ModelCall("m", "p", "c"))
    events: list[Event] = []
    failed = False
    try:
        for chunk in chunks:
            for event in answer.feed(chunk):
                check_event(event)
                events.append(event)
        events.extend(answer.finish())
    except RunFailed:
        failed = True
        events.extend(answer.usage())
    _check(events, failed)


CHAT = Target(
    name="chat",
    claim="whatever is in a chat chunk, it becomes events that a log takes, or a typed failure",
    inputs=_chunks,
    check=check_chat,
)


def _sse(chunks: Sequence[Any], named: bool = False) -> bytes:
    lines: list[str] = []
    for chunk in chunks:
        kind = chunk.get("type") if named and isinstance(chunk, dict) else None
        lines.append((f"event: {kind}\n" if isinstance(kind, str) and kind.isalpha() | ("_" in kind) else "")
                     + f"data: {chunk if isinstance(chunk, str) else json.dumps(chunk)}\n\n")  # fmt: skip
    return "".join(lines).encode(errors="replace")


def check_openai(chunks: list[Any]) -> None:
    """The same through OpenAI's client."""

    async def ask() -> None:
        async with httpx2.AsyncClient(transport=_answer(_sse(chunks) + b"data: [DONE]\n\n")) as http:
            client = openai.AsyncOpenAI(api_key="k", base_url="http://m/v1", http_client=http, max_retries=0)
            await _ask(OpenAIModel("m", client=client))

    asyncio.run(ask())


OPENAI = Target(
    name="openai",
    claim="whatever an OpenAI-compatible server streams, it becomes events or a typed failure",
    inputs=_chunks | st.lists(texts | json_objects, max_size=3),
    check=check_openai,
)

# Anthropic

ITEMS = [
    {
        "type": "message_start",
        "message": {
            "id": "m", "type": "message", "role": "assistant", "model": "c", "content": [], "stop_reason": None,
            "usage": {"input_tokens": 1, "output_tokens": 1, "cache_read_input_tokens": 0},
        },
    },
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "a"}},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "thinking", "thinking": "t"}},
    {
        "type": "content_block_start", "index": 2,
        "content_block": {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
    },
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "b"}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "thinking_delta", "thinking": "u"}},
    {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": "{}"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}},
    {"type": "message_stop"},
    {"type": "error", "error": {"type": "overloaded_error", "message": "m"}},
    {"type": "ping"},
]  # fmt: skip


def check_anthropic(items: list[Any]) -> None:
    """Through Anthropic's client."""

    async def ask() -> None:
        async with httpx2.AsyncClient(transport=_answer(_sse(items, named=True))) as http:
            client = anthropic.AsyncAnthropic(api_key="k", base_url="http://m", http_client=http, max_retries=0)
            await _ask(AnthropicModel("m", client=client))

    asyncio.run(ask())


ANTHROPIC = Target(
    name="anthropic",
    claim="whatever Anthropic streams, it becomes events or a typed failure",
    inputs=st.lists(_spoiled(ITEMS), max_size=6) | st.lists(json_values | texts, max_size=2),
    check=check_anthropic,
)

TARGETS = [CHAT, OPENAI, ANTHROPIC]
