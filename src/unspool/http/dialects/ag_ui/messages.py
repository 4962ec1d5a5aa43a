"""AG-UI messages as messages of OpenAI's chat API, which is what runs get."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from unspool.errors import InvalidArgument
from unspool.http.dialects.values import Json, as_list, as_object

_MEDIA: Final = frozenset({"image", "audio", "video", "document"})


def to_chat(messages: Sequence[Json]) -> list[Json]:
    """One conversation, oldest first. What a model cannot be told (reasoning, activity) is left out; the results of
    tools stand right behind the calls. Raises InvalidArgument for what is no message."""
    results = {_answered(one, index): one for index, one in enumerate(messages) if one.get("role") == "tool"}
    chat: list[Json] = []
    for index, message in enumerate(messages):
        match message.get("role"):
            case "user" | "system" | "developer" as role:
                chat.append(_named(message, {"role": role, "content": _content(message.get("content"), index)}))
            case "assistant":
                chat += _assistant(message, results, index)
            case "tool":
                call_id = _answered(message, index)
                if results.get(call_id) is message:  # no call that was sent along asks for it
                    chat.append(_result(call_id, message, index))
            case "reasoning" | "activity":
                pass
            case role:
                raise InvalidArgument(f"messages[{index}] has the unknown role {role!r}", field=f"messages[{index}]")
    return chat


def _named(message: Json, said: Json) -> Json:
    return {**said, "name": message["name"]} if isinstance(message.get("name"), str) else said


def _answered(message: Json, index: int) -> str:
    """The call that a tool's message answers."""
    call_id = message.get("toolCallId")
    if not isinstance(call_id, str):
        raise InvalidArgument(f"messages[{index}] needs its toolCallId", field=f"messages[{index}]")
    return call_id


def _assistant(message: Json, results: dict[str, Json], index: int) -> list[Json]:
    text = message.get("content") or None
    calls: list[Json] = [
        {"id": call.get("id"), "type": "function", "function": as_object(call.get("function"))}
        for call in map(as_object, as_list(message.get("toolCalls")))
    ]
    if not all(isinstance(call["id"], str) and isinstance(call["function"].get("name"), str) for call in calls):
        raise InvalidArgument(f"messages[{index}].toolCalls need an id and a function", field=f"messages[{index}]")
    if text is None and not calls:
        return []
    said = _named(message, {"role": "assistant", "content": text})
    if not calls:
        return [said]
    answers = [_result(call["id"], results.pop(call["id"], None), index) for call in calls]
    return [{**said, "tool_calls": calls}, *answers]


def _result(call_id: str, message: Json | None, index: int) -> Json:
    if message is None:
        content: str | list[Json] = "There is no result."
    else:
        content = _content(message.get("content"), index) or str(message.get("error") or "")
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def _content(content: object, index: int) -> str | list[Json]:
    if content is None or isinstance(content, str):
        return content or ""
    parts = [as_object(part) for part in as_list(content)]
    if not parts:
        raise InvalidArgument(f"messages[{index}].content is neither a text nor parts", field=f"messages[{index}]")
    if all(part.get("type") == "text" for part in parts):
        return "".join(str(part.get("text") or "") for part in parts)
    return [_part(part, index) for part in parts]


def _part(part: Json, index: int) -> Json:
    kind = str(part.get("type"))
    if kind == "text":
        return {"type": "text", "text": str(part.get("text") or "")}
    if kind == "binary":  # before 1.0
        how = next((name for name in ("data", "url") if part.get(name)), "id")
        kind = str(part.get("mimeType")).partition("/")[0]
        return _media(kind, how, part.get(how), part.get("mimeType"), part)
    source = as_object(part.get("source"))
    if kind not in _MEDIA or not source:
        raise InvalidArgument(f"messages[{index}] has a part of the unknown type {kind!r}", field=f"messages[{index}]")
    return _media(kind, source.get("type"), source.get("value"), source.get("mimeType"), part)


def _media(kind: str, how: object, value: object, media_type: object, part: Json) -> Json:
    if how in ("file", "id"):
        return {"type": "file", "file": {"file_id": value}}
    if kind == "audio" and how == "data":
        return {"type": "input_audio", "input_audio": {"data": value, "format": str(media_type).partition("/")[2]}}
    url = f"data:{media_type};base64,{value}" if how == "data" else value
    if kind == "image":
        return {"type": "image_url", "image_url": {"url": url}}
    name = part.get("filename") or as_object(part.get("metadata")).get("filename") or "file"
    return {"type": "file", "file": {"file_data": url, "filename": name}}
