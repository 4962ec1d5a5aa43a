"""The loop on which each contract runs: virtual time for memory, real time for what lies in other processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest

from tests.virtual import VirtualLoop


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run the contract of the memory back end on virtual time: no lease runs out because the machine is busy."""
    return {"virtual": VirtualLoop} if item.path.name == "test_memory.py" else {"real": asyncio.new_event_loop}
