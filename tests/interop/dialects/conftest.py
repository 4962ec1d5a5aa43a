"""Where the dialects are tested: one server in memory, and two replicas over a real Redis."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Collection
from pathlib import Path

import pytest

from tests.integration.redis.conftest import database
from tests.servers.redis import binary

__all__ = ["database"]

STORES = ["memory", "redis"] if "UNSPOOL_INTEROP" in os.environ or binary() is None else ["redis"]
"""Two replicas are the harder case, and all that there is time for in the whole suite; `make interop` has both."""

HERE = Path(__file__).parent.parent / "js"
_number = itertools.count(1)


@pytest.fixture(params=STORES)
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
