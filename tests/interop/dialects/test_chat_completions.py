"""Chat Completions with OpenAI's clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

import httpx2
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.conftest import Serving
from tests.interop.dialects.world import QUESTION, THOUGHT, TOOL, World, world
from tests.interop.programs import node
from unspool import Generation, GenerationManager, RunFailed
from unspool.http import StartRequest, create_app

pytestmark = pytest.mark.timeout(300)
Json = dict[str, Any]

DIALECTS: Final = ["chat-completions"]
ASKED: Final[Json] = {"model": "m", "messages": [{"role": "user", "content": QUESTION}]}


def settings(url: str) -> dict[str, Any]:
    return {"base_url": f"{url}/v1", "api_key": "k", "timeout": 60}


async def test_a_stream_with_its_usage(serving: Serving, stores: Collection[str]) -> None:
    """Text, reasoning and the tool call come in chunks, and the usage last; the same again without asyncio."""
    async with (
        world(serving, stores, cuts=0, least=40, dialects=DIALECTS) as made,
        AsyncOpenAI(**settings(made.url)) as client,
    ):
        usage: Json = {"stream": True, "stream_options": {"include_usage": True}}
        raw = await client.chat.completions.with_raw_response.create(**ASKED, **usage, temperature=0.5)
        check([chunk async for chunk in raw.parse()], made)
        assert made.requests[0].messages == ASKED["messages"]
        assert (made.requests[0].model, made.requests[0].parameters) == ("m", {"temperature": 0.5})
        path = f"/v1/streams/{raw.headers['x-unspool-stream']}/events"
        async with httpx2.AsyncClient(base_url=made.direct) as native:
            assert "event: completed" in (await native.get(path)).text

        def follow() -> list[Any]:
            with OpenAI(**settings(made.url)) as synchronous:
                return list(synchronous.chat.completions.create(**ASKED, **usage))

        check(await asyncio.to_thread(follow), made)


def check(chunks: list[Any], made: World) -> None:
    deltas = [chunk.choices[0].delta for chunk in chunks[:-1]]
    assert "".join(delta.content or "" for delta in deltas) == made.text
    thought = (getattr(delta, "reasoning_content", None) or "" for delta in deltas)
    assert "".join(thought).strip() == THOUGHT
    calls = [call for delta in deltas for call in delta.tool_calls or ()]
    assert (calls[0].id, calls[0].function.name) == ("call_1", "level")
    assert json.loads("".join(call.function.arguments for call in calls)) == TOOL
    assert [chunk.choices[0].finish_reason for chunk in chunks[-3:-1]] == [None, "stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens_details.reasoning_tokens == 2


async def test_an_answer_in_one_piece(serving: Serving, stores: Collection[str]) -> None:
    """Sent twice with an idempotency key it is one generation; a body that differs is refused."""
    async with (
        world(serving, stores, cuts=0, least=20, dialects=DIALECTS) as made,
        AsyncOpenAI(**settings(made.url)) as client,
    ):
        key: Json = {"extra_headers": {"Idempotency-Key": "one"}}
        both = await asyncio.gather(*(client.chat.completions.create(**ASKED, **key) for _ in range(3)))
        assert len({answer.id for answer in both}) == 1
        assert {answer.choices[0].message.content for answer in both} == {made.text}
        assert both[0].usage is not None
        assert both[0].usage.prompt_tokens == 11
        with pytest.raises(openai.ConflictError):
            await client.chat.completions.create(**{**ASKED, "model": "n"}, **key)
        assert len(made.requests) == 1
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(**ASKED, n=2)
        assert refused.value.param == "n"


async def test_a_cut_is_not_an_end(serving: Serving, stores: Collection[str]) -> None:
    """A stream that is cut has no finish reason, and the generation goes on."""
    async with (
        world(serving, stores, cuts=1, carried=(2000, 3000), least=40, dialects=DIALECTS) as made,
        AsyncOpenAI(**settings(made.url)) as client,
    ):
        chunks: list[Any] = []
        stream = await client.chat.completions.create(**ASKED, stream=True)
        with contextlib.suppress(openai.APIConnectionError, httpx2.TransportError):
            async for chunk in stream:
                chunks.append(chunk)  # noqa: PERF401  (what came before the cut is wanted as well)
        assert [chunk for chunk in chunks if chunk.choices[0].finish_reason] == []
        async with httpx2.AsyncClient(base_url=made.direct) as native:
            events = await native.get(f"/v1/streams/{chunks[0].id}/events")
        assert "event: completed" in events.text


async def test_how_failures_are_told(serving: Serving) -> None:
    """In one piece with the status that fits, in a stream as an error; a stop is an error as well."""

    async def run(gen: Generation, request: StartRequest) -> None:
        await gen.text("Well, ")
        code = request.messages[0]["content"]
        if code == "stop":
            await gen.stopping.wait()
        raise RunFailed("It failed.", code=code)

    app = create_app(manager := GenerationManager(), run=run, dialects=DIALECTS)
    async with serving(app) as direct, AsyncOpenAI(**settings(str(direct.base_url)), max_retries=0) as client:
        for code, kind in (("rate_limited", openai.RateLimitError), ("whatever", openai.InternalServerError)):
            asked: Any = {"model": "m", "messages": [{"role": "user", "content": code}]}
            with pytest.raises(kind, match="It failed"):
                await client.chat.completions.create(**asked)
            stream: Any = await client.chat.completions.create(**asked, stream=True)
            with pytest.raises(openai.APIError, match="It failed") as failed:
                [chunk async for chunk in stream]
            assert failed.value.code == code
        stream = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "stop"}], stream=True
        )
        chunks = aiter(stream)
        first = await anext(chunks)
        await manager.abort(first.id)
        with pytest.raises(openai.APIError, match="stopped before its end"):
            [chunk async for chunk in chunks]


async def test_the_client_for_javascript(serving: Serving, stores: Collection[str], modules: Path) -> None:
    """npm's `openai`: a stream with usage, and the answer in one piece."""
    async with world(serving, stores, cuts=0, least=20, dialects=DIALECTS) as made:
        got: Json = await node(modules / "openai-chat.mjs", f"{made.url}/v1", QUESTION)
        assert len(made.requests) == 2
        assert got["whole"]["content"] == made.text
        assert got["reason"] == "stop"
        assert got["usage"]["prompt_tokens"] == 11
        assert len(got["streamed"]) > 20
