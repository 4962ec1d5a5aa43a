"""Events: what a log may hold, and what it refuses with the field named."""

from __future__ import annotations

from typing import Any
from unittest.mock import AsyncMock

import pytest

from unspool.errors import InvalidEvent
from unspool.events import (
    EVENT_DEPTH,
    REQUIRED,
    TERMINAL,
    Event,
    Record,
    check_event,
    check_text,
    encode_bounded,
    encode_data,
)
from unspool.jobs import Metadata
from unspool.tasks import Tasks


@pytest.mark.parametrize(
    ("type", "data", "named"),
    [
        *((kind, {}, "reserved") for kind in sorted(TERMINAL)),
        ("sync", {}, "reserved"),
        ("open", {}, "reserved"),
        ("error", {}, "reserved"),
        ("", {}, "printable ASCII"),
        ("x" * 129, {}, "printable ASCII"),
        ("a\nb", {}, "printable ASCII"),
        ("é", {}, "printable ASCII"),
        (7, {}, "printable ASCII"),
        ([], {}, "printable ASCII"),
        ("custom", [], "object"),
        *((kind, {}, repr(fields[0])) for kind, fields in REQUIRED.items()),
        ("text.delta", {"text": 1}, "'text'"),
        ("text.delta", {"text": "x", "part_id": ["list"]}, "'part_id'"),
        ("file", {"part_id": {"a": 1}}, "'part_id'"),
        ("source", {"agent": ["x"]}, "'agent'"),
        ("tool.result", {"call_id": "t", "step": 1}, "'step'"),
        ("agent.update", {"agent": "x", "group": []}, "'group'"),
    ],
)
def test_what_is_refused_is_named(type: Any, data: Any, named: str) -> None:
    """An event that no fold could place, or that is the manager's own to write, never reaches a log."""
    with pytest.raises(InvalidEvent, match=named):
        check_event(Event(type, data))


@pytest.mark.parametrize(
    ("type", "data"),
    [
        ("my.own", {}),
        ("custom", {"name": "n", "value": [None, {"a": 1e300}]}),
        ("text.delta", {"text": "", "agent": None}),
        ("x" * 128, {}),
    ],
)
def test_what_is_allowed(type: str, data: dict[str, Any]) -> None:
    """Types of the application's own, empty text, marks that are None."""
    check_event(Event(type, data))


@pytest.mark.parametrize("data", [{"a": object()}, {"a": "\ud800"}, {"a": {1j}}])
def test_what_is_no_json_is_refused(data: Any) -> None:
    """Before it is queued, in the call that brought it."""
    with pytest.raises(InvalidEvent):
        encode_data(data)


def nested(levels: int) -> Any:
    """Arrays and objects by turns, with strings in them that look like more."""
    value: Any = None
    for level in range(levels):
        value = ["[[{", value, '"]'] if level % 2 else {'\\"{': value, "}": "\\"}
    return value


def test_what_is_nested_too_deeply_is_refused() -> None:
    """Exactly above the bound, whatever its strings hold, as deep as it may be written."""
    tasks = Tasks()
    tasks.register("job", AsyncMock())
    flat = ["[{" * EVENT_DEPTH, "]", {'"': "\\" * EVENT_DEPTH}, *([[]] * EVENT_DEPTH)]
    for data in (nested(EVENT_DEPTH), flat, [nested(EVENT_DEPTH - 1)] * 3):
        assert encode_bounded(data) == encode_data(data)
    for data in (nested(EVENT_DEPTH + 1), [nested(EVENT_DEPTH)], nested(900)):
        with pytest.raises(InvalidEvent, match="nested more than 256 levels"):
            encode_bounded(data)
        with pytest.raises(InvalidEvent):
            Metadata.of({"extra": {"x": data}})
        with pytest.raises(InvalidEvent):
            tasks.describe("job", {"x": data}, "fail")


@pytest.mark.parametrize("text", ["\ud800", "ok \udfff", 7, None, b"x"])
def test_text_that_no_wire_can_carry_is_refused(text: Any) -> None:
    """Lone surrogates, and what is no text."""
    with pytest.raises(InvalidEvent):
        check_text(text)


def test_a_records_data_is_a_fresh_copy() -> None:
    """Changing what one reader got changes nothing for the next."""
    record = Record(1, "custom", b'{"list":[]}')
    record.data["list"].append(1)
    assert record.data == {"list": []}
    assert record.event == Event("custom", {"list": []})
