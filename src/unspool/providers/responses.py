"""Models behind OpenAI's Responses API in background mode: what they generate goes on at the provider without us, so
that a stream that broke, or whose owner died, is continued there instead of being asked and paid for again.

Beside the usual events come internal ones, `provider.position`: all that the provider told up to this number is in the
log before it. What the log has behind the last of them is told again by the provider, and left out (`Begun`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final, cast

from unspool.errors import RunFailed
from unspool.events import Event
from unspool.providers.base import Message
from unspool.providers.call import ModelCall
from unspool.providers.failures import failure, missing_extra
from unspool.providers.openai import BROKEN, OpenAIServer, failure_of, plain
from unspool.providers.responses_stream import POSITION, Begun, Position, ResponseStream, to_input, to_tools

try:
    import openai
    from openai import AsyncStream, BaseModel
    from openai.types.responses import ResponseStreamEvent
except ImportError as error:
    raise missing_extra("openai", "openai") from error

_log = logging.getLogger("unspool.providers")

EVERY: Final = 64
"""Events of the provider's between two positions, at most."""
_TRIES: Final = 8
"""Times in a row that a stream is taken up again without anything new in it."""
_PAUSE: Final = (0.05, 2.0)
"""Seconds before the first of them, and at most; each waits twice as long as the one before."""
_CANCEL: Final = 1.5
"""Seconds that a provider has to answer that it has stopped."""
_LATER: Final = frozenset({408, 409, 429})


class OpenAIResponses(OpenAIServer):
    """A model that a server of the Responses API offers under `name`; see `OpenAIServer` for how it is made.

    `stream` is what every model has: it goes on through cuts, and stops the provider when it is closed. `follow` leaves
    the provider running, for whoever continues it: see `unspool.agents.continued_call`.
    """

    async def stream(
        self,
        messages: Sequence[Message],
        *,
        call_id: str,
        agent: str | None = None,
        tools: Sequence[dict[str, Any]] = (),
    ) -> AsyncGenerator[Event, None]:
        """One call as events, in the order of `Model.stream`; closed before its end, it cancels the response.

        Raises RunFailed as `OpenAIModel.stream` does.
        """
        response_id: str | None = None
        events = self.follow(messages, call_id=call_id, agent=agent, tools=tools)
        try:
            async with aclosing(events):
                async for event in events:
                    if event.type == POSITION:
                        response_id = event.data["response_id"]
                    yield event
        except (asyncio.CancelledError, GeneratorExit):
            if response_id is not None:
                await self.cancel(response_id)
            raise

    async def follow(
        self,
        messages: Sequence[Message],
        *,
        call_id: str,
        agent: str | None = None,
        tools: Sequence[dict[str, Any]] = (),
        begun: Begun | None = None,
    ) -> AsyncGenerator[Event, None]:
        """The same, and the response goes on when this is closed. `begun`: what a log has of this call already: of the
        events, only those come that it lacks."""
        answer = ResponseStream(ModelCall(self.name, self.provider, call_id, agent), begun)
        if begun is None:
            yield answer.call.started()
        tries, known = 0, answer.number
        while True:
            try:
                async with await self._open(answer, messages, tools) as chunks:
                    async for chunk in chunks:
                        for event in answer.feed(plain(chunk)):
                            yield event
                        if answer.due(EVERY):
                            yield answer.position_event()
                        if answer.ended:
                            return
            except BROKEN as error:
                if not _cut(error, answer.position):
                    raise _failure(error, answer.position) from error
                _log.info("call %s: the stream broke after %s: %s", call_id, answer.number, error)
            tries, known = (tries + 1 if answer.number == known else 1), answer.number
            if tries > _TRIES:
                raise failure("provider_unavailable", "The model provider's answer broke off.")
            await asyncio.sleep(min(_PAUSE[0] * 2 ** (tries - 1), _PAUSE[1]))

    async def cancel(self, response_id: str) -> Mapping[str, Any] | None:
        """Stop the provider; the usage, where it tells one. Never raises but for cancellation, nor waits for long."""
        try:
            async with asyncio.timeout(_CANCEL):
                stopped = await self._client.responses.cancel(response_id)
        except (*BROKEN, TimeoutError) as error:
            _log.warning("response %s could not be cancelled: %s", response_id, error)
            return None
        usage = getattr(stopped, "usage", None)  # unchecked by the client, which may even hand on no object
        return usage.model_dump() if isinstance(usage, BaseModel) else None

    async def _open(
        self, answer: ResponseStream, messages: Sequence[Message], tools: Sequence[dict[str, Any]]
    ) -> AsyncStream[ResponseStreamEvent]:
        at = answer.position
        if at is not None:
            return await self._client.responses.retrieve(at.response_id, stream=True, starting_after=at.sequence_number)
        return await self._client.responses.create(
            model=self.name,
            input=cast(Any, to_input(messages)),
            tools=cast(Any, to_tools(tools)) if tools else openai.omit,
            background=True,
            stream=True,
            extra_body=self._extra,
            # A request that is sent again, by the client, by us, or by whoever continues this run, is the same call.
            extra_headers={"Idempotency-Key": answer.call.call_id},
        )


def _cut(error: Exception, position: Position | None) -> bool:
    """Whether it is the connection that failed, and not the request or the answer."""
    if isinstance(error, openai.APIStatusError):  # the client itself has tried again before
        return position is not None and (error.status_code >= 500 or error.status_code in _LATER)
    return isinstance(error, openai.APIConnectionError) or not isinstance(error, openai.APIError)


def _failure(error: Exception, position: Position | None) -> RunFailed:
    if isinstance(error, openai.NotFoundError) and position is not None:
        return failure("provider_unavailable", "The model provider does not have the answer any more.")
    return failure_of(error)
