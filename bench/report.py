"""The table: what everybody took, how that compares with ours, and whether our budgets hold."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from typing import Any

from bench.cases import Case, Results
from bench.peers import OURS

Row = dict[str, Any]


def rows(cases: Sequence[Case], results: Results) -> list[Row]:
    """One row per case, metric and participant. `ratio`: its figure over ours, the median of the rounds."""
    found: list[Row] = []
    for case in cases:
        for peer in case.peers:
            for metric in case.metrics:
                values = results.values(case.key, peer.name, metric.name)
                row: Row = {
                    "workload": case.key,
                    "metric": metric.name,
                    "who": peer.name,
                    "unit": metric.unit,
                    "better": metric.better,
                    "median": results.median(case.key, peer.name, metric.name),
                    "best": metric.best(values) if values else None,
                    "rounds": values,
                    "ratio": results.ratio(case.key, peer.name, OURS.name, metric.name) if metric.better else None,
                    "note": results.notes.get((case.key, peer.name)),
                    "budgets": [],
                }
                if peer is OURS:
                    row["budgets"] = [
                        {"budget": budget.text, "holds": budget.holds(results, case)}
                        for budget in case.budgets
                        if budget.metric == metric.name
                    ]
                found.append(row)
    return found


def document(cases: Sequence[Case], results: Results, *, rounds: int, quick: bool, seconds: float) -> Row:
    """Everything, for machines: what `compare` reads."""
    return {
        "machine": {
            "cores": os.cpu_count(), "system": f"{platform.system()} {platform.release()}",
            "python": platform.python_version(),
        },
        "rounds": rounds,
        "quick": quick,
        "seconds": round(seconds, 1),
        "titles": {case.key: case.title for case in cases},
        "rows": rows(cases, results),
    }  # fmt: skip


def figure(value: float | None) -> str:
    """Three digits that tell something."""
    if value is None:
        return "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}" if abs(value) >= 0.01 else f"{value:.1g}"


def _cell(row: Row) -> str:
    if row["median"] is None:
        return "–"
    text = figure(row["median"])
    if len(row["rounds"]) > 1 and row["better"]:
        text += f" ({figure(row['best'])})"
    if row["ratio"] is not None:
        text += f" {row['ratio']:.2f}×"
    return text


def _verdicts(found: Sequence[Row]) -> list[str]:
    words = {True: "holds", False: "MISSED", None: "not judged"}
    return [
        f"{row['metric']} {judged['budget']}: {figure(row['median'])}, {words[judged['holds']]}"
        for row in found
        for judged in row["budgets"]
    ]


def _table(found: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    metrics = list(dict.fromkeys((row["metric"], row["unit"]) for row in found))
    head = ["", *(f"{name}, {unit}" if unit else name for name, unit in metrics)]
    body: list[list[str]] = []
    for who in dict.fromkeys(row["who"] for row in found):
        mine = [row for row in found if row["who"] == who]
        cells = [_cell(row) for row in mine]
        if mine[0]["note"]:
            cells[-1 if mine[0]["median"] is not None else 0] = mine[0]["note"]
        body.append([who, *cells])
    return head, body


def _by_case(report: Row) -> list[tuple[str, list[Row]]]:
    found = report["rows"]
    return [(key, [row for row in found if row["workload"] == key]) for key in report["titles"]]


_LEGEND = "median (best) of the rounds; N×: its figure over unspool's, the median of the ratios within the rounds."


def text(report: Row) -> str:
    """For a terminal."""
    lines = [_LEGEND]
    for key, found in _by_case(report):
        head, body = _table(found)
        widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
        lines += ["", f"{key}: {report['titles'][key]}"]
        lines += [_aligned(line, widths) for line in [head, *body]]
        lines += [f"  budget: {verdict}" for verdict in _verdicts(found)]
    return "\n".join([*lines, "", _summary(report)])


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (f"{cell:{width}}" if i == 0 else f"{cell:>{width}}" for i, (cell, width) in enumerate(zip(line, widths, strict=True)))  # fmt: skip # noqa: E501
    return "  ".join([f"  {first}", *others]).rstrip()


def markdown(report: Row) -> str:
    """For the documentation."""
    lines = [_summary(report), "", f"Cells: {_LEGEND}"]
    for key, found in _by_case(report):
        head, body = _table(found)
        lines += ["", f"### {key}", "", f"{report['titles'][key][:1].upper()}{report['titles'][key][1:]}.", ""]
        lines += [f"| {' | '.join(head)} |", f"|---{'|---:' * (len(head) - 1)}|"]
        lines += [f"| {' | '.join(line)} |" for line in body]
        verdicts = _verdicts(found)
        lines += ["", *(f"- {verdict}" for verdict in verdicts)] if verdicts else []
    return "\n".join(lines)


def _summary(report: Row) -> str:
    machine = report["machine"]
    kind = "A quick run, for a smoke: its figures mean little." if report["quick"] else f"{report['rounds']} rounds."
    return (
        f"{kind} {machine['cores']} cores, {machine['system']}, Python {machine['python']}; "
        f"{report['seconds']:.0f} seconds."
    )
