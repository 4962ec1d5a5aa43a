"""The meter of one call: reads usage and the amount of text from a provider's chunks. Pure, and cheap for each.

Chunks are told apart by their shape, never by the vendor's name; objects of a client library are read like mappings.
Cumulative usage replaces, LangChain's deltas are summed. Nothing that a provider sends makes `observe` raise.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, cast

import msgspec

from unspool.errors import InvalidArgument
from unspool.events import DELTAS, STEP_FINISHED, USAGE, Event
from unspool.ledger.rules import COUNTS
from unspool.ledger.usage import LARGEST, Usage, normalise

_log = logging.getLogger("unspool.ledger")

_BARE: Final = (
    "prompt_tokens",
    "input_tokens",
    "output_tokens",
    "inputTokens",
    "promptTokenCount",
    "completion_tokens",
)
_GOOGLE: Final = {
    "prompt_token_count": "promptTokenCount",
    "tool_use_prompt_token_count": "toolUsePromptTokenCount",
    "candidates_token_count": "candidatesTokenCount",
    "thoughts_token_count": "thoughtsTokenCount",
    "cached_content_token_count": "cachedContentTokenCount",
}
"""Gemini's fields as its Python client spells them, and as the API does."""

_ENDS: Final = frozenset({"response.completed", "response.incomplete", "response.failed"})


class Meter:
    """Reads the chunks of one call.

    `usage`: what the provider has told last, None while it told nothing that is valid. `final`: it will not say more,
    so that this is the whole truth even when the call is cut short now. `size`: bytes of text, reasoning and tool
    arguments so far. `fault`: why a usage that was told is not valid. `keep`: characters of text to keep.
    """

    def __init__(self, keep: int = 0) -> None:
        self.usage: Usage | None = None
        self.final = False
        self.size = 0
        self.fault: InvalidArgument | None = None
        self._raw: dict[str, Any] = {}
        self._keep = keep
        self._pieces: list[str] = []
        self._kept = 0
        self._finished = False

    def __repr__(self) -> str:
        return f"<Meter size={self.size} final={self.final} usage={self.usage}>"

    @property
    def observed(self) -> bool:
        """True when the provider has sent anything of substance: the request had left."""
        return self.usage is not None or self.size > 0 or self.fault is not None

    @property
    def text(self) -> str | None:
        """The text so far, None where it was not kept whole."""
        return "".join(self._pieces) if 0 < self._keep >= self._kept else None

    def observe(self, chunk: object) -> None:
        """Take in one chunk, message, event, usage object or piece of text. What is none of these is passed over."""
        try:
            if isinstance(chunk, Event):
                self._event(chunk)
            elif isinstance(chunk, str):
                self._text(chunk)
            elif isinstance(chunk, tuple):  # LangGraph: a message chunk, and where in the graph it comes from
                self._chunk(next(iter(_items(cast(object, chunk))), None))
            else:
                self._chunk(chunk)
        except InvalidArgument as error:
            self._wrong(error)
        except Exception as error:  # noqa: BLE001  (objects of others may raise anything when they are looked at)
            self._wrong(InvalidArgument(f"a chunk cannot be read: {type(error).__name__}"))

    def _wrong(self, error: InvalidArgument) -> None:
        if self.fault is None:
            _log.warning("a usage that a provider told is not valid: %s", error)
        self.fault = error

    def _text(self, text: object) -> None:
        if not isinstance(text, str) or not text:
            return
        self.size += len(text) if text.isascii() else len(text.encode(errors="replace"))
        if self._keep:
            self._kept += len(text)
            if self._kept <= self._keep:
                self._pieces.append(text)

    def _replace(self, raw: object, *, final: bool) -> None:
        if raw is None:
            return
        self.usage = _normalised(raw)
        self.final = self.final or final

    def _event(self, event: Event) -> None:
        if event.type in DELTAS:
            self._text(event.data.get("text"))
        elif event.type == USAGE:
            usage = _normalised(event.data)
            source = "estimate" if event.data.get("source") == "estimate" else "provider"
            raw = event.data.get("raw")
            self.usage = msgspec.structs.replace(usage, source=source, raw=raw if isinstance(raw, dict) else usage.raw)
        # Of a call that broke off an adapter tells what was known by then; only of one that finished it is the truth.
        self._finished = self._finished or event.type == STEP_FINISHED
        self.final = self._finished and self.usage is not None and self.usage.source == "provider"

    def _chunk(self, chunk: object) -> None:
        get = _reader(chunk)
        if (choices := get("choices")) is not None:
            ended = not choices
            for choice in map(_reader, _items(choices)):
                self._choice(choice)
                ended = ended or choice("finish_reason") is not None
            # Only the last chunk has it; a few imitators repeat it in every chunk, cumulative.
            self._replace(get("usage"), final=ended)
        elif isinstance(kind := get("type"), str) and self._typed(kind, get):
            pass
        elif (metadata := get("usageMetadata")) is not None or get("candidates") is not None:
            self._gemini(get, metadata)
        elif (metadata := get("usage_metadata")) is not None or get("content") is not None:
            if metadata is not None and _reader(metadata)("prompt_token_count") is not None:
                self._gemini(get, None)
            else:
                self._langchain(get, metadata)
        else:
            self._other(chunk, get)

    def _choice(self, get: Callable[[str], Any]) -> None:
        delta = get("delta")
        part = _reader(delta if delta is not None else get("message"))
        for name in ("content", "reasoning_content", "reasoning", "refusal"):
            self._text(part(name))
        for call in _items(part("tool_calls")):
            self._text(_reader(_reader(call)("function"))("arguments"))

    def _typed(self, kind: str, get: Callable[[str], Any]) -> bool:
        """Anthropic's events and messages, and OpenAI's Responses; False for a type of neither."""
        match kind:
            case "message_start":
                self._anthropic(_reader(get("message"))("usage"), final=False)
            case "message_delta":
                self._anthropic(get("usage"), final=True)
            case "content_block_delta":
                delta = _reader(get("delta"))
                for name in ("text", "thinking", "partial_json"):
                    self._text(delta(name))
            case "message":
                for block in _items(get("content")):
                    self._text(_reader(block)("text"))
                self._anthropic(get("usage"), final=True)
            case _ if kind in _ENDS:
                self._replace(_reader(get("response"))("usage"), final=True)
            case _ if kind.startswith("response.") and kind.endswith(".delta"):
                self._text(get("delta"))
            case _:
                return kind.startswith(("response.", "content_block_", "message_")) or kind == "ping"
        return True

    def _anthropic(self, usage: object, *, final: bool) -> None:
        if usage is None:
            return
        # What only the start tells, such as the split of cache writes by lifetime, stays.
        self._raw |= {name: value for name, value in _plain(usage).items() if value is not None}
        self._replace(self._raw, final=final)

    def _gemini(self, get: Callable[[str], Any], metadata: object) -> None:
        finished = False
        for candidate in map(_reader, _items(get("candidates"))):
            finished = finished or candidate("finishReason") is not None or candidate("finish_reason") is not None
            for part in _items(_reader(candidate("content"))("parts")):
                self._text(_reader(part)("text"))
        if metadata is None and (spelt := get("usage_metadata")) is not None:
            metadata = {_GOOGLE.get(name, name): value for name, value in _plain(spelt).items()}
        self._replace(metadata, final=finished)

    def _langchain(self, get: Callable[[str], Any], metadata: object) -> None:
        content = get("content")
        if isinstance(content, str):
            self._text(content)
        else:
            for block in _items(content):
                self._text(block if isinstance(block, str) else _reader(block)("text"))
        if metadata is not None:
            delta = _normalised(metadata)
            self.usage = delta if self.usage is None else _sum(self.usage, delta)
        ended = _reader(get("response_metadata"))
        self.final = self.final or (
            self.usage is not None
            and (
                get("chunk_position") == "last"
                or any(ended(name) is not None for name in ("finish_reason", "stop_reason", "stopReason"))
            )
        )

    def _other(self, chunk: object, get: Callable[[str], Any]) -> None:
        if (block := get("contentBlockDelta")) is not None:
            self._text(_reader(_reader(block)("delta"))("text"))
        elif (usage := get("usage")) is not None:
            self._replace(usage() if callable(usage) else usage, final=True)
        elif (metadata := get("metadata")) is not None:
            self._replace(_reader(metadata)("usage"), final=True)
        elif any(get(name) is not None for name in _BARE):
            self._replace(chunk, final=True)


