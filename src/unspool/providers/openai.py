"""Models behind OpenAI's chat-completions API: OpenAI itself, and every server that speaks the same."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from json import JSONDecodeError
from typing import Any, Final, cast

from unspool.errors import ConfigurationError, RunFailed
from unspool.events import Event
from unspool.providers.base import Message
from unspool.providers.call import ModelCall
from unspool.providers.chat import ChatStream
from unspool.providers.failures import classify, failure, missing_extra

try:
    import openai
    from openai import AsyncOpenAI, AsyncStream, BaseModel
    from openai.types.chat import ChatCompletionChunk
except ImportError as error:
    raise missing_extra("openai", "openai") from error

BROKEN: Final = (openai.APIError, JSONDecodeError, UnicodeDecodeError)
"""What the client raises where a request or its answer fails."""


class OpenAIServer:
    """What the models of both of OpenAI's APIs have in common.

    `base_url`: another server than OpenAI's, up to and including its `/v1`. `api_key`: else `OPENAI_API_KEY`; a server
    of your own may need none. `client`: a client of your own, with its time-outs and retries, which stays yours to
    close. `provider`: who serves the model, for the ledger. `extra`: further fields of every request (`temperature`,
    `max_tokens`, a field that only your server knows).

    Raises ConfigurationError where OpenAI's own server is meant and there is no key.
    """

    def __init__(
        self,
        name: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        client: AsyncOpenAI | None = None,
        provider: str = "openai",
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.provider = provider
        self._extra = dict(extra or {})
        self._owned = client is None
        self._client = client or _client(base_url, api_key)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} at {self._client.base_url}>"

    async def close(self) -> None:
        """Give back connections. Idempotent."""
        if self._owned:
            await self._client.close()


class OpenAIModel(OpenAIServer):
    """A model that an OpenAI-compatible server offers under `name`; see `OpenAIServer` for how it is made."""

    _asks_usage = True

    async def stream(
        self,
        messages: Sequence[Message],
        *,
        call_id: str,
        agent: str | None = None,
        tools: Sequence[dict[str, Any]] = (),
    ) -> AsyncGenerator[Event, None]:
        """One call as events, in the order of `Model.stream`. No `usage` where the server tells none.

        Raises RunFailed with code rate_limited, provider_unavailable, authentication, invalid_request, context_length
        or provider_error.
        """
        call = ModelCall(self.name, self.provider, call_id, agent)
        answer = ChatStream(call)
        yield call.started()
        try:
            async with await self._request(messages, tools) as chunks:
                async for chunk in chunks:
                    for event in answer.feed(plain(chunk)):
                        yield event
        except BROKEN as error:
            for event in answer.usage():
                yield event
            raise failure_of(error) from error
        for event in answer.finish():
            yield event

    async def _request(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]
    ) -> AsyncStream[ChatCompletionChunk]:
        try:
            return await self._send(messages, tools)
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            if not self._asks_usage or "stream_options" not in str(error):
                raise
        # An older server that does not know how to tell usage: its answers are still worth having.
        self._asks_usage = False
        return await self._send(messages, tools)

    async def _send(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]
    ) -> AsyncStream[ChatCompletionChunk]:
        # The messages are in OpenAI's own shape; its types say so in greater detail than ours.
        return await self._client.chat.completions.create(
            model=self.name,
            messages=cast(Any, list(messages)),
            tools=cast(Any, list(tools)) if tools else openai.omit,
            stream=True,
            stream_options={"include_usage": True} if self._asks_usage else openai.omit,
            extra_body=self._extra,
        )


def plain(chunk: object) -> Any:
    """What the provider sent, as plain data."""
    # The client builds its types from whatever came, unchecked, and hands on what is not even an object.
    return (
        chunk.model_dump(mode="python", exclude_unset=True, warnings=False) if isinstance(chunk, BaseModel) else chunk
    )


def _client(base_url: str | None, api_key: str | None) -> AsyncOpenAI:
    """A client of our own. Raises ConfigurationError where there is no key for OpenAI."""
    if api_key is None and base_url is not None and not os.environ.get("OPENAI_API_KEY"):
        api_key = "none"  # the client insists on one; servers without authentication do not look at it
    try:
        return AsyncOpenAI(base_url=base_url, api_key=api_key)
    except openai.OpenAIError as error:
        raise ConfigurationError("there is no API key for OpenAI: set OPENAI_API_KEY or pass api_key") from error


def failure_of(error: Exception) -> RunFailed:
    """What a run fails with for one of BROKEN."""
    if isinstance(error, openai.APIConnectionError):
        return failure("provider_unavailable")
    if isinstance(error, openai.APIError):
        status = error.status_code if isinstance(error, openai.APIStatusError) else None
        return classify(status=status, names=(error.code, error.type), message=error.message)
    return failure("provider_error", "The model provider's answer cannot be read.")
