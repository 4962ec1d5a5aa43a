"""Input and output items of the Responses API as messages of OpenAI's chat API, which is what runs get."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from unspool.errors import BadRequest
from unspool.http.dialects.responses.resource import PREFIX

Json = dict[str, Any]

_ROLES: Final = frozenset({"user", "assistant", "system", "developer"})
_TEXT: Final = frozenset({"input_text", "output_text", "text", "summary_text"})


def items_of(given: str | Sequence[Json] | None) -> list[Json]:
    """A request's input as a list of items, checked. Raises BadRequest, naming the one that is wrong."""
    if given is None:
        return []
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    return [_item(item, f"input[{place}]") for place, item in enumerate(given)]


def _item(item: Json, where: str) -> Json:
    kind = item.get("type") or ("message" if "role" in item else None)
    match kind:
        case "message":
            if str(item.get("role")) not in _ROLES:
                raise BadRequest(f"{where}.role must be one of {', '.join(sorted(_ROLES))}", field=f"{where}.role")
            return {**item, "type": "message", "content": _parts(item, where)}
        case "function_call" | "function_call_output":
            needed = ("call_id", "name", "arguments") if kind == "function_call" else ("call_id",)
            for field in needed:
                if not isinstance(item.get(field), str):
                    raise BadRequest(f"{where}.{field} must be a string", field=f"{where}.{field}")
            if not isinstance(item.get("output", ""), str | list):
                raise BadRequest(f"{where}.output must be a string or a list of parts", field=f"{where}.output")
        case "reasoning":
            pass
        case _:
            raise BadRequest(f"{where}: items of type {kind!r} are not taken here", field=where)
    return item


def _parts(item: Json, where: str) -> list[Json]:
    content, kind = item.get("content"), "output_text" if item["role"] == "assistant" else "input_text"
    if isinstance(content, str):
        return [{"type": kind, "text": content, **({"annotations": []} if kind == "output_text" else {})}]
    if not isinstance(content, list):
        raise BadRequest(f"{where}.content must be a string or a list of parts", field=f"{where}.content")
    for place, part in enumerate(content):  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        _content([part], f"{where}.content[{place}]")
    return content  # pyright: ignore[reportUnknownVariableType]


def to_chat(items: Sequence[Json]) -> list[Json]:
    """One conversation, oldest first. Each tool's output follows its call; reasoning is left out."""
    asked: dict[str, int] = {}  # ids come again in other turns: an output is that of the last call before it
    outputs: dict[int, Json] = {}
    for place, item in enumerate(items):
        if item["type"] == "function_call":
            asked[item["call_id"]] = place
        elif item["type"] == "function_call_output" and item["call_id"] in asked:
            outputs.setdefault(asked[item["call_id"]], item)
    chat: list[Json] = []
    calls: dict[int, Json] = {}
    told: set[str] = set()

    def turn() -> None:
        """End the turn that calls tools."""
        chat.extend(_output(outputs[place]) for place in calls if place in outputs)
        calls.clear()

    for place, item in enumerate(items):
        match item["type"]:
            case "message":
                turn()
                chat.append({"role": item["role"], "content": _content(item["content"], "content")})
            case "function_call" if item.get("status") != "incomplete":
                if not calls and not (chat and chat[-1]["role"] == "assistant"):
                    chat.append({"role": "assistant", "content": None})
                function = {"name": item["name"], "arguments": item["arguments"]}
                calls[place] = {"id": item["call_id"], "type": "function", "function": function}
                chat[-1]["tool_calls"] = list(calls.values())
                told.add(item["call_id"])
            case "function_call_output":
                turn()
                if item["call_id"] not in told:
                    chat.append(_output(item))
            case _:
                pass
    turn()
    return chat


def _output(item: Json) -> Json:
    output = item.get("output") or ""
    content = output if isinstance(output, str) else _content(output, "output")
    return {"role": "tool", "tool_call_id": item["call_id"], "content": content}


def _content(parts: Sequence[Any], where: str) -> str | list[Json]:
    """Parts of a message; one string where all are text. Raises BadRequest for a part that is none."""
    content = [_part(part, where) for part in parts]
    if all(part["type"] == "text" for part in content):
        return "".join(part["text"] for part in content)
    return content


def _part(part: Any, where: str) -> Json:
    match part:
        case {"type": str(kind), "text": str(text)} if kind in _TEXT:
            return {"type": "text", "text": text}
        case {"type": "refusal", "refusal": str(text)}:
            return {"type": "text", "text": text}
        case {"type": "input_image", "image_url": str(url)}:
            detail = {"detail": part["detail"]} if part.get("detail") else {}
            return {"type": "image_url", "image_url": {"url": url, **detail}}
        case {"type": "input_file"}:
            named = {name: part[name] for name in ("file_id", "file_data", "filename", "file_url") if part.get(name)}
            return {"type": "file", "file": named}
        case {"type": kind}:
            raise BadRequest(f"{where}: a part of type {kind!r} is not taken here, or lacks its content", field=where)
        case _:
            raise BadRequest(f"{where} must be an object with a type", field=where)


def chat_tools(tools: Sequence[Json]) -> list[Json]:
    """The function tools of a request in the shape of the chat API, as `Model.stream` takes them."""
    fields = ("name", "description", "parameters", "strict")
    return [
        {"type": "function", "function": {name: tool[name] for name in fields if tool.get(name) is not None}}
        for tool in tools
        if tool.get("type") == "function"
    ]


def numbered(items: Sequence[Json], response_id: str) -> list[Json]:
    """Items with ids, as they are listed."""
    return [
        {"id": f"{PREFIX[item['type']]}_{response_id.removeprefix('resp_')}_in_{place}", "status": "completed", **item}
        for place, item in enumerate(items)
    ]
