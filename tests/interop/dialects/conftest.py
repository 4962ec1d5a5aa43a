"""Where the dialects are tested: one server in memory, and two replicas over a real Redis."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Collection
from pathlib import Path

import pytest

from tests.integration.redis.conftest import database

__all__ = ["database"]

HERE = Path(__file__).parent.parent / "js"
_number = itertools.count(1)


@pytest.fixture(params=["memory", "redis"])
def stores(request: pytest.FixtureRequest) -> Collection[str]:
    """The URLs of the replicas' stores: of one, or of two that share a Redis."""
    if request.param == "memory":
        return ("memory://",)
    url = f"{request.getfixturevalue('database').url}?prefix=d{next(_number)}"
    return (url, url)


@pytest.fixture(scope="session")
def modules() -> Path:
    """The folder with the clients from npm; scripts in it find them."""
    if shutil.which("node") is None:
        pytest.skip("no node found: install Node.js 20 or later to test clients in JavaScript")
    if not (HERE / "node_modules" / ".package-lock.json").is_file():
        pytest.skip("the npm packages of tests/interop/js are missing: run `sh scripts/node_modules.sh`")
    return HERE
