"""Single events and their parts: frames, CUSTOM, interrupts, usage."""

from __future__ import annotations

from typing import Any, Final, cast

import msgspec

Json = dict[str, Any]


def frame(event: Json) -> bytes:
    return b"data: %b\n\n" % msgspec.json.encode(event)


def custom(name: str, value: object) -> Json:
    return {"type": "CUSTOM", "name": name, "value": value}


def whole(text: str) -> bool:
    """Arguments that are JSON; none at all are what a tool without any is called with."""
    try:
        msgspec.json.decode(text or "{}")
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def interrupt(data: Json) -> Json:
    asked = data.get("what") or data.get("message")
    found: Json = {"id": data["action_id"], "reason": "approval", "metadata": {"approval": data}}
    if asked is not None:
        found["message"] = asked if isinstance(asked, str) else msgspec.json.encode(asked).decode()
    if isinstance(data.get("call_id"), str):
        found["toolCallId"] = data["call_id"]
    return found


_COUNTS: Final = {
    "inputTokens": "input_tokens",
    "outputTokens": "output_tokens",
    "reasoningTokens": "reasoning_tokens",
    "cachedInputTokens": "cache_read_tokens",
    "cacheWriteInputTokens": "cache_write_tokens",
}


def usage_of(data: Json) -> Json:
    entry: Json = {name: data[name] for name in ("provider", "model") if isinstance(data.get(name), str)}
    counts = {name: data.get(field) for name, field in _COUNTS.items()}
    entry |= {name: count for name, count in counts.items() if type(count) is int and 0 <= count < 2**53}
    if "inputTokens" in entry and "outputTokens" in entry:
        entry["totalTokens"] = entry["inputTokens"] + entry["outputTokens"]
    return entry


def obj(value: object) -> Json:
    """A JSON object; an empty one for anything else."""
    return cast(Json, value) if isinstance(value, dict) else {}


def items(value: object) -> list[Any]:
    """A JSON array; an empty one for anything else."""
    return cast(list[Any], value) if isinstance(value, list) else []
