"""OpenAI's Responses API, with OpenAI's clients: through a network that cuts them off, and as they retry."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final

import httpx2
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openresponses_types import types as spec

from tests.conftest import Serving
from tests.interop.dialects.world import CUTS, QUESTION, RESULT, THOUGHT, TOOL, World, world
from tests.interop.programs import ended, node, program

pytestmark = pytest.mark.timeout(300)
Json = dict[str, Any]

EVENTS: Final = {
    model.model_fields["type"].annotation(next(iter(model.model_fields["type"].annotation))).value: model
    for name, model in vars(spec).items()
    if name.endswith("StreamingEvent") and "sequence_number" in model.model_fields
}
DIALECTS: Final = ["responses"]
BROKEN: Final = (openai.APIConnectionError, httpx2.TransportError)


def settings(url: str) -> dict[str, Any]:
    return {"base_url": f"{url}/v1", "api_key": "k", "max_retries": 2, "timeout": 60}


def check(told: list[Json], made: World) -> None:
    """Every event is what the specification says, and they are the run, whole."""
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    for event in told:
        EVENTS[event["type"]].model_validate(event)
    assert text_of(told) == made.text
    thought = (event["delta"] for event in told if event["type"] == "response.reasoning_summary_text.delta")
    assert "".join(thought).strip() == THOUGHT
    assert (told[0]["type"], told[-1]["type"]) == ("response.created", "response.completed")
    final = told[-1]["response"]
    kinds = [item["type"] for item in final["output"]]
    assert kinds == ["reasoning", "function_call", "function_call_output", "message"]
    assert json.loads(final["output"][1]["arguments"]) == TOOL
    assert json.loads(final["output"][2]["output"]) == RESULT
    [part] = final["output"][3]["content"]
    assert (part["text"], part["annotations"][0]["url"]) == (made.text, "https://example.org/river")
    assert final["usage"]["output_tokens_details"] == {"reasoning_tokens": 2}


def text_of(told: list[Json]) -> str:
    return "".join(event["delta"] for event in told if event["type"] == "response.output_text.delta")


async def through_the_cuts(client: AsyncOpenAI, made: World, **asked: Any) -> list[Json]:
    """Start a response and follow it: whatever breaks, go on after the last number that came."""
    told: list[Json] = []
    response_id: str | None = None
    while not told or told[-1]["type"] != "response.completed":
        try:
            if response_id is None:
                stream = await client.responses.create(input=QUESTION, background=True, stream=True, **asked)
            else:
                stream = await client.responses.retrieve(
                    response_id, stream=True, starting_after=told[-1]["sequence_number"]
                )
            async with stream:
                async for event in stream:
                    told.append(event.to_dict())
                    if event.type == "response.created":
                        response_id = event.response.id
        except BROKEN:
            await asyncio.sleep(0)
    return told


async def test_a_stream_through_cuts(serving: Serving, stores: Collection[str], tell: Callable[[str], None]) -> None:
    """Started once and cut off again and again, the client goes on after its last number, on either replica."""
    async with world(serving, stores, dialects=DIALECTS) as made, AsyncOpenAI(**settings(made.url)) as client:
        told = await through_the_cuts(client, made, extra_headers={"Idempotency-Key": "k1"})
        check(told, made)
        assert made.proxy.cuts >= CUTS
        assert len(made.requests) == 1
        tell(f"openai (Python, asyncio): {len(told)} events through {made.proxy.cuts} cuts, none lost or repeated")


async def test_a_stream_through_cuts_without_asyncio(serving: Serving, stores: Collection[str]) -> None:
    """The same with the synchronous client."""

    def follow(url: str) -> list[Json]:
        told: list[Json] = []
        with OpenAI(**settings(url)) as client:
            response_id: str | None = None
            while not told or told[-1]["type"] != "response.completed":
                try:
                    if response_id is None:
                        stream = client.responses.create(
                            input=QUESTION, background=True, stream=True, extra_headers={"Idempotency-Key": "k2"}
                        )
                    else:
                        stream = client.responses.retrieve(
                            response_id, stream=True, starting_after=told[-1]["sequence_number"]
                        )
                    with stream:
                        for event in stream:
                            told.append(event.to_dict())
                            if event.type == "response.created":
                                response_id = event.response.id
                except BROKEN:
                    continue
        return told

    async with world(serving, stores, dialects=DIALECTS, seed=8) as made:
        check(await asyncio.to_thread(follow, made.url), made)
        assert made.proxy.cuts >= CUTS
        assert len(made.requests) == 1


async def test_every_number_continues_exactly(serving: Serving, stores: Collection[str]) -> None:
    """After n come n + 1 and all that follow, from either replica; beyond the end there is an error."""
    async with (
        world(serving, stores, cuts=0, least=30, dialects=DIALECTS) as made,
        AsyncOpenAI(**settings(made.url)) as client,
    ):
        told = await through_the_cuts(client, made)
        response_id = told[0]["response"]["id"]
        for number in range(len(told)):
            stream = await client.responses.retrieve(response_id, stream=True, starting_after=number)
            assert [event.to_dict() async for event in stream] == told[number + 1 :]
        stream = await client.responses.retrieve(response_id, stream=True)
        assert [event.to_dict() async for event in stream] == told
        with pytest.raises(openai.BadRequestError) as refused:
            await client.responses.retrieve(response_id, stream=True, starting_after=len(told))
        assert (refused.value.param, refused.value.code) == ("starting_after", "invalid_starting_after")
        final = (await client.responses.retrieve(response_id)).to_dict()
        assert final.pop("completed_at") is not None
        assert final == {name: value for name, value in told[-1]["response"].items() if name != "completed_at"}
        spec.ResponseResource.model_validate({**final, "completed_at": None})


async def test_the_accumulating_helper(serving: Serving, stores: Collection[str]) -> None:
    """It raises for every item that is out of order, and adds up to the response; so does one that joins late."""
    async with (
        world(serving, stores, cuts=0, least=40, dialects=DIALECTS) as made,
        AsyncOpenAI(**settings(made.url)) as client,
    ):
        async with client.responses.stream(model="m", input=QUESTION, background=True) as stream:
            told = [event async for event in stream]
            final = await stream.get_final_response()
        assert (final.output_text, final.status) == (made.text, "completed")
        async with client.responses.stream(response_id=final.id, starting_after=20) as stream:
            again = [event async for event in stream]
            assert await stream.get_final_response() == final
        assert again == told[21:]


async def test_polling(serving: Serving, stores: Collection[str]) -> None:
    """In the background the answer comes at once, and the response is there to be asked for until it is complete."""
    async with (
        world(serving, stores, cuts=0, least=40, dialects=DIALECTS) as made,
        AsyncOpenAI(**settings(made.url)) as client,
    ):
        asked: Json = {"model": "m", "instructions": "Be brief.", "metadata": {"a": "b"}, "temperature": 0.5}
        begun = await client.responses.create(input=QUESTION, background=True, **asked)
        assert begun.status in ("queued", "in_progress")
        response, seen = begun, ""
        while response.status in ("queued", "in_progress"):
            response = await client.responses.retrieve(begun.id)
            assert response.output_text.startswith(seen)
            seen = response.output_text
        assert (response.status, response.output_text, response.background) == ("completed", made.text, True)
        assert {name: response.to_dict()[name] for name in asked} == asked
        assert {name: begun.to_dict()[name] for name in asked} == asked
        assert response.usage is not None
        assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
        [request] = made.requests
        assert request.messages == [
            {"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION},
        ]  # fmt: skip
        assert (request.model, request.dialect, request.parameters) == ("m", "responses", {"temperature": 0.5})


async def test_waiting_for_the_answer(serving: Serving, stores: Collection[str]) -> None:
    """Without background and stream the answer is the whole response; the next one knows what was said before it."""
    async with (
        world(serving, stores, cuts=0, least=10, dialects=DIALECTS) as made,
        AsyncOpenAI(**settings(made.url)) as client,
    ):
        first = await client.responses.create(model="m", input=QUESTION, conversation="conv_1")
        assert (first.status, first.output_text) == ("completed", made.text)
        second = await client.responses.create(model="m", input="And then?", previous_response_id=first.id)
        await client.responses.create(model="m", input=[{"role": "user", "content": "So?"}], conversation="conv_1")
        call = {"name": "level", "arguments": made.requests[1].messages[1]["tool_calls"][0]["function"]["arguments"]}
        before = [
            {"role": "user", "content": QUESTION},
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "call_1", "type": "function", "function": call},
            ]},
            {"role": "tool", "tool_call_id": "call_1", "content": json.dumps(RESULT, separators=(",", ":"))},
            {"role": "assistant", "content": first.output_text},
        ]  # fmt: skip
        assert made.requests[1].messages == [*before, {"role": "user", "content": "And then?"}]
        assert made.requests[2].messages == [*before, {"role": "user", "content": "So?"}]
        third = await client.responses.create(model="m", input="Why?", previous_response_id=second.id)
        assert len(made.requests[3].messages) == 9
        assert third.previous_response_id == second.id
        with pytest.raises(openai.BadRequestError) as refused:
            await client.responses.create(model="m", input="Why?", previous_response_id="resp_none")
        assert refused.value.code == "previous_response_not_found"


async def test_cancelling(serving: Serving, stores: Collection[str]) -> None:
    """Cancelled twice it is cancelled once, and its stream ends with that; a completed one is refused."""
    async with (
        world(serving, stores, cuts=0, least=20, dialects=DIALECTS) as made,
        AsyncOpenAI(**settings(made.url)) as client,
    ):
        made.held.clear()
        stream = await client.responses.create(input=QUESTION, background=True, stream=True)
        told: list[Json] = []
        async for event in stream:
            told.append(event.to_dict())
            if event.type == "response.output_text.delta":
                break
        await stream.close()
        response_id: str = told[0]["response"]["id"]
        for _ in range(2):
            cancelled = await client.responses.cancel(response_id)
            assert (cancelled.status, cancelled.output_text) == ("cancelled", made.text)
        rest = await client.responses.retrieve(response_id, stream=True, starting_after=told[-1]["sequence_number"])
        told += [event.to_dict() async for event in rest]
        assert text_of(told) == made.text
        assert (told[-1]["type"], told[-1]["response"]["status"]) == ("response.incomplete", "cancelled")
        made.held.set()
        done = await client.responses.create(input=QUESTION)
        with pytest.raises(openai.BadRequestError, match=r"Cannot cancel a completed response\."):
            await client.responses.cancel(done.id)


async def test_a_connection_that_is_dropped_stops_nothing(serving: Serving, stores: Collection[str]) -> None:
    """Also without background: Stop is a verb of its own."""
    async with (
        world(serving, stores, cuts=0, least=20, dialects=DIALECTS) as made,
        AsyncOpenAI(**settings(made.url)) as client,
    ):
        made.held.clear()
        stream = await client.responses.create(input=QUESTION, stream=True)
        created: Any = await anext(aiter(stream))
        response_id: str = created.response.id
        await stream.close()
        waiting = asyncio.ensure_future(client.responses.create(input=QUESTION))
        while len(made.requests) < 2:
            await asyncio.sleep(0.01)
        waiting.cancel()
        made.held.set()
        stream = await client.responses.retrieve(response_id, stream=True)  # pyright: ignore[reportUnknownVariableType]
        assert [event async for event in stream][-1].type == "response.completed"
        listed = await client.with_options(base_url=made.direct).get("/v1/streams", cast_to=httpx2.Response)
        statuses = {one["status"] for one in json.loads(listed.text)["streams"]}
        assert statuses <= {"complete", "running"}


async def test_a_request_that_is_sent_twice(serving: Serving, stores: Collection[str]) -> None:
    """With an idempotency key it is one generation, whatever is asked for; with another body it is refused."""
    async with (
        world(serving, stores, cuts=0, least=10, dialects=DIALECTS) as made,
        AsyncOpenAI(**settings(made.url)) as client,
    ):
        key: Json = {"extra_headers": {"Idempotency-Key": "one"}}
        both = await asyncio.gather(*(client.responses.create(input=QUESTION, **key) for _ in range(4)))
        assert len({response.id for response in both}) == 1
        assert {response.output_text for response in both} == {made.text}
        stream = await client.responses.create(input=QUESTION, stream=True, **key)
        assert text_of([event.to_dict() async for event in stream]) == made.text
        with pytest.raises(openai.ConflictError) as refused:
            await client.responses.create(input="Something else", **key)
        assert refused.value.code == "idempotency_key_reused"
        assert len(made.requests) == 1


async def test_a_post_that_is_cut_before_its_answer(serving: Serving, stores: Collection[str]) -> None:
    """The client retries by itself, and with a key that is no second generation."""
    async with (
        world(serving, stores, cuts=2, carried=(1, 60), least=10, dialects=DIALECTS) as made,
        AsyncOpenAI(**settings(made.url)) as client,
    ):
        made.cuts = 0  # the run goes to its end by itself
        response = await client.responses.create(input=QUESTION, extra_headers={"Idempotency-Key": "one"})
        assert (response.status, response.output_text) == ("completed", made.text)
        assert made.proxy.cuts == 2
        assert len(made.requests) == 1


async def test_what_was_asked_is_listed_and_deleted(serving: Serving, stores: Collection[str]) -> None:
    """Input items are pages of a list; a response that was deleted, or never was, is not found."""
    async with (
        world(serving, stores, cuts=0, least=10, dialects=DIALECTS) as made,
        AsyncOpenAI(**settings(made.url)) as client,
    ):
        asked: Any = [{"role": "user", "content": str(number)} for number in range(5)]
        response = await client.responses.create(input=asked)
        for order in ("asc", "desc"):
            pages = client.responses.input_items.list(response.id, limit=2, order=order)
            listed = [item.to_dict() async for item in pages]
            assert len({item["id"] for item in listed}) == 5
            texts = [item["content"][0]["text"] for item in listed]  # pyright: ignore[reportIndexIssue]
            assert texts == ["0", "1", "2", "3", "4"][:: 1 if order == "asc" else -1]
        await client.responses.delete(response.id)
        for verb in (client.responses.retrieve, client.responses.cancel, client.responses.delete):
            with pytest.raises(openai.NotFoundError):
                await verb(response.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve("resp_none")
        with pytest.raises(openai.BadRequestError) as refused:
            await client.responses.create(input=[{"role": "wizard", "content": ""}])  # pyright: ignore[reportArgumentType]
        assert refused.value.param == "input[0].role"
        with pytest.raises(openai.BadRequestError) as refused:
            await client.responses.create(input=[])
        assert refused.value.param == "input"


async def test_the_client_for_javascript(
    serving: Serving, stores: Collection[str], modules: Path, tell: Callable[[str], None]
) -> None:
    """npm's `openai` through the same cuts: exactly the same events."""
    async with world(serving, stores, dialects=DIALECTS) as made:
        got: Json = await node(modules / "openai-responses.mjs", f"{made.url}/v1", QUESTION)
        check(got["events"], made)
        assert made.proxy.cuts >= CUTS
        assert (got["missing"], got["cancelled"]) == (404, 400)
        assert got["text"] == made.text
        tell(f"openai (npm): {len(got['events'])} events through {made.proxy.cuts} cuts, none lost or repeated")


async def test_the_example(serving: Serving) -> None:
    """It drops a response in the middle, continues it, and prints all of it once."""
    example = Path(__file__).parents[3] / "examples" / "openai_background.py"
    async with world(serving, cuts=0, least=30, dialects=DIALECTS) as made:
        async with program(sys.executable, example, made.direct, QUESTION) as running:
            output = await ended(running)
        pieces = re.split(r"\n--- .* ---(?:\n|$)(?:--- .* ---\n)?", output)
        assert "".join(pieces).strip() == made.text.strip()
        assert "dropped after" in output
