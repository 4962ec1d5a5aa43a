"""What the commands write: errors as one line, JSON for programs, and text that cannot play tricks on a terminal."""

from __future__ import annotations

import re
import sys
from typing import Final

import msgspec
from rich.console import Console
from rich.markup import escape

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
INCOMPLETE: Final = 3
INTERRUPTED: Final = 130

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class CommandError(Exception):
    """A command cannot go on. The message is one line for people; `code` is what the process exits with."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


def console() -> Console:
    """Standard output, for people. Made anew for each command: tests and pipes exchange the stream."""
    return Console(highlight=False, soft_wrap=True)


def errors() -> Console:
    """Standard error, for notes and errors, so that what is piped elsewhere stays clean."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def complain(message: str) -> None:
    """Print an error as one line."""
    errors().print(f"[bold red]error:[/] {escape(visible(message))}")


def print_json(value: object) -> None:
    """Print a value as one line of JSON, at once: whoever reads it may be waiting."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def visible(text: str) -> str:
    """`text` with its control characters, and what no terminal can be sent, shown instead of obeyed; line
    ends and tabs stay.

    What a model writes, or a server answers, must not be able to move the cursor or to rename the window.
    """
    return _CONTROL.sub(_picture, text.replace("\r\n", "\n"))


def _picture(match: re.Match[str]) -> str:
    code = ord(match[0])
    return chr(0x2400 + code) if code < 0x20 else "\N{REPLACEMENT CHARACTER}"


def seconds(value: float) -> str:
    """A duration as people read it: `9.5 s`, `3 m 20 s`, `2 h 5 m`."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(int(value), 60)
    if minutes < 60:
        return f"{minutes} m {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} m"
