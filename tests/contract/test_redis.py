"""Redis fulfils the contract: replicas with connections of their own over real servers of every kind."""

from __future__ import annotations

import itertools
from collections.abc import Generator

import pytest

from tests.servers import redis as servers
from unspool.backends.redis import from_url
from unspool.protocols import EventTransport, JobStore
from unspool.testing.contract import *  # noqa: F403

_number = itertools.count()


class RedisBackend:
    """A part of a database under a prefix of its own."""

    name = "redis"

    def __init__(self, url: str) -> None:
        self._url = f"{url}?prefix=test-{next(_number)}"

    async def make(self) -> tuple[JobStore, EventTransport]:
        return from_url(self._url, retention=3600.0)

    async def close(self) -> None: ...


@pytest.fixture(scope="module", params=["redis-8", "redis-6.2", "cluster", "sentinel"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """Where a server, three masters of a cluster, or a master under three sentinels are found."""
    version = "6" if request.param == "redis-6.2" else "8"
    if servers.binary(version) is None:
        pytest.skip(f"there is no Redis {version} here: install the extra `dev` on Linux")
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "cluster":
        with servers.cluster(folder) as nodes:
            yield "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)
    elif request.param == "sentinel":
        with servers.sentinels(folder) as watched:
            yield watched.url
    else:
        with servers.server(folder, version=version) as running:
            yield running.url


@pytest.fixture
def backend(url: str) -> RedisBackend:
    return RedisBackend(url)
