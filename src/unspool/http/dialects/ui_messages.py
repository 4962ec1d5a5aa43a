"""UI messages of the AI SDK as messages of OpenAI's chat API, which is what runs get."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from unspool.http.dialects.values import Json, as_object, as_text


class UIMessage(msgspec.Struct):
    """One message of the conversation, as clients of the AI SDK keep it."""

    role: Literal["system", "user", "assistant"]
    parts: list[Json]
    id: str = ""


def to_chat(messages: Sequence[UIMessage]) -> list[Json]:
    """One conversation, oldest first. Parts that a model cannot be told (reasoning, data, steps) are left out."""
    chat: list[Json] = []
    for message in messages:
        if message.role == "assistant":
            chat += _assistant(message.parts)
        else:
            chat.append({"role": message.role, "content": _content(message.parts)})
    return chat


def open_calls(message: UIMessage) -> dict[str, tuple[str, str, bool]]:
    """A message's tool calls that have no result yet, by their ids: name, arguments as JSON, whether it is dynamic."""
    return {
        call["id"]: (call["function"]["name"], call["function"]["arguments"], part["type"] == "dynamic-tool")
        for part in message.parts
        if _is_tool(part) and part.get("state") in ("input-available", "approval-requested", "approval-responded")
        for call in [_call(part)]
    }


def _content(parts: Sequence[Json]) -> str | list[Json]:
    files = [part for part in parts if part.get("type") == "file"]
    text = "".join(_text(part) for part in parts if part.get("type") == "text")
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
        if part.get("type") == "text":
            if calls:  # what is said after a tool's result is a turn of its own
                turn()
            text.append(_text(part))
        elif _is_tool(part):
            call = _call(part)
            calls.append(call)
            results.append({"role": "tool", "tool_call_id": call["id"], "content": _result(part)})
    turn()
    return chat


def _text(part: Json) -> str:
    text = part.get("text")
    return text if isinstance(text, str) else ""


def _is_tool(part: Json) -> bool:
    kind = part.get("type")
    return kind == "dynamic-tool" or (isinstance(kind, str) and kind.startswith("tool-"))


def _call(part: Json) -> Json:
    name = part.get("toolName") if part["type"] == "dynamic-tool" else part["type"].removeprefix("tool-")
    arguments = msgspec.json.encode(part.get("input") or {}).decode()
    function = {"name": str(name), "arguments": arguments}
    return {"id": str(part.get("toolCallId")), "type": "function", "function": function}


def _result(part: Json) -> str:
    match part.get("state"):
        case "output-available":
            return as_text(part.get("output"))
        case "output-error":
            return str(part.get("errorText") or "The tool failed.")
        case "output-denied":
            return "The user did not allow this call."
        case "approval-responded":
            allowed = as_object(part.get("approval")).get("approved") is True
            return "The user allowed this call." if allowed else "The user did not allow this call."
        case _:
            return "There is no result."
