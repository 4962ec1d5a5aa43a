"""UI messages of the AI SDK as messages of OpenAI's chat API, which is what runs get."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

Json = dict[str, Any]


def to_chat(messages: Sequence[Json]) -> list[Json]:
    """One conversation, oldest first. Parts that a model cannot be told (reasoning, data, steps) are left out."""
    chat: list[Json] = []
    for message in messages:
        role = message.get("role")
        parts: list[Json] = message.get("parts") or [{"type": "text", "text": message.get("content") or ""}]
        if role == "assistant":
            chat += _assistant(parts)
        elif role in ("user", "system"):
            chat.append({"role": role, "content": _content(parts)})
    return chat


def _content(parts: Sequence[Json]) -> str | list[Json]:
    files = [part for part in parts if part.get("type") == "file"]
    text = "".join(part.get("text") or "" for part in parts if part.get("type") == "text")
    if not files:
        return text
    content: list[Json] = [{"type": "text", "text": text}] if text else []
    for part in files:
        if str(part.get("mediaType", "")).startswith("image/"):
            content.append({"type": "image_url", "image_url": {"url": part.get("url")}})
        else:
            file = {"file_data": part.get("url"), "filename": part.get("filename") or "file"}
            content.append({"type": "file", "file": file})
    return content


def _assistant(parts: Sequence[Json]) -> list[Json]:
    chat: list[Json] = []
    text: list[str] = []
    calls: list[Json] = []
    results: list[Json] = []

    def turn() -> None:
        if text or calls:
            said: Json = {"role": "assistant", "content": "".join(text) or None}
            chat.append({**said, "tool_calls": list(calls)} if calls else said)
            chat.extend(results)
        for pieces in (text, calls, results):
            pieces.clear()

    for part in parts:
        kind = str(part.get("type"))
        if kind == "text":
            if calls:  # what is said after a tool's result is a turn of its own
                turn()
            text.append(part.get("text") or "")
        elif kind == "dynamic-tool" or kind.startswith("tool-"):
            name = part.get("toolName") if kind == "dynamic-tool" else kind.removeprefix("tool-")
            call_id = part.get("toolCallId")
            arguments = msgspec.json.encode(part.get("input") or {}).decode()
            calls.append({"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}})
            results.append({"role": "tool", "tool_call_id": call_id, "content": _result(part)})
    turn()
    return chat


def _result(part: Json) -> str:
    match part.get("state"):
        case "output-available":
            output = part.get("output")
            return output if isinstance(output, str) else msgspec.json.encode(output).decode()
        case "output-error":
            return str(part.get("errorText") or "The tool failed.")
        case "output-denied":
            return "The user did not allow this call."
        case "approval-responded":
            approval: Json = part.get("approval") or {}
            allowed = approval.get("approved")
            return "The user allowed this call." if allowed else "The user did not allow this call."
        case _:
            return "There is no result."
