"""Messages and tools in the shape of OpenAI's chat API → those of Anthropic's messages API. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import msgspec

from unspool.providers.base import Message
from unspool.providers.failures import failure

Json = dict[str, Any]

_DATA_URL: Final = re.compile(r"data:(?P<media_type>[\w.+-]+/[\w.+-]+);base64,(?P<data>.*)", re.DOTALL)
_SYSTEM: Final = frozenset({"system", "developer"})


def convert_messages(messages: Sequence[Message]) -> tuple[list[Json], list[Json]]:
    """The system blocks and the turns of a conversation.

    Neighbours of one role become one turn, since the results of parallel tool calls must lie in a single one; empty
    messages are left out, since Anthropic refuses them. Raises RunFailed (invalid_request) for a role or a part that
    cannot be told to Anthropic.
    """
    system: list[Json] = []
    turns: list[Json] = []
    for message in messages:
        if message["role"] in _SYSTEM:
            system += _parts(message.get("content"))
            continue
        role, blocks = _turn(message)
        if not blocks:
            continue
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    return system, turns


def convert_tools(tools: Sequence[Mapping[str, Any]]) -> list[Json]:
    """Function tools in Anthropic's shape; others, such as Anthropic's own server tools, as they are."""
    return [_tool(tool) for tool in tools]


def _tool(tool: Mapping[str, Any]) -> Json:
    function: Mapping[str, Any] | None = tool.get("function")
    if function is None:
        return dict(tool)
    converted = {"name": function["name"], "input_schema": function.get("parameters") or {"type": "object"}}
    if description := function.get("description"):
        converted["description"] = description
    return converted | _cache_control(tool)


def _turn(message: Message) -> tuple[str, list[Json]]:
    match message["role"]:
        case "user":
            return "user", _parts(message.get("content"))
        case "assistant":
            calls = message.get("tool_calls") or []
            return "assistant", _parts(message.get("content")) + [_tool_use(call) for call in calls]
        case "tool":
            result = {"type": "tool_result", "tool_use_id": message.get("tool_call_id")}
            return "user", [result | {"content": _parts(message.get("content"))}]
        case role:
            raise failure("invalid_request", f"A message has the role {role!r}, which Anthropic does not know.")


def _tool_use(call: Mapping[str, Any]) -> Json:
    function = call["function"]
    return {"type": "tool_use", "id": call["id"], "name": function["name"], "input": _input(function.get("arguments"))}


def _input(arguments: str | None) -> Json:
    try:
        decoded = msgspec.json.decode(arguments or "{}")
    except msgspec.DecodeError:
        decoded = None
    # Arguments that a stop cut short are told as they are: without them the conversation could not go on.
    return cast(Json, decoded) if isinstance(decoded, dict) else {"arguments": arguments}


def _parts(content: str | list[Json] | None) -> list[Json]:
    if content is None or isinstance(content, str):
        content = [{"type": "text", "text": content or ""}]
    return [_part(part) | _cache_control(part) for part in content if part.get("type") != "text" or part.get("text")]


def _part(part: Json) -> Json:
    match part.get("type"):
        case "text":
            return {"type": "text", "text": part["text"]}
        case "image_url":
            return {"type": "image", "source": _image(part["image_url"]["url"])}
        case kind:
            raise failure(
                "invalid_request", f"A message has a part of type {kind!r}, which cannot be sent to Anthropic."
            )


def _image(url: str) -> Json:
    if not url.startswith("data:"):
        return {"type": "url", "url": url}
    match = _DATA_URL.fullmatch(url)
    if match is None:
        raise failure("invalid_request", "An image must be an http(s) URL or a data URL in base64.")
    return {"type": "base64", **match.groupdict()}


def _cache_control(part: Mapping[str, Any]) -> Json:
    return {"cache_control": part["cache_control"]} if part.get("cache_control") else {}
