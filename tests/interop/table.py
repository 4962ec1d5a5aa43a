"""The table of `make interop`: clients and protocols, what was tried with each, and how it went on each store."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

STORES: Final = ("memory", "redis")
_ID: Final = re.compile(r"(?:.*/)?test_(?P<module>\w+)\.py::(?:\w+::)*test_(?P<check>\w+)(?:\[(?P<parameters>.*)\])?$")
_WORDS: Final = {"passed": "ok", "skipped": "not run", "failed": "FAILED", "error": "FAILED"}


def cell(test: str) -> tuple[str, str, str] | None:
    """Where a test belongs: the module that names the client, the function that names the check, the store."""
    match = _ID.match(test)
    if match is None:
        return None
    parameters = (match["parameters"] or "").split("-")
    store = next((store for store in STORES if store in parameters), "")
    return match["module"].replace("_", " "), match["check"].replace("_", " "), store


def table(outcomes: Iterable[tuple[str, str]]) -> Iterator[str]:
    """The lines for these tests and their outcomes."""
    cells: dict[tuple[str, str], dict[str, Counter[str]]] = {}
    for test, outcome in outcomes:
        place = cell(test)
        if place is not None and outcome in _WORDS:
            counts = cells.setdefault(place[:2], {}).setdefault(place[2], Counter())
            counts[_WORDS[outcome]] += 1
    rows: list[tuple[str, ...]] = [("client", "check", *STORES, "without")]
    for (client, check), stores in sorted(cells.items()):
        rows.append((client, check, *(_said(stores.get(store)) for store in (*STORES, ""))))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()


def _said(counts: Counter[str] | None) -> str:
    if not counts:
        return ""
    return ", ".join(word if count == 1 else f"{count} {word}" for word, count in sorted(counts.items()))
