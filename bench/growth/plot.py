"""A small SVG writer: lines on two logarithmic axes, in colours that can be read on white and on black."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

_WIDTH: Final = 760
_HEIGHT: Final = 400
_LEFT, _RIGHT, _BOTTOM = 74, 24, 54
_ROW: Final = 19  # of the legend
_COLOURS: Final = {"teal": ("#0f766e", "#2dd4bf"), "amber": ("#b45309", "#fbbf24"), "grey": ("#57606a", "#9aa4af"), "blue": ("#1d4ed8", "#7dabff")}  # fmt: skip # noqa: E501

# Alone, a picture follows the system; inside a page of the documentation it follows the page's choice.
_STYLE: Final = """
.growth {{ {light} }}
[data-md-color-scheme="slate"] .growth {{ {dark} }}
svg:root.growth {{ color: #24292f }}
@media (prefers-color-scheme: dark) {{ svg:root.growth {{ color: #d0d7de; {dark} }} }}
.growth {{ font: 13px system-ui, sans-serif; max-width: 46rem }}
.growth text {{ fill: currentColor; stroke: none }}
.growth .title {{ font-size: 16px; font-weight: 600 }}
.growth .soft {{ opacity: .75 }}
.growth .grid {{ stroke: currentColor; stroke-opacity: .22; fill: none }}
.growth .fine {{ stroke-opacity: .07 }}
.growth .line {{ fill: none; stroke-width: 2; stroke-linejoin: round }}
.growth .dashed {{ stroke-dasharray: 7 4 }}
{classes}
"""


@dataclass(frozen=True, slots=True)
class Series:
    """Points with x and y above zero. `dashed` tells lines of one colour apart, by their marks as well."""

    name: str
    values: Sequence[tuple[float, float]]
    colour: str
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class _Axis:
    """From a value to its place, logarithmic."""

    least: float
    most: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = math.log(value / self.least) / math.log(self.most / self.least)
        return self.start + share * (self.end - self.start)


def style(dark: bool) -> str:
    """The colours as custom properties."""
    return "; ".join(f"--{name}: {pair[dark]}" for name, pair in _COLOURS.items())


def draw(title: str, x_label: str, y_label: str, series: Sequence[Series]) -> str:
    """The picture. Raises ValueError when there is nothing to draw."""
    xs = [x for one in series for x, _ in one.values]
    ys = [y for one in series for _, y in one.values if y > 0]
    if not xs or not ys:
        raise ValueError(f"nothing to draw: {title}")
    low, high = min(xs), max(xs)
    margin = (high / low) ** 0.04 if high > low else 2.0
    rows = 0 if len(series) == 1 else (len(series) + 1) // 2
    top = 46 + _ROW * rows
    x = _Axis(low / margin, high * margin, _LEFT, _WIDTH - _RIGHT)
    y = _Axis(*_span(min(ys), max(ys)), _HEIGHT - _BOTTOM, top)
    label = f'aria-label="{escape(f"{title}, {y_label}, over {x_label}")}"'
    parts = [
        f'<svg class="growth" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" {label}>',
        f"<style>{_style()}</style>",
        f'<text class="title" x="{_LEFT}" y="24">{escape(title)}</text>',
        *_x_axis(x, sorted(set(xs)), x_label, top), *_y_axis(y, y_label), *(_legend(series) if rows else ()),
    ]  # fmt: skip
    for one in series:
        parts += _line(one, x, y)
    return "\n".join([*parts, "</svg>", ""])


def _style() -> str:
    names = "\n".join(f".growth .{name} {{ stroke: var(--{name}); fill: var(--{name}) }}" for name in _COLOURS)
    lines = "\n".join(f".growth .line.{name} {{ fill: none }}" for name in _COLOURS)
    return _STYLE.format(light=style(False), dark=style(True), classes=f"{names}\n{lines}")


def _span(low: float, high: float) -> tuple[float, float]:
    """At least a decade and a half, so that noise does not look like a mountain."""
    low, high = low / 1.4, high * 1.4
    missing = 10**1.5 / (high / low)
    return (low / math.sqrt(missing), high * math.sqrt(missing)) if missing > 1 else (low, high)


def ticks(least: float, most: float) -> list[tuple[float, bool]]:
    """The values that have a line, and whether they are named: 1, 2 and 5 of a decade; of many decades only 1."""
    many = math.log10(most / least) > 2.6
    found: list[tuple[float, bool]] = []
    for exponent in range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1):
        for digit in range(1, 10):
            value = digit * 10.0**exponent
            if least <= value <= most:
                found.append((value, digit == 1 or (not many and digit in (2, 5))))
    return found


def short(value: float) -> str:
    """1,000 as 1k: what an axis has room for."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _x_axis(x: _Axis, points: Sequence[float], label: str, top: int) -> list[str]:
    bottom = _HEIGHT - _BOTTOM
    parts = [f'<path class="grid" d="M{_LEFT} {bottom} H{_WIDTH - _RIGHT}"/>']
    for point in points:
        at = f"{x(point):.1f}"
        parts.append(f'<path class="grid" d="M{at} {top} V{bottom + 5}"/>')
        parts.append(f'<text x="{at}" y="{bottom + 21}" text-anchor="middle">{short(point)}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text class="soft" x="{middle}" y="{_HEIGHT - 12}" text-anchor="middle">{escape(label)}</text>')
    return parts


def _y_axis(y: _Axis, label: str) -> list[str]:
    parts: list[str] = []
    for value, named in ticks(y.least, y.most):
        at = f"{y(value):.1f}"
        parts.append(f'<path class="grid{"" if named else " fine"}" d="M{_LEFT} {at} H{_WIDTH - _RIGHT}"/>')
        if named:
            parts.append(
                f'<text x="{_LEFT - 10}" y="{at}" text-anchor="end" dominant-baseline="central">{short(value)}</text>'
            )
    middle = (y.start + y.end) / 2
    turned = f'transform="rotate(-90 20 {middle})"'
    return [*parts, f'<text class="soft" x="20" y="{middle}" text-anchor="middle" {turned}>{escape(label)}</text>']


def _legend(series: Sequence[Series]) -> list[str]:
    """Below the title, two in a row."""
    parts: list[str] = []
    for number, one in enumerate(series):
        at, row = _LEFT + number % 2 * 330, 46 + number // 2 * _ROW
        dashed = " dashed" if one.dashed else ""
        parts.append(f'<path class="line {one.colour}{dashed}" d="M{at} {row} h34"/>{_mark(one, at + 17, row)}')
        parts.append(f'<text x="{at + 42}" y="{row}" dominant-baseline="central">{escape(one.name)}</text>')
    return parts


def _line(one: Series, x: _Axis, y: _Axis) -> list[str]:
    places = [(x(at), y(value), at, value) for at, value in one.values if value > 0]
    path = " ".join(f"{'L' if number else 'M'}{left:.1f} {top:.1f}" for number, (left, top, _, _) in enumerate(places))
    marks = [
        f"<g><title>{escape(one.name)}: {short(at)}, {value:.3g}</title>{_mark(one, left, top)}</g>"
        for left, top, at, value in places
    ]
    return [f'<path class="line {one.colour}{" dashed" if one.dashed else ""}" d="{path}"/>', *marks]


def _mark(one: Series, left: float, top: float) -> str:
    if one.dashed:
        return f'<rect class="{one.colour}" x="{left - 3.5:.1f}" y="{top - 3.5:.1f}" width="7" height="7"/>'
    return f'<circle class="{one.colour}" cx="{left:.1f}" cy="{top:.1f}" r="4"/>'
