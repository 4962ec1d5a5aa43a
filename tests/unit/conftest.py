"""The loop of each unit test: virtual time where a module or a test is marked `virtual_time`, real time elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest

MARK = "virtual_time"


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Choose the loop by the mark: on virtual time a busy machine changes no outcome."""
    if item.get_closest_marker(MARK) is None:
        return {"real": asyncio.new_event_loop}
    from tests.virtual import VirtualLoop

    return {"virtual": VirtualLoop}


@pytest.fixture(autouse=True)
def _clock_of_stores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let memory stores that are made without a clock take that of the virtual loop: leases run out on the same time
    as everything else."""
    if request.node.get_closest_marker(MARK) is not None:
        from tests.virtual import now
        from unspool.backends.memory import MemoryStore

        defaults = MemoryStore.__init__.__kwdefaults__ or {}
        monkeypatch.setattr(MemoryStore.__init__, "__kwdefaults__", {**defaults, "clock": now})
