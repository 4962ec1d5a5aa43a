"""One usage shape for every provider: told apart by the shape of the payload, never by the vendor's name.

Counts are tokens and inclusive: `input_tokens` holds what was read from and written to a cache, `output_tokens` holds
the reasoning, `cache_write_tokens` holds the part that is kept for an hour.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, cast

import msgspec

from unspool.errors import InvalidArgument
from unspool.events import USAGE, Event

Payload = Mapping[str, Any]

LARGEST: Final = 2**53 - 1
"""The largest count: beyond it JSON numbers stop being exact for half of the world's readers."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """The usage of one model call, in tokens.

    Always: `input_tokens` ≥ `cache_read_tokens` + `cache_write_tokens`; `cache_write_tokens` ≥ `cache_write_1h_tokens`;
    `output_tokens` ≥ `reasoning_tokens`. `suspect`: the provider's own figures broke one of these, and the part was
    clamped to the whole. `raw` is what the provider sent, unchanged.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int = 0
    source: Literal["provider", "estimate"] = "provider"
    suspect: bool = False
    raw: dict[str, Any] | None = None


def normalise(raw: Payload) -> Usage:
    """Read a provider's or framework's usage object, whichever of the known shapes it has.

    `raw` is the usage object itself, not the message around it, and of cumulative ones the last; a null field counts
    as absent. Raises InvalidArgument, naming the field, where a count is not an integer of 0 to `LARGEST`, and where
    `raw` has no field of any shape.
    """
    raw = _part({"usage": raw}, "usage")
    for markers, read in _SHAPES:
        if any(raw.get(marker) is not None for marker in markers):
            return _clamp(read(raw), dict(raw))
    fields = sorted(map(str, raw))
    raise InvalidArgument(f"usage has no token count of a known name; its fields are {fields}", fields=fields)


def usage_event(usage: Usage, *, call_id: str, model: str, provider: str, agent: str | None = None) -> Event:
    """The `usage` event of one model call: whose it is, then every field of `usage`."""
    data: dict[str, Any] = {"call_id": call_id, "model": model, "provider": provider}
    if agent is not None:
        data["agent"] = agent
    return Event(USAGE, data | msgspec.structs.asdict(usage))


def usage_told(
    usage: Usage | None, *, call_id: str, model: str, provider: str, agent: str, money: dict[str, Any]
) -> Event:
    """The `usage` event with its cost; `usage` is None where nothing is known of it."""
    if usage is None:
        whose = {"call_id": call_id, "model": model, "provider": provider, "agent": agent}
        return Event(USAGE, whose | money)
    told = usage_event(usage, call_id=call_id, model=model, provider=provider, agent=agent)
    return Event(USAGE, told.data | money)


def _clamp(usage: Usage, raw: dict[str, Any]) -> Usage:
    # The totals are what is billed in any case, so they stand and the parts give way.
    read = min(usage.cache_read_tokens, usage.input_tokens)
    write = min(usage.cache_write_tokens, usage.input_tokens - read)
    clamped = msgspec.structs.replace(
        usage,
        cache_read_tokens=read,
        cache_write_tokens=write,
        cache_write_1h_tokens=min(usage.cache_write_1h_tokens, write),
        reasoning_tokens=min(usage.reasoning_tokens, usage.output_tokens),
    )
    return msgspec.structs.replace(clamped, suspect=clamped != usage, raw=raw)


def _count(payload: Payload, name: str, *, of: str = "") -> int:
    """The count under `name`, 0 where it is absent. `of` is the path to the payload, for the error."""
    value = payload.get(name)
    return 0 if value is None else _check(value, of + name)


