"""The Lua scripts: each an atomic step within one slot. They lie in files, and are called by their hash."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import Final, NamedTuple

_FOLDER: Final = files("unspool.backends.redis") / "scripts"
_SHARED: Final = "common"


class Script(NamedTuple):
    """`sha` is what the server calls it by, once it has seen the source."""

    name: str
    source: bytes
    sha: bytes


@cache
def script(name: str) -> Script:
    """The script of this name."""
    source = (_FOLDER / f"{name}.lua").read_bytes()
    if name != "append":  # the hot path brings its own few lines
        source = (_FOLDER / f"{_SHARED}.lua").read_bytes() + source
    return Script(name, source, hashlib.sha1(source, usedforsecurity=False).hexdigest().encode())
