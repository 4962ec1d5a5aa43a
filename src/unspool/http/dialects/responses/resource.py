"""The response object: what of a request it echoes, and how its items are named."""

from __future__ import annotations

from typing import Any, Final

Json = dict[str, Any]

PREFIX: Final = {"message": "msg", "reasoning": "rs", "function_call": "fc", "function_call_output": "fco"}
"""What the ids of items begin with, by their type."""

DEFAULTS: Final[Json] = {
    "background": False,
    "conversation": None,
    "frequency_penalty": 0.0,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "presence_penalty": 0.0,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": None,
    "safety_identifier": None,
    "service_tier": "default",
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
"""What a response says of its request where that did not say it."""


def echo(body: Json) -> Json:
    """The fields of a request that its response repeats, in the shape that it has there."""
    echoed: Json = {name: body[name] for name in ("model", *DEFAULTS) if body.get(name) is not None}
    if isinstance(echoed.get("conversation"), str):
        echoed["conversation"] = {"id": echoed["conversation"]}
    if "reasoning" in echoed:
        echoed["reasoning"] = {"effort": None, "summary": None, **echoed["reasoning"]}
    if "text" in echoed:
        echoed["text"] = {**DEFAULTS["text"], **echoed["text"]}
    if "tools" in echoed:
        echoed["tools"] = [_tool(tool) for tool in echoed["tools"]]
    return echoed


def _tool(tool: Json) -> Json:
    absent = {"description": None, "parameters": None, "strict": None}
    return {**absent, **tool} if tool.get("type") == "function" else tool
