"""What these tests need beside a server: Node with its packages, Chromium, nginx; each is skipped loudly without it."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest

from tests.browser.conftest import browser, chromium
from tests.interop import nginx as nginx_
from tests.js.packages import MISSING, installed

__all__ = ["browser", "chromium"]


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
