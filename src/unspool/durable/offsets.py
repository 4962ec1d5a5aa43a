"""Offsets as clients see them: opaque, of one width, and in the order of the stream when they are sorted as text."""

from __future__ import annotations

import re
from typing import Final

from unspool.errors import BadRequest

_FORM: Final = re.compile(r"(\d{16})_0{16}", re.ASCII)


def token(number: int) -> str:
    """The offset after the record of this number. The second part is kept for places within one."""
    return f"{number:016d}_{0:016d}"


def number_of(offset: str, *, field: str = "offset") -> int:
    """The number of the record that an offset stands after. Raises BadRequest."""
    found = _FORM.fullmatch(offset)
    if found is None:
        raise BadRequest(f"{field} {offset[:80]!r} is not an offset of this server", field=field)
    return int(found[1])
