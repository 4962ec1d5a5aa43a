"""A checker for UI message streams, written from the AI SDK's schema and from what its clients do with each part."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

Json = dict[str, Any]

# `uiMessageChunkSchema` of `ai` 7: the fields that a type must have and may have, with what they are.
_ID = {"id": str}
_TOOL = {"toolCallId": str}
_META = {"providerMetadata": dict}
REQUIRED: dict[str, Json] = {
    "start": {}, "finish": {}, "start-step": {}, "finish-step": {}, "abort": {}, "error": {"errorText": str},
    "message-metadata": {"messageMetadata": dict},
    "text-start": _ID, "text-delta": {**_ID, "delta": str}, "text-end": _ID,
    "reasoning-start": _ID, "reasoning-delta": {**_ID, "delta": str}, "reasoning-end": _ID,
    "tool-input-start": {**_TOOL, "toolName": str}, "tool-input-delta": {**_TOOL, "inputTextDelta": str},
    "tool-input-available": {**_TOOL, "toolName": str, "input": object},
    "tool-input-error": {**_TOOL, "toolName": str, "input": object, "errorText": str},
    "tool-approval-request": {**_TOOL, "approvalId": str},
    "tool-approval-response": {"approvalId": str, "approved": bool},
    "tool-output-available": {**_TOOL, "output": object}, "tool-output-error": {**_TOOL, "errorText": str},
    "tool-output-denied": _TOOL,
    "source-url": {"sourceId": str, "url": str}, "source-document": {"sourceId": str, "mediaType": str, "title": str},
    "file": {"url": str, "mediaType": str},
}  # fmt: skip
OPTIONAL: dict[str, Json] = {
    "start": {"messageId": str, "messageMetadata": dict}, "finish": {"finishReason": str, "messageMetadata": dict},
    "abort": {"reason": str}, "text-start": _META, "reasoning-start": _META, "source-url": {"title": str},
    "tool-input-available": {"dynamic": bool},
}  # fmt: skip
REASONS = {"stop", "length", "content-filter", "tool-calls", "error", "other"}  # and `interrupted`, from 7.0.149 on


def parts_of(body: bytes) -> list[Json]:
    """The parts of a body; its frames are those of the protocol, and nothing else."""
    blocks = [block for block in body.decode().split("\n\n") if block]
    parts: list[Json] = []
    for block in blocks:
        assert block.startswith("data: "), block
        assert "\n" not in block
        assert "\r" not in block
        if block != "data: [DONE]":
            parts.append(json.loads(block[6:]))
    assert "data: [DONE]" not in blocks[:-1]
    return parts


class Checker:
    """What a client makes of a stream. Raises AssertionError for a part that it would fail on, or misunderstand."""

    def __init__(self, known: Sequence[str] = ()) -> None:
        """`known`: the calls without a result of the message that this goes on with."""
        self.text = ""
        self.reasoning = ""
        self.open: dict[str, str] = {}
        self.used: set[str] = set()
        self.tools = dict.fromkeys(known, "input")
        self.here = set(known)  # calls that began in this step
        self.approvals: dict[str, str] = {}
        self.finish: Json | None = None
        self.failed = False

    def all(self, parts: Sequence[Json]) -> Checker:
        assert parts[0]["type"] == "start"
        assert sum(part["type"] in {"start", "finish"} for part in parts) <= 2
        for part in parts:
            self.take(part)
        return self

    def take(self, part: Json) -> None:
        kind = part["type"]
        assert self.finish is None, "a part after the last one"
        if kind.startswith("data-"):
            assert set(part) <= {"type", "data", "id", "transient"}
            assert "data" in part
            assert isinstance(part.get("id", ""), str)
            assert part.get("transient") in {None, True}
            return
        known = {**REQUIRED[kind], **OPTIONAL.get(kind, {})}
        assert set(part) - {"type"} <= set(known), part
        assert all(field in part for field in REQUIRED[kind]), part
        assert all(isinstance(part[field], known[field]) for field in part if field != "type"), part
        assert not self.failed or kind == "finish", "nothing is read after an error"
        step = getattr(self, "_" + kind.split("-")[0])
        step(kind, part)

    def _start(self, kind: str, part: Json) -> None:
        if kind == "start-step":
            assert "input" not in self.tools.values()
            self.here.clear()

    def _finish(self, kind: str, part: Json) -> None:
        if kind == "finish":
            assert part["finishReason"] in REASONS
            assert not self.open
            self.finish = part

    def _text(self, kind: str, part: Json) -> None:
        self._grows(kind, part)
        self.text += part.get("delta", "")

    def _reasoning(self, kind: str, part: Json) -> None:
        self._grows(kind, part)
        self.reasoning += part.get("delta", "")

    def _grows(self, kind: str, part: Json) -> None:
        family, what = kind.split("-")
        if what == "start":
            assert part["id"] not in self.used, "some clients drop what is opened a second time"
            self.used.add(part["id"])
            self.open[part["id"]] = family
        else:
            assert self.open[part["id"]] == family
            if what == "end":
                del self.open[part["id"]]

    def _tool(self, kind: str, part: Json) -> None:
        call, what = part.get("toolCallId", ""), kind.removeprefix("tool-")
        if what == "input-start":
            assert call not in self.tools
            self.tools[call] = "input"
            self.here.add(call)
        elif what.startswith("input"):
            assert self.tools[call] == "input"
            assert call in self.here, "it would become another call"
            if what != "input-delta":
                self.tools[call] = "told"
        elif what == "approval-request":
            assert self.tools[call] == "told"
            self.approvals = {key: value for key, value in self.approvals.items() if value != call}
            self.approvals[part["approvalId"]] = call
        elif what == "approval-response":
            assert part["approvalId"] in self.approvals, "a client would fail"
        else:
            assert self.tools[call] in {"told", "done"} or what == "output-available"
            self.tools[call] = "denied" if what == "output-denied" else "done"

    def _source(self, kind: str, part: Json) -> None: ...

    def _file(self, kind: str, part: Json) -> None: ...

    def _abort(self, kind: str, part: Json) -> None: ...

    def _message(self, kind: str, part: Json) -> None: ...

    def _error(self, kind: str, part: Json) -> None:
        self.failed = True
