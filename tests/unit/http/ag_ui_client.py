"""What a client makes of AG-UI events: the reducer of `@ag-ui/client` (apply/default.ts), as far as messages go; and
whether they are valid."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from ag_ui.core import Event as AgUiEvent
from ag_ui_validate.pytest_plugin import validate_agui
from pydantic import TypeAdapter

Json = dict[str, Any]
HISTORY: Final[list[Json]] = [{"id": "u1", "role": "user", "content": "Hello"}]
PARSE: Final = TypeAdapter[Any](AgUiEvent)


def events_of(frames: bytes | Iterable[bytes]) -> list[Json]:
    """The events in these frames, which hold nothing but events and comments."""
    text = (frames if isinstance(frames, bytes) else b"".join(frames)).decode()
    return [json.loads(line.removeprefix("data: ")) for line in text.split("\n") if line.startswith("data: ")]


class Client:
    """`messages`: as a page shows them. `log`: all that was received."""

    def __init__(self, messages: Iterable[Json] = ()) -> None:
        self.messages: list[Json] = [dict(message) for message in messages]
        self.log: list[Json] = []

    def feed(self, events: Iterable[Json]) -> Client:
        for event in events:
            self.log.append(event)
            self._apply(event)
        return self

    @property
    def text(self) -> str:
        """What the assistant has said."""
        said = (one.get("content") or "" for one in self.messages if one["role"] == "assistant")
        return "".join(said)

    def _find(self, message_id: str) -> Json | None:
        return next((one for one in self.messages if one["id"] == message_id), None)

    def _owner(self, call_id: str) -> tuple[Json, Json] | None:
        for message in self.messages:
            for call in message.get("toolCalls", ()):
                if call["id"] == call_id:
                    return message, call
        return None

    def _apply(self, event: Json) -> None:
        match event["type"]:
            case "TEXT_MESSAGE_START" | "REASONING_MESSAGE_START":
                if self._find(event["messageId"]) is None:
                    message = {"id": event["messageId"], "role": event["role"], "content": ""}
                    self.messages.append(message | ({"name": event["name"]} if "name" in event else {}))
            case "TEXT_MESSAGE_CONTENT" | "REASONING_MESSAGE_CONTENT":
                found = self._find(event["messageId"])
                assert found is not None
                found["content"] += event["delta"]
            case "TOOL_CALL_START":
                self._call(event)
            case "TOOL_CALL_ARGS":
                owner = self._owner(event["toolCallId"])
                assert owner is not None
                owner[1]["function"]["arguments"] += event["delta"]
            case "TOOL_CALL_RESULT":
                self._result(event)
            case "MESSAGES_SNAPSHOT":
                self._snapshot([json.loads(json.dumps(one)) for one in event["messages"]])
            case _:
                pass

    def _call(self, event: Json) -> None:
        if self._owner(event["toolCallId"]) is not None:
            return
        parent: Json | None = self._find(event["parentMessageId"])
        if parent is None:
            parent = {"id": event["parentMessageId"], "role": "assistant"}
            self.messages.append(parent)
        function = {"name": event["toolCallName"], "arguments": ""}
        calls: list[Json] = parent.setdefault("toolCalls", [])
        calls.append({"id": event["toolCallId"], "type": "function", "function": function})

    def _result(self, event: Json) -> None:
        message = {key: event[key] for key in ("toolCallId", "content", "role", "metadata") if key in event}
        message["id"] = event["messageId"]
        owner = self._owner(event["toolCallId"])
        assert owner is not None
        at = self.messages.index(owner[0]) + 1
        while at < len(self.messages) and self.messages[at]["role"] == "tool":
            at += 1
        self.messages.insert(at, message)

    def _snapshot(self, told: list[Json]) -> None:
        ids = {one["id"]: one for one in told}
        reasoning = any(one["role"] == "reasoning" for one in told)
        kept = [one for one in self.messages if one["id"] in ids or (one["role"] == "reasoning" and not reasoning)]
        self.messages = [ids.get(one["id"], one) for one in kept]
        here = {one["id"] for one in self.messages}
        self.messages += [one for one in told if one["id"] not in here]


def check(events: list[Json]) -> None:
    """Valid, apart from arguments that the run itself said wrong, or not to their end."""
    for event in events:
        PARSE.validate_python(event)
    report = validate_agui(events)
    wrong = [one for one in report.diagnostics if one.severity == "error" and one.rule != "AGUI204"]
    assert not wrong, wrong
    said: dict[str, str] = {}
    for event in events:
        if event["type"] == "TOOL_CALL_ARGS":
            said[event["toolCallId"]] = said.get(event["toolCallId"], "") + event["delta"]
    if all(_whole(text) for text in said.values()):
        assert report.summary.errors == 0, report.diagnostics
    assert all(event["delta"] for event in events if "delta" in event)


def _whole(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
