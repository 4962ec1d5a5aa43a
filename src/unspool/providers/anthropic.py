"""Models behind Anthropic's messages API."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from json import JSONDecodeError
from typing import Any, Final, cast

from unspool.errors import ConfigurationError, RunFailed
from unspool.events import Event
from unspool.providers import shapes
from unspool.providers.anthropic_messages import convert_messages, convert_tools
from unspool.providers.base import Message
from unspool.providers.call import ModelCall
from unspool.providers.failures import classify, failure, missing_extra

try:
    import anthropic
    import httpx2
    from anthropic import AsyncAnthropic, BaseModel
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
        self._tools: dict[int | str | None, str] = {}
        self._usage: dict[str, Any] = {}
        self._reason: str | None = None

    def feed(self, item: object) -> Iterator[Event]:
        """The events of one item. Raises RunFailed where it makes no sense."""
        data = _plain(item)
        match data.get("type"):
            case "message_start":
                self._told(shapes.an_object(data.get("message")).get("usage"))
            case "message_delta":
                self._told(data.get("usage"))
                self._reason = shapes.name(shapes.an_object(data.get("delta")).get("stop_reason")) or self._reason
            case "content_block_start":
                yield from self._begin(data.get("index"), shapes.an_object(data.get("content_block")))
            case "content_block_delta":
                yield from self._grow(data.get("index"), shapes.an_object(data.get("delta")))
            case _:
                pass  # ends of blocks and of the message say nothing new

    def _begin(self, index: object, block: shapes.Json) -> Iterator[Event]:
        match block.get("type"):
            case "text":
                yield from self._text(block.get("text"))
            case "thinking":
                yield from self._thinking(block.get("thinking"))
            case "tool_use":
                if (name := shapes.name(block.get("name"))) is None:
                    raise shapes.unreadable()
                event = self.call.tool_call(name, shapes.name(block.get("id")))
                self._tools[shapes.place(index)] = call_id = event.data["call_id"]
                yield event
                if block.get("input"):  # imitators may send the whole input at once; Anthropic starts with {}
                    yield from self._args(call_id, shapes.json_text(block["input"]))
            case _:
                pass

    def _grow(self, index: object, delta: shapes.Json) -> Iterator[Event]:
        match delta.get("type"):
            case "text_delta":
                yield from self._text(delta.get("text"))
            case "thinking_delta":
                yield from self._thinking(delta.get("thinking"))
            case "input_json_delta":
                yield from self._args(self._tools.get(shapes.place(index)), shapes.text(delta.get("partial_json")))
            case _:
                pass

    def _text(self, text: object) -> Iterator[Event]:
        if whole := shapes.name(text):
            yield self.call.text(whole)

    def _thinking(self, text: object) -> Iterator[Event]:
        if whole := shapes.name(text):
            yield self.call.reasoning(whole)

    def _args(self, call_id: str | None, text: str) -> Iterator[Event]:
        if call_id is not None and (whole := shapes.name(text)):
            yield self.call.tool_args(call_id, whole)

    def _told(self, usage: object) -> None:
        # Each figure is cumulative: it replaces the one before. What only the start tells, such as the split of
        # cache writes by lifetime, stays.
        self._usage |= {name: value for name, value in shapes.an_object(usage).items() if value is not None}

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


def _plain(item: object) -> shapes.Json:
    # The client builds its types from whatever came, unchecked, and hands on what is not even an object.
    if isinstance(item, BaseModel):
        return item.model_dump(mode="python", exclude_unset=True, warnings=False)
    return shapes.an_object(item)


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
