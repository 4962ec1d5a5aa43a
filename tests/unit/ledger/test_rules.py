"""The law of settlement is whole, and what is kept of a payload fits every engine."""

from __future__ import annotations

import itertools
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unspool.errors import InvalidArgument
from unspool.ledger import Usage
from unspool.ledger.rules import RULES, Source, Step, check_word, fingerprint, keepable, restored, stored


def test_every_report_in_every_state_has_its_rule() -> None:
    assert set(RULES) == set(itertools.product([None, *Source], Source))


def test_money_moves_on_the_first_report_and_on_the_truth_alone() -> None:
    moving = {pair for pair, step in RULES.items() if step in (Step.CHARGE, Step.TRUE_UP)}
    assert moving == {
        (None, Source.PROVIDER), (None, Source.ESTIMATE), (Source.ESTIMATE, Source.PROVIDER),
        (Source.VOID, Source.PROVIDER),
    }  # fmt: skip


def test_the_fingerprint_is_of_the_counts() -> None:
    one = Usage(input_tokens=1, output_tokens=2, raw={"id": 1})
    assert fingerprint(one) == fingerprint(Usage(input_tokens=1, output_tokens=2, source="estimate"))
    assert fingerprint(one) != fingerprint(Usage(input_tokens=2, output_tokens=1))
    assert restored(stored(one), "provider") == Usage(input_tokens=1, output_tokens=2)


@pytest.mark.parametrize(
    ("raw", "kept"),
    [
        (None, None),
        ({"a": float("nan")}, {"a": None}),
        ({"a": "x\x00y"}, {"a": "x\ufffdy"}),
        ({"a": object()}, {"unreadable": "dict"}),
        ({"a": "\ud800"}, {"unreadable": "dict"}),
        ({"a": 2**70}, {"a": 2**70}),
        ({"a": "x" * 20_000}, {"too_large": 20_008}),
    ],
)
def test_what_is_kept_of_a_payload(raw: Any, kept: Any) -> None:
    assert keepable(raw) == kept


@given(st.text())
def test_names_are_printable(text: str) -> None:
    if 1 <= len(text) <= 256 and text.isprintable():
        assert check_word("agent", text) == text
        assert "\x00" not in text
        text.encode()
    else:
        with pytest.raises(InvalidArgument):
            check_word("agent", text)


def test_usage_needs_nothing_and_the_ledger_names_its_extra() -> None:
    code = (
        "import sys\n"
        "sys.modules.update(sqlalchemy=None, genai_prices=None, alembic=None)\n"
        "from unspool.errors import ConfigurationError\n"
        "from unspool.ledger import Usage, normalise\n"
        "try:\n    from unspool.ledger import Ledger\n"
        "except ConfigurationError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "unspool[ledger]" in done.stdout
