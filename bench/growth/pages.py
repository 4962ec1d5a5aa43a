"""What a run looks like: tables for a terminal and for the documentation, pictures, and the pages that hold them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.growth.curves import CURVES
from bench.growth.model import LIMIT, Curve, Measured, Plot, steps
from bench.growth.plot import Series, draw
from bench.harness import ROOT
from bench.report import figure
from bench.scaling import Units
from bench.scaling import markdown as scaling

GROWTH: Final = ROOT / "docs" / "growth.md"
SCALING: Final = ROOT / "docs" / "scaling.md"
PICTURES: Final = ROOT / "docs" / "growth"
_BLOCK: Final = re.compile(r"(<!-- growth:begin(?: (\S+))? -->\n).*?(<!-- growth:end -->)", re.DOTALL)
_RUN: Final = "run"


def measured(document: Mapping[str, Any]) -> list[tuple[Curve, Measured]]:
    """The curves of a run, in their order."""
    found = document["curves"]
    return [(curve, Measured.of(found[curve.key])) for curve in CURVES if curve.key in found]


def summary(document: Mapping[str, Any]) -> str:
    """Where, when and how long."""
    machine = document["machine"]
    kind = "**A quick run, a smoke: its figures mean little.**" if document["quick"] else "A full run."
    return (
        f"{kind} {machine['cores']} cores, {machine['system']}, Python {machine['python']}; "
        f"{document['seconds']:.0f} seconds."
    )


def table(curve: Curve, found: Measured) -> tuple[list[str], list[list[str]]]:
    """A row for each point of each line."""
    metrics = [metric for metric in curve.metrics if any(found.values(line.name, metric.name) for line in curve.lines)]
    several = len(curve.lines) > 1
    head = [curve.axis, *([""] if several else []), *(metric.label for metric in metrics)]
    rows: list[list[str]] = []
    for line in curve.lines:
        figures, notes = found.figures.get(line.name, {}), found.notes.get(line.name, {})
        for point in sorted({*figures, *notes}):
            cells = [_cell(figures.get(point, {}).get(metric.name)) for metric in metrics]
            if point in notes and point not in figures:
                cells[0] = f"failed: {notes[point]}"
            rows.append([f"{point:,}", *([line.name] if several else []), *cells])
    return head, rows


def _cell(value: float | None) -> str:
    return "" if value is None else figure(value)


def growing(curve: Curve, found: Measured) -> list[str]:
    """Where a cost per unit grows by more than it should. Only what is ours is judged."""
    told: list[str] = []
    for line in curve.lines:
        if line.name.startswith("bare"):
            continue
        for metric in curve.metrics:
            if metric.flat:
                told += [
                    f"{line.name}, {metric.name}: × {step.factor:.1f} from {step.start:,} to {step.end:,} "
                    f"{curve.axis} (slope {step.slope:.2f})"
                    for step in steps(found.values(line.name, metric.name), metric.least)
                    if step.grows
                ]
    return told


def text(document: Mapping[str, Any]) -> str:
    """For a terminal."""
    parts = [summary(document).replace("*", "")]
    for curve, found in measured(document):
        head, rows = table(curve, found)
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
        parts += ["", curve.title]
        parts += [
            "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in [head, *rows]
        ]
        parts += [f"  GROWS: {step}" for step in growing(curve, found)] or [f"  nothing grows by more than {LIMIT} ×"]
    if document["units"]:
        parts += ["", "Scaling", scaling(Units.of(document))]
    return "\n".join(parts)


def markdown(curve: Curve, found: Measured) -> str:
    """A curve's pictures, its table and what grows."""
    head, rows = table(curve, found)
    marks = ["---:", *(["---"] if len(curve.lines) > 1 else [])]
    marks += ["---:"] * (len(head) - len(marks))
    parts: list[str] = []
    for plot in curve.plots:
        if _series(plot, curve, found):
            parts += [f"![{plot.title}, over {curve.axis}](growth/{plot.name}.svg)", ""]
    parts += [
        f"| {' | '.join(head)} |",
        f"|{'|'.join(marks)}|",
        *(_row(row, named=len(curve.lines) > 1) for row in rows),
        "",
    ]
    told = growing(curve, found)
    if told:
        return "\n".join([*parts, "**Grows faster than it should:**", "", *(f"- {step}" for step in told)])
    return "\n".join([*parts, f"No cost per unit grows by more than {LIMIT} × from one decade to the next."])


def _row(cells: Sequence[str], *, named: bool) -> str:
    """The name of a line stays in one line."""
    place = 1 if named else len(cells)
    return f"| {' | '.join(cell.replace(' ', '&nbsp;') if n == place else cell for n, cell in enumerate(cells))} |"


def _series(plot: Plot, curve: Curve, found: Measured) -> list[Series]:
    drawn: list[Series] = []
    lines = [line.name for line in curve.lines if not plot.lines or line.name in plot.lines]
    for number, line in enumerate(lines):
        for place, metric in enumerate(plot.metrics):
            values = [(float(x), y) for x, y in found.values(line, metric) if y > 0]
            if values:
                colour, dashed = _look(line, number, place, len(plot.metrics), len(lines))
                name = _name(line, metric, len(plot.metrics), len(lines))
                drawn.append(Series(name, values, colour, dashed))
    return drawn


def _look(line: str, number: int, place: int, metrics: int, lines: int) -> tuple[str, bool]:
    """Ours is teal and the floor grey; what is paced, or the second metric, is dashed. One line: a colour a metric."""
    if lines == 1:
        return ("teal", "amber", "blue")[place], place > 0
    colour = "grey" if line.startswith("bare") else "teal"
    if metrics > 1:
        return (colour if not line.startswith("viewers") else ("teal", "amber")[place]), (
            bool(place) if not line.startswith("viewers") else bool(number)
        )
    return colour, line.endswith(" paced")


def _name(line: str, metric: str, metrics: int, lines: int) -> str:
    if metrics == 1:
        return line
    return metric if lines == 1 else f"{line}: {metric}"


def draw_pictures(document: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write every picture into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for curve, found in measured(document):
        for plot in curve.plots:
            series = _series(plot, curve, found)
            if series:
                path = folder / f"{plot.name}.svg"
                path.write_text(draw(plot.title, curve.axis, plot.unit, series))
                written.append(path)
    return written


def blocks(document: Mapping[str, Any]) -> dict[str, str]:
    """What stands in the pages, by the name of the block."""
    kind = "quick" if document["quick"] else "full"
    found = {_RUN: f"<!-- of a {kind} run: make growth ARGS='--docs' -->\n{summary(document)}"}
    found |= {curve.key: markdown(curve, figures) for curve, figures in measured(document)}
    if document["units"]:
        found["scaling"] = f"{found[_RUN]}\n\n{scaling(Units.of(document))}"
    return found


def rewritten(page: str, found: Mapping[str, str]) -> str:
    """A page with its generated blocks replaced; those that this run has nothing for stay as they are."""

    def block(match: re.Match[str]) -> str:
        name = match[2]
        return f"{match[1]}{found[name]}\n{match[3]}" if name in found else match[0]

    return _BLOCK.sub(block, page)


def write_docs(document: Mapping[str, Any], pages: Sequence[Path] = (GROWTH, SCALING)) -> None:
    """Refresh the documentation."""
    draw_pictures(document, PICTURES)
    found = blocks(document)
    for page in pages:
        page.write_text(rewritten(page.read_text(), found))
