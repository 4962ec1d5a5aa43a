"""Messages of LangChain: as clients send them, as a thread keeps them, and as what a run gets.

A thread keeps plain dicts as LangChain writes them: `type` (human, ai, system, tool), `id`, `content`, and for tools
`tool_calls` or `tool_call_id`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import msgspec

from unspool.errors import InvalidArgument
from unspool.http.dialects.values import Json, as_list, as_object

_TYPES: Final = {
    "human": "human", "user": "human", "ai": "ai", "assistant": "ai", "system": "system", "developer": "system",
    "tool": "tool", "remove": "remove",
}  # fmt: skip
_ROLES: Final = {"human": "user", "system": "system"}
REMOVE_ALL: Final = "__remove_all__"
"""The id of the message that takes all others away."""


def received(given: object, new_id: Callable[[], str]) -> list[Json]:
    """Messages as clients write them: one or many; strings, pairs, roles or types, or LangChain's own serialised form.

    Each gets an id where it has none. Raises InvalidArgument.
    """
    if given is None:
        return []
    if isinstance(given, list | tuple):
        items = cast("Sequence[object]", given)
        if len(items) == 2 and isinstance(items[0], str) and items[0] in _TYPES and isinstance(items[1], str):
            return [_message(items, new_id)]
        return [_message(item, new_id) for item in items]
    return [_message(given, new_id)]


def _message(given: object, new_id: Callable[[], str]) -> Json:
    if isinstance(given, str):
        return {"type": "human", "id": new_id(), "content": given}
    if isinstance(given, list | tuple):
        pair = cast("Sequence[object]", given)
        if len(pair) != 2:
            raise InvalidArgument("a message that is a list must be a role and a content", field="input.messages")
        return _message({"role": pair[0], "content": pair[1]}, new_id)
    if not isinstance(given, dict):
        raise InvalidArgument(f"a message must be an object, not {type(given).__name__}", field="input.messages")
    found = {**cast("Json", given)}
    if found.get("lc") == 1 and isinstance(found.get("id"), list):  # how LangChain's own objects are written as JSON
        found = {**as_object(found.get("kwargs")), "type": found["id"][-1] if found["id"] else None}
    said = str(found.pop("role", None) or found.get("type"))
    kind = _TYPES.get(said.removesuffix("Chunk").removesuffix("Message").lower())
    if kind is None:
        raise InvalidArgument(f"a message must have a type or role that is known, not {said[:40]!r}", field="messages")
    if kind == "tool" and not isinstance(found.get("tool_call_id"), str):
        raise InvalidArgument("a tool's message needs its tool_call_id", field="input.messages")
    found.pop("tool_call_chunks", None)
    content = found.get("content")
    if not isinstance(content, list):
        content = "" if content is None else str(content)
    message: Json = {**found, "type": kind, "content": content}
    if not isinstance(message.get("id"), str) or not message["id"]:
        message["id"] = new_id()
    if kind == "ai":
        message["tool_calls"] = _calls(message)
    return message


def _calls(message: Json) -> list[Json]:
    """An assistant's calls, also where they are in the shape of OpenAI."""
    calls: list[Json] = []
    for item in as_list(message.get("tool_calls")):
        call = as_object(item)
        function = as_object(call.get("function"))
        args = call.get("args") if "args" in call else function.get("arguments")
        name = call.get("name") or function.get("name") or "tool"
        calls.append(tool_call(str(call.get("id") or ""), str(name), args))
    return calls


def tool_call(call_id: str, name: str, args: object) -> Json:
    """A call in LangChain's shape; arguments that are no JSON object are none."""
    if isinstance(args, str):
        args = arguments(args)
    return {"type": "tool_call", "id": call_id, "name": name, "args": args if isinstance(args, dict) else {}}


def arguments(text: str) -> Json | None:
    """A call's arguments from their JSON; None where it is no object."""
    try:
        return msgspec.json.decode(text or "{}", type=Json)
    except msgspec.DecodeError:
        return None


def merged(messages: Sequence[Json], new: Sequence[Json]) -> list[Json]:
    """What a thread has after these came: as LangGraph's `add_messages`, the same id replaces, and `remove` removes."""
    kept = {str(message["id"]): message for message in messages}
    for message in new:
        if message["type"] != "remove":
            kept[message["id"]] = message
        elif message["id"] == REMOVE_ALL:
            kept.clear()
        else:
            kept.pop(message["id"], None)
    return list(kept.values())


def to_chat(messages: Sequence[Json]) -> list[Json]:
    """The same in the shape of OpenAI's chat API. A call that was never answered is answered: models insist on it."""
    chat: list[Json] = []
    pending: dict[str, None] = {}

    def answer_rest() -> None:
        chat.extend({"role": "tool", "tool_call_id": call, "content": "There is no result."} for call in pending)
        pending.clear()

    for message in messages:
        kind, content = message["type"], _content(message["content"])
        if kind == "tool":
            if message["tool_call_id"] in pending:  # the answer to a question that is there
                del pending[message["tool_call_id"]]
                chat.append({"role": "tool", "tool_call_id": message["tool_call_id"], "content": _text(content)})
            continue
        answer_rest()
        if kind != "ai":
            chat.append({"role": _ROLES[kind], "content": content})
            continue
        calls: list[Json] = [
            {
                "id": call["id"],
                "type": "function",
                "function": {"name": call["name"], "arguments": msgspec.json.encode(call["args"]).decode()},
            }
            for call in message.get("tool_calls") or ()
        ]
        if content or calls:
            said: Json = {"role": "assistant", "content": _text(content) or None}
            chat.append({**said, "tool_calls": calls} if calls else said)
        pending.update(dict.fromkeys(call["id"] for call in calls))
    answer_rest()
    return chat


def _content(content: str | list[Any]) -> str | list[Json]:
    """What a model can be told of a content: texts, images and files."""
    if isinstance(content, str):
        return content
    parts: list[Json] = []
    for block in cast("list[object]", content):
        if isinstance(block, str):
            parts.append({"type": "text", "text": block})
        elif isinstance(block, dict):
            parts += _block(cast("Json", block))
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return parts


def _block(block: Json) -> list[Json]:
    kind = block.get("type")
    if kind in ("text", "input_text", "output_text"):
        return [{"type": "text", "text": str(block.get("text") or "")}]
    if kind in ("image_url", "file", "input_audio") and isinstance(block.get(str(kind)), dict | str):
        value = block[str(kind)]
        return [{"type": kind, kind: {"url": value} if isinstance(value, str) else value}]
    if kind not in ("image", "file"):
        return []
    data = block.get("data") or block.get("base64")
    media_type = block.get("mime_type") or block.get("mimeType") or "application/octet-stream"
    url = block.get("url") or (f"data:{media_type};base64,{data}" if data else None)
    if url is None:
        return []
    if kind == "image":
        return [{"type": "image_url", "image_url": {"url": url}}]
    filename = as_object(block.get("metadata")).get("filename") or "file"
    return [{"type": "file", "file": {"file_data": url, "filename": filename}}]


def _text(content: str | list[Json]) -> str:
    if isinstance(content, str):
        return content
    return "".join(str(part["text"]) for part in content if part["type"] == "text")
