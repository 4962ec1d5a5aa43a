"""Two runs side by side: new over old, row by row."""

from __future__ import annotations

from typing import Final

from bench.report import Row, figure

MARK: Final = 0.10
"""A change beyond this share is marked."""


def compare(old: Row, new: Row) -> list[Row]:
    """A row for each figure that both runs have: `ratio` is new over old, `mark` is better, worse or empty."""
    before = {_key(row): row for row in old["rows"] if row["median"] is not None}
    found: list[Row] = []
    for row in new["rows"]:
        base = before.get(_key(row))
        if base is None or row["median"] is None:
            continue
        ratio = row["median"] / base["median"] if base["median"] else (1.0 if not row["median"] else float("inf"))
        found.append({**row, "old": base["median"], "new": row["median"], "ratio": ratio, "mark": _mark(row, ratio)})
    return found


def _key(row: Row) -> tuple[str, str, str]:
    return row["workload"], row["metric"], row["who"]


def _mark(row: Row, ratio: float) -> str:
    if row["better"] is None or abs(ratio - 1) <= MARK:
        return ""
    return "better" if (ratio < 1) is (row["better"] == "less") else "worse"


def text(rows: list[Row], old: Row, new: Row) -> str:
    """For a terminal. The floors tell how much the machine itself has changed."""
    if bool(old["quick"]) is not bool(new["quick"]):
        return "a quick run and a full one cannot be compared: their workloads differ in size"
    lines = [f"{'':18} {'':28} {'':24} {'old':>10} {'new':>10} {'new/old':>8}"]
    lines += [
        f"{row['workload']:18} {row['who']:28} {row['metric']:24} {figure(row['old']):>10} {figure(row['new']):>10} "
        f"{row['ratio']:8.2f} {row['mark']}".rstrip()
        for row in rows
    ]
    marked = [row for row in rows if row["mark"]]
    return "\n".join([*lines, f"{len(marked)} of {len(rows)} figures changed by more than {MARK:.0%}"])
