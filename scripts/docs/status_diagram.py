"""The status diagram, as SVG, drawn from the table `TRANSITIONS` of `jobs.py`: a change there is a change here.

What every active status has in common is drawn once, from the box around them; what only one of them has, from itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Final

from unspool.jobs import TRANSITIONS, Status, Trigger

Table = Mapping[tuple[Status, Trigger], Status]

_WIDTH: Final = 720
_BOX: Final = (156, 40)  # of one status
_ROW: Final = 62  # from one settled status to the next
_LEFT: Final = 92  # of the active ones
_RIGHT: Final = 536  # of the settled ones
_PAD: Final = 28  # between the active ones and the box around them
_TOP: Final = 16
_STYLE: Final = """
    svg:root { color: #24292f } @media (prefers-color-scheme: dark) { svg:root { color: #d0d7de } }
    .status-diagram { font: 15px system-ui, sans-serif }
    .status-diagram text { fill: currentColor; dominant-baseline: central; text-anchor: middle }
    .status-diagram .trigger { font-size: 13px; opacity: .75 }
    .status-diagram .status { fill: currentColor; fill-opacity: .06; stroke: currentColor; stroke-opacity: .55 }
    .status-diagram .settled { stroke-width: 2.5 }
    .status-diagram .active { fill: none; stroke: currentColor; stroke-opacity: .45; stroke-dasharray: 5 4 }
    .status-diagram .arrow { fill: none; stroke: currentColor; stroke-opacity: .75; stroke-width: 1.4 }
    .status-diagram .head, .status-diagram .start { fill: currentColor; fill-opacity: .75 }
"""


def status_diagram(table: Table = TRANSITIONS) -> str:
    """The whole picture. Raises ValueError for a table that has no place in it."""
    active = [status for status in Status if any(source is status for source, _ in table)]
    settled = [status for status in Status if status not in active]
    height = 2 * _TOP + _ROW * max(len(settled), 2 * len(active)) - (_ROW - _BOX[1])
    middles = {status: _TOP + _BOX[1] / 2 + _ROW * place for place, status in enumerate(settled)}
    space = (height - 2 * _TOP) / len(active)
    middles |= {status: _TOP + space * (place + 0.5) for place, status in enumerate(active)}

    group = (_LEFT - _PAD, _TOP, _BOX[0] + 2 * _PAD, height - 2 * _TOP)
    body = [f'<rect class="active" x="{group[0]}" y="{group[1]}" width="{group[2]}" height="{group[3]}" rx="12"/>']
    body += _begin(middles[active[0]])
    body += [_status(status, _LEFT, middles[status], settled=False) for status in active]
    body += [_status(status, _RIGHT, middles[status], settled=True) for status in settled]
    for (source, trigger), target in table.items():
        if target in active:
            body += _between(trigger, active, middles, source, target)
    for trigger, target in dict.fromkeys((trigger, target) for (_, trigger), target in table.items()):
        if target in active:
            continue
        sources = [status for status in active if table.get((status, trigger)) is target]
        if sources == active:
            body += _arrow(group[0] + group[2], middles[target], _RIGHT, middles[target], trigger)
        else:
            for source in sources:
                body += _arrow(_LEFT + _BOX[0], middles[source], _RIGHT, middles[target], trigger)
    said = "; ".join(f"{source} becomes {target} when {trigger}" for (source, trigger), target in table.items())
    head = f'class="status-diagram" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:g}" role="img"'
    return "\n".join(
        [
            f'<svg {head} aria-label="The status of a generation">',
            f"<title>The status of a generation</title><desc>{escape(said)}</desc>",
            f"<style>{_STYLE}</style>",
            *body,
            "</svg>",
        ]
    )


def _status(status: Status, left: float, middle: float, *, settled: bool) -> str:
    kind = "status settled" if settled else "status"
    return (
        f'<rect class="{kind}" x="{left:g}" y="{middle - _BOX[1] / 2:g}" width="{_BOX[0]}" height="{_BOX[1]}" rx="8"/>'
        f'<text x="{left + _BOX[0] / 2:g}" y="{middle:g}">{escape(status)}</text>'
    )


def _begin(middle: float) -> list[str]:
    return [
        f'<circle class="start" cx="18" cy="{middle:g}" r="6"/>',
        *_line(24, middle, _LEFT, middle),
    ]


def _between(
    trigger: Trigger, active: list[Status], middles: Mapping[Status, float], source: Status, target: Status
) -> list[str]:
    """An arrow from one active status to the one above or below it: down on the left, up on the right."""
    step = active.index(target) - active.index(source)
    if abs(step) != 1:
        raise ValueError(f"the diagram has no place for {source} → {target}: they are not neighbours")
    x = _LEFT + _BOX[0] / 2 - 34 * step
    begin, end = middles[source] + step * _BOX[1] / 2, middles[target] - step * _BOX[1] / 2
    return [
        *_line(x, begin, x, end),
        f'<text class="trigger" x="{x - 32 * step:g}" y="{(begin + end) / 2:g}">{escape(trigger)}</text>',
    ]


def _arrow(left: float, begin: float, right: float, end: float, trigger: Trigger) -> list[str]:
    return [
        *_line(left, begin, right, end),
        f'<text class="trigger" x="{(left + right) / 2:g}" y="{(begin + end) / 2 - 11:g}">{escape(trigger)}</text>',
    ]


def _line(x1: float, y1: float, x2: float, y2: float) -> list[str]:
    """A straight line with a head at its end; no markers, whose ids would meet those of another picture on a page."""
    length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
    dx, dy = (x2 - x1) / length, (y2 - y1) / length
    bx, by = x2 - 9 * dx, y2 - 9 * dy
    corners = f"{x2:g},{y2:g} {bx - 4 * dy:g},{by + 4 * dx:g} {bx + 4 * dy:g},{by - 4 * dx:g}"
    return [
        f'<path class="arrow" d="M{x1:g} {y1:g} L{bx:g} {by:g}"/>',
        f'<polygon class="head" points="{corners}"/>',
    ]
