"""Live sources: whatever grows, and whenever it is read, the fold of what was told is what the source holds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unspool.content import fold
from unspool.errors import InvalidEvent
from unspool.events import Event, Record, check_event, encode_data
from unspool.sources import Sources

_words = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
_steps = st.lists(
    st.one_of(
        st.just(("read",)),
        st.tuples(st.sampled_from(["text", "reasoning", "tool", "none"])),
        st.tuples(st.just("grow"), st.integers(0, 9), _words.filter(bool)),
        st.tuples(st.just("rewrite"), st.integers(0, 9), _words),
        st.tuples(st.just("finish"), st.integers(0, 9), st.booleans()),
    ),
    max_size=40,
)


def _sources(parts: list[dict[str, Any] | None]) -> Sources:
    return Sources(parts=parts, call_id=lambda: "call")


@given(_steps)
def test_reading_at_any_moments_tells_the_whole(steps: list[tuple[Any, ...]]) -> None:
    parts: list[dict[str, Any] | None] = []
    sources = _sources(parts)
    told: list[Event] = []
    for step in [*steps, ("read",)]:
        target = parts[step[1] % len(parts)] if len(step) > 1 and parts else None
        match step:
            case ["read"]:
                told += sources.gained()
            case ["none"]:
                parts.append(None)
            case ["tool"]:
                parts.append(
                    {"type": "tool", "call_id": f"c{len(parts)}", "name": "t", "arguments": "", "status": "running"}
                )
            case [str(kind)]:
                parts.append({"type": kind, "part_id": f"live-{len(parts) + 1}", "text": ""})
            case ["grow", _, text] if target is not None:
                target["arguments" if target["type"] == "tool" else "text"] += text
            case ["rewrite", _, text] if target is not None and target["type"] == "tool":
                target["arguments"] = text or "{}"
            case ["finish", _, good] if target is not None and target.get("status") == "running":
                target |= {"status": "done", "output": 1} if good else {"status": "error", "error": "no"}
            case _:
                pass
    for event in told:
        check_event(event)
    seen = fold(Record(place, event.type, encode_data(event.data)) for place, event in enumerate(told, 1)).parts
    # A text part begins with its first character: until then there is nothing to tell.
    expected = [part for part in parts if part is not None and part.get("text") != ""]
    by_id = {part.get("part_id") or part["call_id"]: part for part in seen}
    assert by_id == {part.get("part_id") or part["call_id"]: part for part in expected}


def test_a_second_reading_of_the_same_tells_nothing() -> None:
    parts: list[dict[str, Any] | None] = [{"type": "text", "text": "a"}, {"type": "source", "url": "u"}, None]
    sources = _sources(parts)
    assert [event.type for event in sources.gained()] == ["text.delta", "source"]
    assert list(sources.gained()) == []


def test_what_was_refused_is_told_at_the_next_reading() -> None:
    """A reading stops at an event that no log may hold: that one was not told, and those before it were."""
    tool: dict[str, Any] = {"type": "tool", "call_id": "c", "name": "t", "arguments": '{"q":'}
    parts: list[dict[str, Any] | None] = [tool]
    usage: list[dict[str, Any]] = []
    sources = Sources(parts=parts, usage=usage, call_id=lambda: "minted")
    assert [event.type for event in sources.gained()] == ["tool.call"]
    tool |= {"arguments": '{"q":1}', "status": "done", "output": 1}
    parts += [{"type": "text", "text": "a"}, {"type": "source", "url": "u"}]
    usage.append({"call_id": "m"})
    told: list[str] = []
    for refused in ("tool.args.delta", "tool.result", "text.delta", "source", "usage", None):
        for event in sources.gained():
            if event.type == refused:
                break
            told.append(event.type)
    assert told == ["tool.args.delta", "tool.result", "text.delta", "source", "usage"]


def test_arguments_may_be_any_json_value() -> None:
    tool: dict[str, Any] = {"type": "tool", "call_id": "c", "name": "t", "arguments": {"q": 1}}
    sources = _sources([tool])
    assert [event.data["arguments"] for event in sources.gained()] == ['{"q":1}']
    tool["arguments"] = {"q": 2}
    assert [event.data["arguments"] for event in sources.gained()] == ['{"q":2}']


def test_an_unknown_part_is_refused_with_its_place_and_the_known_types() -> None:
    with pytest.raises(InvalidEvent, match=r"live part 1 is of type 'video': known are text, reasoning, tool"):
        list(_sources([None, {"type": "video"}]).gained())


def test_usage_entries_are_told_once_and_get_a_call_id_where_they_have_none() -> None:
    usage: list[dict[str, Any]] = [{"call_id": "mine", "input_tokens": 1}]
    sources = Sources(usage=usage, call_id=lambda: "minted")
    first = list(sources.gained())
    usage.append({"input_tokens": 2})
    assert [event.data["call_id"] for event in [*first, *sources.gained()]] == ["mine", "minted"]
    assert "call_id" not in usage[1]
