"""Offsets as clients see them: opaque, of one width, and in the order of the stream when they are sorted as text."""

from __future__ import annotations

import re
from typing import Final

from unspool.errors import BadRequest

_FORM: Final = re.compile(r"(\d{16})_(\d{16})", re.ASCII)


def token(number: int, mark: int = 0) -> str:
    """The offset after the record of this number. `mark` tells the logs of one generation's number apart."""
    return f"{number:016d}_{mark:016d}"


def number_of(offset: str, *, field: str = "offset") -> int:
    """The number of the record that an offset without a mark stands after. Raises BadRequest."""
    number, mark = marked(offset, field)
    if mark:
        raise BadRequest(f"{field} {offset[:80]!r} is not an offset of this stream", field=field)
    return number


def marked(offset: str, field: str = "offset") -> tuple[int, int]:
    """The number of the record that an offset stands after, and its mark. Raises BadRequest."""
    found = _FORM.fullmatch(offset)
    if found is None:
        raise BadRequest(f"{field} {offset[:80]!r} is not an offset of this server", field=field)
    return int(found[1]), int(found[2])
