"""Run every test: those that mostly wait, for other processes and other people's clients, beside the rest.

What they print comes after the rest, so that all of it can be read.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parent.parent


def pytest(*arguments: str, output: IO[bytes] | None = None) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "pytest", *arguments], cwd=ROOT, stdout=output, stderr=output)


def ended(process: subprocess.Popen[bytes]) -> int:
    """Its exit code. Ctrl-C reaches it by itself; it is waited for then, too, since it ends what it has started."""
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


BESIDE = {
    "Processes and servers": ("tests/integration", "tests/chaos"),
    "Contracts and leaks": ("tests/contract", "tests/leaks"),
    "Documentation, browsers, and clients and proxies that others have written": (
        "tests/docs",
        "tests/browser",
        "tests/interop",
        "tests/js",
    ),
}
"""What is printed above → the rooms whose tests run in a process of their own."""


def main() -> int:
    with contextlib.ExitStack() as stack:
        logs = {title: stack.enter_context(tempfile.TemporaryFile()) for title in BESIDE}
        processes = [pytest(*rooms, output=logs[title]) for title, rooms in BESIDE.items()]
        processes.append(pytest(*(f"--ignore={room}" for rooms in BESIDE.values() for room in rooms)))
        statuses = [ended(process) for process in reversed(processes)]
        for title, log in logs.items():
            print(f"==> {title}", flush=True)
            log.seek(0)
            shutil.copyfileobj(log, sys.stdout.buffer)
            sys.stdout.flush()
    return max(map(abs, statuses))


if __name__ == "__main__":
    sys.exit(main())
