"""Single events and their parts: frames, CUSTOM, interrupts, usage."""

from __future__ import annotations

from typing import Final

import msgspec

from unspool.http.dialects.values import Json, as_text


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
        found["message"] = as_text(asked)
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