def _reader(value: object) -> Callable[[str], Any]:
    """Looks a name up in a mapping or in an object; None where it is absent."""
    if type(value) is dict or isinstance(value, Mapping):  # the first look is the cheap one: this is done per token
        return cast(Mapping[str, Any], value).get
    return lambda name: getattr(value, name, None)


def _items(value: object) -> Iterable[object]:
    return cast("Iterable[object]", value) if isinstance(value, list | tuple) else ()


def _plain(value: object) -> dict[str, Any]:
    """A usage object of any library as a plain mapping. Raises InvalidArgument."""
    if isinstance(value, Mapping):
        return dict(cast(Mapping[str, Any], value))
    if callable(dump := getattr(value, "model_dump", None)):
        value = dump()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif isinstance(value, msgspec.Struct):
        value = msgspec.structs.asdict(value)
    if not isinstance(value, Mapping):
        raise InvalidArgument(f"usage must be an object, not {type(value).__name__}")
    return dict(cast(Mapping[str, Any], value))


def _normalised(raw: object) -> Usage:
    usage = normalise(_plain(raw))
    if usage.suspect:
        _log.warning("a usage that a provider told contradicts itself, and is taken clamped: %s", usage)
    return usage


def _sum(first: Usage, second: Usage) -> Usage:
    counts = {name: getattr(first, name) + getattr(second, name) for name in COUNTS}
    if max(counts.values()) > LARGEST:
        raise InvalidArgument("the usage deltas of one call sum up to more than any call can use")
    # A model whose deltas carry the same input again and again would be billed for it each time; the sum is the rule.
    raw = {"deltas": [*((first.raw or {}).get("deltas") or [first.raw]), second.raw]}
    return Usage(**counts, suspect=first.suspect or second.suspect, raw=raw)
