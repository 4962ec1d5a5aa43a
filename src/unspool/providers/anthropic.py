"""Models behind Anthropic's messages API."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from json import JSONDecodeError
from typing import Any, Final, cast

import msgspec

from unspool.errors import ConfigurationError, RunFailed
from unspool.events import Event
from unspool.providers.anthropic_messages import convert_messages, convert_tools
from unspool.providers.base import Message
from unspool.providers.call import ModelCall
from unspool.providers.failures import classify, failure, missing_extra

try:
    import anthropic
    import httpx2
    from anthropic import AsyncAnthropic
    from anthropic.types import MessageDeltaUsage, RawMessageStreamEvent, Usage
except ImportError as error:
    raise missing_extra("anthropic", "anthropic") from error

# The client translates the transport's errors only until the answer begins; later they show as they are.
_BROKEN = (anthropic.APIError, httpx2.HTTPError, JSONDecodeError, UnicodeDecodeError)

_REASONS: Final = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


class AnthropicModel:
    """A model of Anthropic's under `name`, which answers with at most `max_tokens` tokens.

    `base_url`, `api_key`: else those of the environment (`ANTHROPIC_API_KEY`). `client`: a client of your own, with its
    time-outs and retries, which stays yours to close. `extra`: further fields of every request (`thinking`,
    `temperature`). A message part's or tool's `cache_control` is passed on. Thinking is streamed but not sent back
    with later messages.

    Raises ConfigurationError where there are no credentials.
    """

    def __init__(
        self,
        name: str,
        *,
        max_tokens: int = 4096,
        base_url: str | None = None,
        api_key: str | None = None,
        client: AsyncAnthropic | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.provider = "anthropic"
        self._max_tokens = max_tokens
        self._extra = dict(extra or {})
        self._owned = client is None
        self._client = client or _client(base_url, api_key)

    def __repr__(self) -> str:
        return f"<AnthropicModel {self.name} at {self._client.base_url}>"

    async def stream(
        self,
        messages: Sequence[Message],
        *,
        call_id: str,
        agent: str | None = None,
        tools: Sequence[dict[str, Any]] = (),
    ) -> AsyncGenerator[Event, None]:
        """One call as events, in the order of `Model.stream`.

        Raises RunFailed with code rate_limited, provider_unavailable, authentication, invalid_request, context_length
        or provider_error.
        """
        answer = _Answer(ModelCall(self.name, self.provider, call_id, agent))
        yield answer.call.started()
        system, turns = convert_messages(messages)
        try:
            # The blocks that we build are plain dicts; the client's types spell out every kind of block.
            async with await self._client.messages.create(
                model=self.name,
                max_tokens=self._max_tokens,
                system=cast(Any, system) or anthropic.omit,
                messages=cast(Any, turns),
                tools=cast(Any, convert_tools(tools)) or anthropic.omit,
                stream=True,
                extra_body=self._extra,
            ) as stream:
                async for item in stream:
                    for event in answer.feed(item):
                        yield event
        except _BROKEN as error:
            for event in answer.usage():
                yield event
            raise _failure(error) from error
        for event in answer.finish():
            yield event

    async def close(self) -> None:
        """Give back connections. Idempotent."""
        if self._owned:
            await self._client.close()


class _Answer:
    """Turns the stream events of one answer into ours."""

    def __init__(self, call: ModelCall) -> None:
        self.call = call
        self._tools: dict[int, str] = {}
        self._usage: dict[str, Any] = {}
        self._reason: str | None = None

    def feed(self, item: RawMessageStreamEvent) -> Iterator[Event]:
        match item.type:
            case "message_start":
                self._told(item.message.usage)
            case "message_delta":
                self._told(item.usage)
                self._reason = item.delta.stop_reason or self._reason
            case "content_block_start":
                block = item.content_block
                if block.type == "text" and block.text:
                    yield self.call.text(block.text)
                elif block.type == "thinking" and block.thinking:
                    yield self.call.reasoning(block.thinking)
                elif block.type == "tool_use":
                    event = self.call.tool_call(block.name, block.id)
                    self._tools[item.index] = event.data["call_id"]
                    yield event
                    if block.input:  # imitators may send the whole input at once; Anthropic starts with {}
                        yield self.call.tool_args(block.id, msgspec.json.encode(block.input).decode())
            case "content_block_delta":
                delta = item.delta
                if delta.type == "text_delta" and delta.text:
                    yield self.call.text(delta.text)
                elif delta.type == "thinking_delta" and delta.thinking:
                    yield self.call.reasoning(delta.thinking)
                elif delta.type == "input_json_delta" and delta.partial_json and item.index in self._tools:
                    yield self.call.tool_args(self._tools[item.index], delta.partial_json)
            case _:
                pass  # ends of blocks and of the message say nothing new

    def _told(self, usage: Usage | MessageDeltaUsage) -> None:
        # Each figure is cumulative: it replaces the one before. What only the start tells, such as the split of
        # cache writes by lifetime, stays.
        self._usage |= usage.to_dict(mode="json", exclude_none=True, warnings=False)

    def usage(self) -> Iterator[Event]:
        """The usage that was told last, once."""
        if self._usage and (event := self.call.usage(self._usage)):
            yield event
        self._usage = {}

    def finish(self) -> Iterator[Event]:
        """The end of the answer. Raises RunFailed where the server stopped in the middle of it."""
        yield from self.usage()
        if self._reason is None:
            raise failure("provider_unavailable", "The model provider's answer broke off.")
        yield self.call.finished(_REASONS.get(self._reason, self._reason))


def _client(base_url: str | None, api_key: str | None) -> AsyncAnthropic:
    client = AsyncAnthropic(base_url=base_url, api_key=api_key)
    if client.api_key is None and client.auth_token is None and client.credentials is None:
        raise ConfigurationError("there is no API key for Anthropic: set ANTHROPIC_API_KEY or pass api_key")
    return client


def _failure(error: Exception) -> RunFailed:
    if isinstance(error, anthropic.APIConnectionError | httpx2.HTTPError):
        return failure("provider_unavailable")
    if isinstance(error, anthropic.APIStatusError):
        return classify(status=error.status_code, names=(error.error_code, error.type), message=error.message)
    return failure("provider_error", "The model provider's answer cannot be read.")
