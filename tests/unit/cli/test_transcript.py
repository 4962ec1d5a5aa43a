"""What people see of a stream."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from unspool.cli.output import seconds, visible
from unspool.cli.tail import describe_end
from unspool.cli.transcript import Transcript
from unspool.client import Received
from unspool.events import encode_data


def told(*events: tuple[str, dict[str, Any]], terminal: bool = False) -> str:
    """What is written for these events, in a pipe or on a terminal."""
    file = io.StringIO()
    console = Console(
        file=file, force_terminal=terminal, color_system="standard" if terminal else None, width=40, soft_wrap=True
    )
    transcript = Transcript(console)
    for offset, (kind, data) in enumerate(events, 1):
        transcript.show(Received(offset, kind, encode_data(data), generation=1))
    transcript.end_line()
    return file.getvalue()


def text(words: str, **marks: str) -> tuple[str, dict[str, Any]]:
    return "text.delta", {"text": words, "part_id": "1", **marks}


def test_text_comes_as_it_is() -> None:
    long = (
        "a line that is longer than the terminal is wide, which is not a reason to break it [bold]or to colour it[/] "
    )
    assert told(text(long), text("x  \n"), text("\ty")) == long + "x  \n\ty\n"


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_pieces_make_the_same_text_on_a_terminal(size: int) -> None:
    whole = "Rivers  run,\n\n  to the sea. [1] :smile: 日本語 🧵 https://example.com/x_y\n"
    pieces = [text(whole[at : at + size]) for at in range(0, len(whole), size)]
    assert told(*pieces, terminal=True) == whole


def test_reasoning_is_dim_and_apart() -> None:
    shown = told(("reasoning.delta", {"text": "hm", "part_id": "r"}), text("yes"), terminal=True)
    assert shown.startswith("\x1b[2;3mhm\x1b[0m\n")
    assert shown.endswith("yes\n")


def test_tools_are_lines() -> None:
    shown = told(
        text("Let me look."),
        ("tool.call", {"call_id": "c", "name": "search", "arguments": {"q": "rivers"}}),
        ("tool.result", {"call_id": "c", "output": "three\nrivers " + "x" * 500}),
        ("tool.call", {"call_id": "d", "name": "sum"}),
        ("tool.args.delta", {"call_id": "d", "text": '{"a":'}),
        ("tool.args.delta", {"call_id": "d", "text": " 1}"}),
        ("tool.error", {"call_id": "d", "message": "no"}),
        text("So."),
    )
    lines = shown.splitlines()
    assert lines[:2] == ["Let me look.", '→ search {"q": "rivers"} ']
    assert lines[2].startswith("← search three rivers xxx")
    assert len(lines[2]) == 200
    assert lines[3:] == ['→ sum {"a": 1}', "✗ sum no", "So."]


def test_a_log_in_prompt_keeps_its_whole_url() -> None:
    url = "https://login.example/" + "x" * 300
    assert url in told(("tool.auth", {"call_id": "c", "url": url}))


def test_agents_and_parts_are_told_apart() -> None:
    shown = told(text("a", agent="one"), text("b", agent="two"), text("c", agent="two"), text("d", part_id="2"))
    assert shown == "one: a\ntwo: bc\nd\n"


def test_what_a_model_writes_cannot_command_the_terminal() -> None:
    evil = "\x1b]0;renamed\x07\x1b[2Jgone\x9b1m\r\n"
    assert told(text(evil), terminal=True) == "␛]0;renamed␇␛[2Jgone�1m\n"
    assert told(text(evil)) == evil, "a pipe gets what there is"


def test_types_without_a_form_are_passed_over() -> None:
    assert told(("custom", {"name": "x"}), ("of.their.own", {}), ("step.started", {"id": "1"})) == ""


def test_a_snapshot_at_the_beginning_is_shown_whole() -> None:
    parts = [
        {"type": "user", "id": "m", "text": "steered"},
        {"type": "reasoning", "text": "hm"},
        {"type": "tool", "call_id": "c", "name": "search", "arguments": "{}", "status": "done", "output": "found"},
        {"type": "text", "part_id": "1", "text": "So."},
    ]
    state = {"user_message": {"text": "Why?"}, "content": parts, "text": "So."}
    shown = told(("sync", state), text(" There."))
    assert shown.splitlines() == ["> Why?", "> steered", "hm", "→ search {} ", "← search found", "So. There."]


def test_a_snapshot_in_the_middle_goes_on_where_the_text_stopped() -> None:
    state = {"content": [{"type": "text", "part_id": "1", "text": "Rivers run to"}], "text": "Rivers run to"}
    assert told(text("Rivers "), ("sync", state), text(" the sea.")) == "Rivers run to the sea.\n"


def test_a_snapshot_that_does_not_continue_the_text_is_shown_whole_and_says_so() -> None:
    state = {"content": [{"type": "text", "part_id": "1", "text": "Lakes"}], "text": "Lakes"}
    shown = told(text("Rivers "), ("sync", state))
    assert shown.splitlines()[0] == "Rivers "
    assert "from its beginning" in shown.splitlines()[1]
    assert shown.splitlines()[2] == "Lakes"


def test_the_end_counts_what_was_written() -> None:
    end = Received(9, "completed", b'{"finish_reason":"stop"}', generation=2)
    assert describe_end(end, [{"output_tokens": 3}, {"output_tokens": 4}, {}]) == "[2-9] completed · 7 tokens written"


def test_visible_keeps_lines_and_tabs() -> None:
    assert visible("a\tb\r\nc\x00\x7f") == "a\tb\nc␀�"


@pytest.mark.parametrize(("value", "shown"), [(0.04, "0.0 s"), (59.9, "59.9 s"), (200, "3 m 20 s"), (7500, "2 h 5 m")])
def test_durations_as_people_read_them(value: float, shown: str) -> None:
    assert seconds(value) == shown
