"""Run the whole suite several times on a busy machine, and print every test that failed in any of the runs.

One process for each core burns it meanwhile. The exit code is 1 when a test has failed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator
from pathlib import Path

ROOT = Path(__file__).parent.parent
FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+?::.+?)(?: - .*)?$", re.MULTILINE)


@contextlib.contextmanager
def burners(count: int) -> Generator[None]:
    """Keep the cores busy while this is entered."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def run(number: int, runs: int, log: Path) -> Counter[str]:
    """Run the suite once, into a log; the tests that failed."""
    begun = time.monotonic()
    with log.open("wb") as output:
        code = subprocess.call([sys.executable, ROOT / "scripts/run_tests.py"], cwd=ROOT, stdout=output, stderr=output)
    failed = Counter(set(FAILED.findall(log.read_text(errors="replace"))))
    if code and not failed:
        failed["(the run itself: see its log)"] = 1
    minutes, seconds = divmod(round(time.monotonic() - begun), 60)
    print(f"run {number} of {runs}: {len(failed)} failed in {minutes}:{seconds:02}, {log}", flush=True)
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--burners", type=int, default=os.cpu_count() or 1, help="processes that burn a core meanwhile")
    parser.add_argument("--logs", type=Path, default=ROOT / "build" / "flaky", help="where the output of each run goes")
    given = parser.parse_args()
    given.logs.mkdir(parents=True, exist_ok=True)
    failed = Counter[str]()
    with burners(given.burners):
        for number in range(1, given.runs + 1):
            failed += run(number, given.runs, given.logs / f"{number}.log")
    for test, times in failed.most_common():
        print(f"failed in {times} of {given.runs} runs: {test}")
    if not failed:
        print(f"nothing failed in {given.runs} runs beside {given.burners} burners")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
