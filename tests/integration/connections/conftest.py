"""Connections of our own server on both loops: uvloop is the one that it uses, asyncio's the one of most other tests.

They differ in when a connection is read, and in when it is seen to be closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import uvloop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
