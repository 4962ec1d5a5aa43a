"""The fenced blocks of the documentation, in the order in which a reader meets them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = tuple(
    path.relative_to(ROOT).as_posix() for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
)

_FENCE: Final = re.compile(
    r"^(?P<fence>```+)(?P<info>[^\n]*)\n(?P<text>.*?)^(?P=fence)[ \t]*$", re.MULTILINE | re.DOTALL
)
_TITLE: Final = re.compile(r'title="([^"]+)"')


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block. `title`: the name of the file that it is; `line`: of its fence."""

    page: str
    line: int
    language: str
    title: str | None
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def key(self) -> tuple[str, str]:
        """What it is known by in a list of exceptions: its page and its first line."""
        return self.page, self.text.partition("\n")[0].strip()


def blocks_of(page: str, text: str | None = None) -> list[Block]:
    """The blocks of a page, whose path is relative to the repository."""
    source = (ROOT / page).read_text() if text is None else text
    found: list[Block] = []
    for match in _FENCE.finditer(source):
        line = source.count("\n", 0, match.start()) + 1
        language, _, attributes = match["info"].strip().partition(" ")
        title = _TITLE.search(attributes)
        found.append(Block(page, line, language, title[1] if title else None, match["text"]))
    return found
