"""Whether an answer looks as the documentation says: the same fields of the same types, lines that match."""

from __future__ import annotations

import re
from typing import Any, Final

ELLIPSIS: Final = "…"
EXACT: Final = frozenset({"code", "decision", "generation", "outcome", "status", "store", "type"})
"""Fields whose value must be the very one that is shown."""

_NUMBER: Final = re.compile(r"\d[\d,.]*")


def mismatch(shown: Any, real: Any, where: str = "") -> str | None:
    """What differs in shape, or None. `"…": "…"` in an object stands for further fields, "…" for any string."""
    if shown is None or real is None:
        return None
    if isinstance(shown, dict):
        if not isinstance(real, dict):
            return f"{where or 'the body'} is no object but {real!r}"
        return _fields(shown, real, where)
    if isinstance(shown, list):
        if not isinstance(real, list):
            return f"{where} is no list but {real!r}"
        if bool(shown) != bool(real):
            return f"{where} should be {shown!r}, and is {real!r}"
        return mismatch(shown[0], real[0], f"{where}[0]") if shown else None
    if isinstance(shown, bool) or isinstance(real, bool):
        return None if type(shown) is type(real) else f"{where} is {real!r}, not a truth value as {shown!r}"
    if isinstance(shown, int | float) and isinstance(real, int | float):
        return None
    return None if type(shown) is type(real) else f"{where} is {real!r}, and not of the type of {shown!r}"


def _fields(shown: dict[str, Any], real: dict[str, Any], where: str) -> str | None:
    more = ELLIPSIS in shown
    for name, value in shown.items():
        path = f"{where}.{name}".lstrip(".")
        if name == ELLIPSIS:
            continue
        if name not in real:
            return f"{path} is missing; there are {', '.join(real)}"
        if name in EXACT and value != real[name]:
            return f"{path} is {real[name]!r}, not {value!r}"
        if found := mismatch(value, real[name], path):
            return found
    surplus = [name for name in real if name not in shown]
    return f"{where or 'the body'} has more: {', '.join(surplus)}" if surplus and not more else None


def output_matches(shown: list[str], real: str) -> bool:
    """Whether an output is what is shown. Numbers may differ; `…` stands for anything, a line of it for any lines."""
    pattern = "".join(
        r"(?:[^\n]*\n)*?" if line.strip() == ELLIPSIS else _line(line) + r"[ \t]*\n" for line in shown if line.strip()
    )
    lines = "".join(f"{line}\n" for line in real.splitlines() if line.strip())
    return re.fullmatch(pattern, lines) is not None


def _line(line: str) -> str:
    pieces: list[str] = []
    for piece in line.split(ELLIPSIS):
        words = [r"[\d][\d,.]*".join(re.escape(part) for part in _NUMBER.split(word)) for word in piece.split()]
        joined = r"\s+".join(words)
        lead = r"\s+" if piece[:1].isspace() else ""
        trail = r"\s+" if piece[-1:].isspace() and words else ""
        pieces.append(f"{lead}{joined}{trail}")
    return ".*".join(pieces)
