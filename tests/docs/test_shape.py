"""What holds the samples' answers against real ones sees what differs, and nothing else."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.docs.blocks import blocks_of
from tests.docs.shape import mismatch, output_matches


@pytest.mark.parametrize(
    ("shown", "real"),
    [
        ({"a": 1, "b": "x"}, {"b": "y", "a": 2.5}),
        ({"a": [{"b": "…"}]}, {"a": [{"b": "x"}, {"c": 1}]}),
        ({"a": None}, {"a": "x"}),
        ({"a": 1, "…": "…"}, {"a": 1, "b": True}),
        ({"status": "complete"}, {"status": "complete"}),
    ],
)
def test_alike(shown: Any, real: Any) -> None:
    assert mismatch(shown, real) is None


@pytest.mark.parametrize(
    ("shown", "real", "why"),
    [
        ({"a": 1}, {"a": "1"}, "a is '1'"),
        ({"a": 1}, {"b": 1}, "a is missing"),
        ({"a": 1}, {"a": 1, "b": 1}, "has more: b"),
        ({"a": [{"b": 1}]}, {"a": [{"c": 1}]}, r"a\[0\]\.b is missing"),
        ({"a": [1]}, {"a": []}, "a should be"),
        ({"a": True}, {"a": 1}, "no|not a truth value"),
        ({"status": "complete"}, {"status": "aborted"}, "status is 'aborted'"),
    ],
)
def test_not_alike(shown: Any, real: Any, why: str) -> None:
    found = mismatch(shown, real)
    assert found is not None
    assert re.search(why, found), found


@pytest.mark.parametrize(
    ("shown", "real", "same"),
    [
        (["a 12 b"], "a   7 b\n", True),
        (["1.5 s", "…", "end"], "0.2 s\nx\ny\nend\n", True),
        (["…", "end"], "end\n", True),
        (['{"a":…}'], '{"a":[1,2]}\n', True),
        (["a"], "b\n", False),
        (["a"], "a\nb\n", False),
        (["a", "…", "c"], "a\nb\n", False),
    ],
)
def test_outputs(shown: list[str], real: str, same: bool) -> None:
    assert output_matches(shown, real) is same


def test_blocks_are_found_with_their_line_language_and_title() -> None:
    text = 'x\n\n```python title="a.py"\nprint()\n```\n\n```\nplain\n```\n'
    first, second = blocks_of("p.md", text)
    assert (first.line, first.language, first.title, first.text) == (3, "python", "a.py", "print()\n")
    assert (second.line, second.language, second.key) == (7, "", ("p.md", "plain"))
