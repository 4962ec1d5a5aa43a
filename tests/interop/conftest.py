"""What these tests need beside a server: Node with its packages, Chromium, nginx; each is skipped loudly without it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from tests.browser.conftest import browser, chromium
from tests.interop import nginx as nginx_
from tests.interop.table import table
from tests.js.packages import MISSING, installed

__all__ = ["browser", "chromium"]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The table at the end of `make interop`."""
    if "UNSPOOL_INTEROP" not in os.environ:
        return
    stats = terminalreporter.stats
    outcomes = [
        (report.nodeid, outcome)
        for outcome in ("passed", "skipped", "failed", "error")
        for report in stats.get(outcome, ())
        if report.nodeid.startswith("tests/interop/") and (outcome != "passed" or report.when == "call")
    ]
    terminalreporter.section("interop")
    for line in table(outcomes):
        terminalreporter.write_line(line)


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Prints a line that is seen also when the test passes."""

    def tell(line: str) -> None:
        with capsys.disabled():
            print(f"\n{line}")

    return tell


@pytest.fixture(scope="session")
def node() -> str:
    """Where Node is, with the packages that the lock file names."""
    path = shutil.which("node")
    if path is None:
        pytest.skip("no node found: install Node.js 20 or later to test clients in JavaScript")
    if not installed():
        pytest.skip(MISSING)
    return path


@pytest.fixture(scope="session")
def nginx() -> str:
    """Where nginx is."""
    path = nginx_.find()
    if path is None:
        pytest.skip(nginx_.MISSING)
    return path
