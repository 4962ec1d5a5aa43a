"""Run every test: those with other people's clients, which mostly wait for one another, beside the rest.

What they print comes after the rest, so that both can be read.
"""

from __future__ import annotations

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


def main() -> int:
    with tempfile.TemporaryFile() as log:
        interop, rest = pytest("tests/interop", output=log), pytest("--ignore=tests/interop")
        statuses = [ended(rest), ended(interop)]
        print("==> Clients and proxies that others have written", flush=True)
        log.seek(0)
        shutil.copyfileobj(log, sys.stdout.buffer)
    return max(map(abs, statuses))


if __name__ == "__main__":
    sys.exit(main())
