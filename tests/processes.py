"""What processes that tests start may inherit from the shell: neither ignored signals nor its variables."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

SIGNALS: Final = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT") if hasattr(signal, name)
)
"""The signals that end a process, and that a shell or nohup may have set to be ignored."""
_KEPT: Final = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "COVERAGE_PROCESS_START", "SYSTEMROOT")


@contextmanager
def default_signals() -> Generator[None]:
    """Start processes in this block, from the main thread: they take the default action at each of `SIGNALS`.

    A child inherits an ignored signal, as that of a suite which runs under nohup or as a background job; a signal that
    has a handler is at its default in the child again.
    """
    ignored = [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_IGN]
    try:
        for number in ignored:
            signal.signal(number, lambda *_: None)
        yield
    finally:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)


def bare_environment(**more: str) -> dict[str, str]:
    """The few variables that a process needs, and `more`: no colours, proxies, keys or settings of the user."""
    return {name: os.environ[name] for name in _KEPT if name in os.environ} | {"PYTHONUTF8": "1"} | more
