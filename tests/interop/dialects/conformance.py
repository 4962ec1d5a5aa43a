"""The conformance suite of Durable Streams, run against a server, and what came of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

from tests.interop.programs import program

HANG = 60_000
"""Milliseconds after which one of its tests counts as hanging; of itself it allows 5,000, a large payload included."""


class Verdict(NamedTuple):
    """Counts, and the names of the tests that failed, each with the first line of why."""

    passed: int
    failed: int
    failures: list[str]

    def __str__(self) -> str:
        return "\n  ".join([f"{self.passed} passed, {self.failed} failed", *self.failures])


async def run_suite(modules: Path, url: str, tests: str, report: Path, subscriptions: bool) -> Verdict:
    """Run the tests whose full names match."""
    about = {
        "CONFORMANCE_URL": url,
        "CONFORMANCE_SUBSCRIPTIONS": str(int(subscriptions)),
        "CONFORMANCE_PATIENT": str(int("UNSPOOL_INTEROP" not in os.environ)),
    }
    async with program(
        "node", modules / "node_modules/vitest/vitest.mjs", "run", "conformance.test.mjs", "-t", tests, "--no-coverage",
        f"--testTimeout={HANG}", f"--hookTimeout={HANG}", "--reporter=json", f"--outputFile={report}",
        cwd=modules, env={**os.environ, **about},
    ) as vitest:  # fmt: skip
        output, errors = await vitest.communicate()
    return _read(report, (output + errors).decode())


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
