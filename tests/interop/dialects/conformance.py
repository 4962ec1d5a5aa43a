"""The conformance suite of Durable Streams, run against a server, and what came of it."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent.parent / "js"
MODULES = HERE / "node_modules"
MISSING = "the npm packages of tests/interop/js are missing: run `sh scripts/node_modules.sh`, as make test does"


class Verdict(NamedTuple):
    """Counts, and the names of the tests that failed, each with the first line of why."""

    passed: int
    failed: int
    failures: list[str]

    def __str__(self) -> str:
        return "\n  ".join([f"{self.passed} passed, {self.failed} failed", *self.failures])


async def run_suite(node: str, url: str, tests: str, report: Path, *, subscriptions: bool = False) -> Verdict:
    """Run the tests whose full names match."""
    about = {"CONFORMANCE_URL": url, "CONFORMANCE_SUBSCRIPTIONS": "1" if subscriptions else "0"}
    process = await asyncio.create_subprocess_exec(
        node, str(MODULES / "vitest/vitest.mjs"), "run", "conformance.test.mjs", "-t", tests, "--no-coverage",
        "--reporter=json", f"--outputFile={report}",
        cwd=HERE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env={**os.environ, **about},
    )  # fmt: skip
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return _read(report, output.decode())


def _read(report: Path, output: str) -> Verdict:
    assert report.exists(), output
    told = json.loads(report.read_text())
    failures = [
        f"{test['fullName']}: {test['failureMessages'][0].splitlines()[0]}"
        for file in told["testResults"]
        for test in file["assertionResults"]
        if test["status"] == "failed"
    ]
    return Verdict(told["numPassedTests"], told["numFailedTests"], failures)
