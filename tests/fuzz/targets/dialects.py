"""The routes of the dialects: bodies, queries and headers that are nearly right, and such as are not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from typing import Any
from urllib.parse import quote

import httpx2
from hypothesis import strategies as st

from tests.fuzz.inputs import json_values
from tests.fuzz.target import Target
from tests.fuzz.targets.sockets import address

Path = tuple[Any, ...]

AG_UI: dict[str, Any] = {
    "threadId": "c", "runId": "r", "protocolVersion": "1.0", "forwardedProps": {"model": "m"}, "resume": [],
    "messages": [
        {"id": "u", "role": "user", "content": [{"type": "image", "source": {"type": "url", "value": "u"}}]},
        {"id": "a", "role": "assistant", "toolCalls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]},
        {"id": "t", "role": "tool", "toolCallId": "c", "content": "42"},
    ],
}  # fmt: skip
PART = {"type": "tool-x", "toolCallId": "k", "state": "approval-responded", "approval": {}, "input": {"a": 1}}
AI_SDK: dict[str, Any] = {
    "id": "c", "trigger": "submit-message", "messageId": "a", "model": "m",
    "metadata": {"extra": {"langgraph": {"since": 1, "base": 1, "thread": {"a": 1}, "modes": ["values"]}}},
    "messages": [
        {"id": "u", "role": "user", "parts": [{"type": "file", "mediaType": "image/png", "url": "data:x"}]},
        {"id": "a", "role": "assistant", "parts": [PART]},
    ],
}  # fmt: skip
LANGGRAPH: dict[str, Any] = {
    "assistant_id": "agent", "if_not_exists": "create", "stream_mode": ["values"], "multitask_strategy": "enqueue",
    "config": {"configurable": {"model": "m"}}, "context": {"model": "m"}, "metadata": {"a": 1}, "command": None,
    "on_disconnect": "cancel", "checkpoint_id": None, "checkpoint": {"checkpoint_id": None},
    "input": {"messages": [
        {"role": "user", "content": [{"type": "file", "data": "x", "metadata": {"filename": "f"}}]},
        {"type": "ai", "content": "x", "id": "1", "tool_calls": [{"id": "c", "name": "f", "args": {}}]},
        {"type": "tool", "tool_call_id": "c", "content": "y"}]},
}  # fmt: skip
LIBRECHAT = {
    "text": "hi", "messageId": "m", "parentMessageId": "p", "responseMessageId": "r", "conversationId": "c",
    "clientRequestId": "k", "endpoint": "e", "endpointOption": {"model": "m"},
}  # fmt: skip
STATE = {"values": {"messages": "x"}, "checkpoint": {"checkpoint_id": "x"}}

BODIES: list[tuple[str, str, Any]] = [
    ("POST", "/api/chat", AI_SDK), ("POST", "/api/chat/c/stop", {"activeStreamId": "x"}),
    ("POST", "/ag-ui", AG_UI), ("POST", "/ag-ui/connect", AG_UI), ("POST", "/ag-ui/stop", {"threadId": "c"}),
    *(("POST", "/copilotkit", {"method": f"agent/{verb}", "params": {"threadId": "c"}, "body": AG_UI})
      for verb in ("run", "connect", "stop")),
    ("POST", "/copilotkit/agent/x/run", AG_UI), ("POST", "/copilotkit/agent/x/connect", AG_UI),
    ("POST", "/copilotkit/agent/x/stop/c", {"runId": "r"}),
    ("POST", "/threads", {"thread_id": "c", "metadata": {"a": 1}, "if_exists": "do_nothing"}),
    ("POST", "/threads/search", {"ids": ["c"], "metadata": {"a": 1}, "limit": 3, "sort_by": "created_at"}),
    ("PATCH", "/threads/c", {"metadata": {"a": 1}}), ("POST", "/threads/c/state", STATE),
    ("POST", "/threads/c/history", {"limit": 3, "before": {"configurable": {"checkpoint_id": "x"}}}),
    ("POST", "/threads/c/state/checkpoint", STATE), ("POST", "/runs/wait", LANGGRAPH),
    ("POST", "/threads/c/runs/stream", LANGGRAPH), ("POST", "/threads/c/runs", LANGGRAPH),
    ("POST", "/api/agents/chat", LIBRECHAT), ("POST", "/api/agents/chat/abort", {"abortKey": "c:m"}),
]  # fmt: skip
PLACES = [
    "/api/chat/c/stream?startIndex=", "/api/chat/run:1:c/stream?startIndex=", "/api/chat/", "/threads/c/runs?limit=",
    "/threads/c/history?before=", "/threads/c/state/", "/threads/c/runs/", "/threads/",
    "/threads/c/stream?stream_mode=", "/api/agents/chat/stream/", "/api/agents/chat/stream/c?resume=",
    "/api/agents/chat/status/",
]  # fmt: skip

_words = st.sampled_from(
    ["c", "human", "tool", "text", "new", "\0", "9" * 25, "9" * 5000, "-1", "ü", "run:1:c", "true"]
)
_junk = json_values | _words | st.sampled_from([[], {}, [[]], 1e300, -1, {"type": "text"}, {"messages": [{}]}])


def _paths(value: Any, path: Path = ()) -> Iterator[Path]:
    yield path
    if isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _paths(inner, (*path, name))


@st.composite
def _requests(draw: st.DrawFn) -> tuple[str, str, Any, str]:
    """A method, an address, a body, and a Last-Event-ID."""
    last = draw(st.sampled_from(["", "-1", "3", "x", "9" * 5000]))
    if draw(st.booleans()):
        return "GET", draw(st.sampled_from(PLACES)) + quote(draw(_words | st.text(max_size=6)), safe=""), None, last
    method, address, body = deepcopy(draw(st.sampled_from(BODIES)))
    for _ in range(draw(st.integers(0, 3))):
        path = draw(st.sampled_from(list(_paths(body))))
        if not path:
            return method, address, draw(_junk), last
        inside = body
        for name in path[:-1]:
            inside = inside[name]
        inside[path[-1]] = deepcopy(draw(_junk))
    return method, address, body, last


@cache
def _client() -> httpx2.Client:
    host, port = address()
    return httpx2.Client(base_url=f"http://{host}:{port}", timeout=20)


def check_request(request: tuple[str, str, Any, str]) -> None:
    """No 5xx, and what is refused says why."""
    method, path, body, last = request
    content = b"" if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json", "last-event-id": last}
    answer = _client().request(method, path, content=content, headers=headers)
    assert answer.status_code < 500, answer.text
    if answer.status_code in (400, 409, 422):
        told = answer.json()
        assert told.get("detail") or told.get("message"), told


DIALECTS = Target(
    name="dialects",
    claim="whatever is sent to a route of a dialect, it is not the server that fails",
    inputs=_requests(),
    check=check_request,
    found=[
        ("POST", "/ag-ui", AG_UI | {"messages": [{"role": "tool", "toolCallId": [], "content": ""}]}, ""),
        ("POST", "/ag-ui", AG_UI | {"messages": [{"role": "assistant", "toolCalls": [{"id": {}}]}]}, ""),
        ("POST", "/api/agents/chat", LIBRECHAT | {"endpointOption": ["x"]}, ""),
        ("POST", "/api/agents/chat", LIBRECHAT, ""),
        ("GET", "/api/agents/chat/stream/c", None, "9" * 5000),
        ("POST", "/api/chat", AI_SDK | {"id": "s", "metadata": {"extra": {"langgraph": {"since": 1e300}}}}, ""),
        ("GET", "/threads/s", None, ""),
        ("POST", "/api/chat", AI_SDK | {"messages": [AI_SDK["messages"][1] | {"parts": [PART | {"state": []}]}]}, ""),
    ],
)

TARGETS = [DIALECTS]