def _check(value: object, field: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LARGEST:
        # The value itself is left out: it may be anything, and of any length.
        raise InvalidArgument(f"usage field {field} must be an integer of 0 to {LARGEST}", field=field)
    return value


def _part(payload: Payload, name: str) -> Payload:
    """The object under `name`, empty where it is absent."""
    part = payload.get(name)
    if part is None:
        return {}
    if not isinstance(part, Mapping):
        raise InvalidArgument(f"usage field {name} must be an object", field=name)
    return cast(Payload, part)


def _openai_chat(raw: Payload) -> Usage:
    return _openai(raw, "prompt", "completion")


def _openai_responses(raw: Payload) -> Usage:
    return msgspec.structs.replace(_openai(raw, "input", "output"), reasoning_tokens=_reasoning(raw))


def _openai(raw: Payload, prompt: str, answer: str) -> Usage:
    cache, output = f"{prompt}_tokens_details", f"{answer}_tokens_details"
    return Usage(
        input_tokens=_count(raw, f"{prompt}_tokens"),
        output_tokens=_count(raw, f"{answer}_tokens"),
        cache_read_tokens=_count(_part(raw, cache), "cached_tokens", of=f"{cache}."),
        cache_write_tokens=_count(_part(raw, cache), "cache_write_tokens", of=f"{cache}."),
        reasoning_tokens=_count(_part(raw, output), "reasoning_tokens", of=f"{output}."),
    )


def _reasoning(raw: Payload) -> int:
    # OpenAI says "reasoning", Anthropic "thinking"; a payload has one of them.
    details = _part(raw, "output_tokens_details")
    return sum(_count(details, name, of="output_tokens_details.") for name in ("reasoning_tokens", "thinking_tokens"))


def _anthropic(raw: Payload) -> Usage:
    split = _part(raw, "cache_creation")
    short, long = (_count(split, f"ephemeral_{ttl}_input_tokens", of="cache_creation.") for ttl in ("5m", "1h"))
    read = _count(raw, "cache_read_input_tokens")
    # The total counts what the split does not: it goes on growing after the start, where the split was told.
    write = _count(raw, "cache_creation_input_tokens") or short + long
    return Usage(
        input_tokens=_check(_count(raw, "input_tokens") + read + write, "input_tokens"),
        output_tokens=_count(raw, "output_tokens"),
        cache_read_tokens=read,
        cache_write_tokens=write,
        cache_write_1h_tokens=long,
        reasoning_tokens=_reasoning(raw),
    )


def _langchain(raw: Payload) -> Usage:
    details, output = _part(raw, "input_token_details"), _part(raw, "output_token_details")

    def tiers(of: Payload, name: str, where: str) -> int:
        # A call of another service tier has its counts under prefixed names.
        return sum(_count(of, f"{tier}{name}", of=f"{where}.") for tier in ("", "priority_", "flex_"))

    # With a split by lifetime `cache_creation` is 0, and only the two parts of the split tell what was written.
    short, long = (tiers(details, f"ephemeral_{ttl}_input_tokens", "input_token_details") for ttl in ("5m", "1h"))
    return Usage(
        input_tokens=_count(raw, "input_tokens"),
        output_tokens=_count(raw, "output_tokens"),
        cache_read_tokens=tiers(details, "cache_read", "input_token_details"),
        cache_write_tokens=max(tiers(details, "cache_creation", "input_token_details"), short + long),
        cache_write_1h_tokens=long,
        reasoning_tokens=tiers(output, "reasoning", "output_token_details"),
    )


def _flat(raw: Payload) -> Usage:
    # pydantic-ai's RequestUsage, which keeps the reasoning among its details, and our own shape, which does not.
    return Usage(
        input_tokens=_count(raw, "input_tokens"),
        output_tokens=_count(raw, "output_tokens"),
        cache_read_tokens=_count(raw, "cache_read_tokens"),
        cache_write_tokens=_count(raw, "cache_write_tokens"),
        cache_write_1h_tokens=_count(raw, "cache_write_1h_tokens"),
        reasoning_tokens=_count(raw, "reasoning_tokens")
        or _count(_part(raw, "details"), "reasoning_tokens", of="details."),
    )


def _gemini(raw: Payload) -> Usage:
    thoughts = _count(raw, "thoughtsTokenCount")
    prompt = _count(raw, "promptTokenCount") + _count(raw, "toolUsePromptTokenCount")
    return Usage(
        input_tokens=_check(prompt, "promptTokenCount"),
        output_tokens=_check(_count(raw, "candidatesTokenCount") + thoughts, "candidatesTokenCount"),
        cache_read_tokens=_count(raw, "cachedContentTokenCount"),
        reasoning_tokens=thoughts,
    )


def _bedrock(raw: Payload) -> Usage:
    read, write = _count(raw, "cacheReadInputTokens"), _count(raw, "cacheWriteInputTokens")
    return Usage(
        input_tokens=_check(_count(raw, "inputTokens") + read + write, "inputTokens"),
        output_tokens=_count(raw, "outputTokens"),
        cache_read_tokens=read,
        cache_write_tokens=write,
        cache_write_1h_tokens=_bedrock_hour(raw),
    )


def _bedrock_hour(raw: Payload) -> int:
    details = raw.get("cacheDetails") or ()
    if not isinstance(details, list | tuple):
        raise InvalidArgument("usage field cacheDetails must be an array", field="cacheDetails")
    entries = [_part({"cacheDetails[]": entry}, "cacheDetails[]") for entry in cast(list[Any], details)]
    return sum(_count(entry, "inputTokens", of="cacheDetails[].") for entry in entries if entry.get("ttl") == "1h")


_SHAPES: Final[tuple[tuple[tuple[str, ...], Callable[[Payload], Usage]], ...]] = (
    # Each shape and the fields that tell it from the rows below; the last one's are those of several shapes.
    (("prompt_tokens", "completion_tokens"), _openai_chat),
    (("input_token_details", "output_token_details"), _langchain),
    (("promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount"), _gemini),
    (("inputTokens", "outputTokens"), _bedrock),
    (("cache_creation_input_tokens", "cache_read_input_tokens", "cache_creation"), _anthropic),
    (("cache_read_tokens", "cache_write_tokens", "details", "reasoning_tokens"), _flat),
    (("input_tokens", "output_tokens"), _openai_responses),
)
