"""The memory back end fulfils the contract: several replicas in one process share a store and a transport.

All of it runs on virtual time, the store's clock included: see `conftest.py`.
"""

from __future__ import annotations

import pytest

from tests.virtual import now
from unspool.backends.memory import MemoryStore, MemoryTransport
from unspool.protocols import EventTransport, JobStore
from unspool.testing.contract import *  # noqa: F403


class MemoryBackend:
    name = "memory"

    def __init__(self, max_jobs: int) -> None:
        self._store = MemoryStore(max_jobs=max_jobs, clock=now)
        self._transport = MemoryTransport()

    async def make(self) -> tuple[JobStore, EventTransport]:
        return self._store, self._transport

    async def close(self) -> None: ...


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> MemoryBackend:
    return MemoryBackend(max_jobs=6 if request.cls is not None and request.cls.__name__ == "TestCapacity" else 5000)
