"""OpenAIResponses against a server that cuts, refuses and forgets, through the real client library."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from openai import AsyncOpenAI

from tests.unit.providers.conftest import Exchange, Upstream
from tests.unit.providers.test_responses_model import upstream as sent_for
from unspool.errors import RunFailed
from unspool.events import Event
from unspool.providers import responses
from unspool.providers.responses import OpenAIResponses

Json = dict[str, Any]
USAGE: Json = {"input_tokens": 5, "output_tokens": 7}
Answer = Callable[[Exchange], Awaitable[None]]

SENT = sent_for(
    [("text.delta", {"text": word, "part_id": "p"}) for word in ("The ", "river.")],
    ("completed", {"finish_reason": "stop"}),
)


@pytest.fixture
async def model(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OpenAIResponses]:
    monkeypatch.setattr(responses, "_PAUSE", (0.0, 0.0))
    client = AsyncOpenAI(base_url=f"{upstream.url}/v1", api_key="k", max_retries=0)
    yield OpenAIResponses("m", client=client)
    await client.close()


def in_turn(*answers: Answer) -> Answer:
    """Each request its own answer; the last one for all that follow."""
    left = list(answers)

    async def answer(exchange: Exchange) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(exchange)

    return answer


def playing(first: int, last: int | None = None, *, cut: bool = False) -> Answer:
    """The events from this number on; then the connection breaks, or the stream is over."""

    async def answer(exchange: Exchange) -> None:
        await exchange.stream()
        for event in SENT[first:last]:
            await exchange.send(event, event=event["type"])
        if cut:
            exchange.cut()
        else:
            await exchange.end()

    return answer


def refusing(status: int, body: Any = None) -> Answer:
    async def answer(exchange: Exchange) -> None:
        await exchange.refuse(status, {"error": {"message": "no"}} if body is None else body)

    return answer


async def cutting(exchange: Exchange) -> None:
    exchange.cut()


async def ask(model: OpenAIResponses) -> list[Event]:
    return [event async for event in model.stream([{"role": "user", "content": "?"}], call_id="s/1/main/0/1")]


def text_of(told: list[Event]) -> str:
    return "".join(event.data["text"] for event in told if event.type == "text.delta")


@pytest.mark.parametrize("cut", [True, False])
async def test_a_stream_that_breaks_is_taken_up_after_its_last_event(
    upstream: Upstream, model: OpenAIResponses, cut: bool
) -> None:
    """Whether it was cut or just ended; a server that is not there for a moment is asked again."""
    upstream.answer = in_turn(playing(0, 5, cut=cut), refusing(503), refusing(429), cutting, playing(5))
    told = await ask(model)
    assert text_of(told) == "The river."
    assert told[-1].type == "step.finished"
    assert [exchange.path for exchange in upstream.requests] == [
        "/v1/responses", *["/v1/responses/resp_1?starting_after=4&stream=true"] * 4,
    ]  # fmt: skip
    body = upstream.requests[0].body
    assert (body["background"], body["stream"], body["model"]) == (True, True, "m")


async def test_a_request_that_was_not_answered_is_the_same_call(upstream: Upstream, model: OpenAIResponses) -> None:
    """It is sent again under the same key."""
    upstream.answer = in_turn(cutting, playing(0))
    assert text_of(await ask(model)) == "The river."
    assert [exchange.path for exchange in upstream.requests] == ["/v1/responses"] * 2
    assert {exchange.headers["idempotency-key"] for exchange in upstream.requests} == {"s/1/main/0/1"}


@pytest.mark.parametrize(
    ("answer", "code", "requests"),
    [
        (in_turn(playing(0, 5, cut=True), refusing(404)), "provider_unavailable", 2),
        (in_turn(playing(0, 5, cut=True), refusing(401)), "authentication", 2),
        (refusing(429), "rate_limited", 1),
        (refusing(503), "provider_unavailable", 1),
        (in_turn(playing(0, 5, cut=True), cutting), "provider_unavailable", 9),
    ],
)
async def test_what_is_not_tried_again(
    upstream: Upstream, model: OpenAIResponses, answer: Answer, code: str, requests: int
) -> None:
    """A refusal, an answer that is not there any more, and a server that stays away."""
    upstream.answer = answer
    with pytest.raises(RunFailed) as failed:
        await ask(model)
    assert failed.value.reason == code
    assert len(upstream.requests) == requests


async def test_closing_it_cancels_the_response(upstream: Upstream, model: OpenAIResponses) -> None:
    """Not one that came to its end."""
    upstream.answer = in_turn(playing(0, 5), refusing(200, {"id": "resp_1", "status": "cancelled"}))
    stream = model.stream([{"role": "user", "content": "?"}], call_id="c")
    async for event in stream:
        if event.type == "text.delta":
            break
    await stream.aclose()
    assert upstream.requests[-1].path == "/v1/responses/resp_1/cancel"
    upstream.answer = playing(0)
    await ask(model)
    assert upstream.requests[-1].path == "/v1/responses"


@pytest.mark.parametrize(
    ("status", "body", "usage"),
    [
        (200, {"id": "resp_1", "usage": USAGE}, USAGE),
        (200, {"id": "resp_1", "usage": None}, None),
        (200, {"usage": 5}, None),
        (200, "no object", None),
        (400, None, None),
        (503, None, None),
    ],
)
async def test_whatever_a_cancel_is_answered(
    upstream: Upstream, model: OpenAIResponses, status: int, body: Any, usage: Json | None
) -> None:
    """The usage where there is one; never an error, which would hide why it was cancelled."""
    upstream.answer = refusing(status, body)
    told = await model.cancel("resp_1")
    assert (None if told is None else {name: told[name] for name in usage or told}) == usage


async def test_a_cancel_whose_answer_cannot_be_read(upstream: Upstream, model: OpenAIResponses) -> None:
    """Neither does what is not JSON."""

    async def answer(exchange: Exchange) -> None:
        exchange._writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1\r\n\r\n{")
        await exchange._writer.drain()

    upstream.answer = answer
    assert await model.cancel("resp_1") is None
