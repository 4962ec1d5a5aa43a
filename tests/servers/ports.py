"""Ports for the servers of tests: below the range that the kernel draws from, and none of them twice."""

from __future__ import annotations

import random
import socket
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FIRST = 20_000
_LAST = 31_999
"""The last port where the kernel does not say what it draws from."""

_draw = random.SystemRandom()  # a seed that a test sets must not give two processes the same ports
_given: set[int] = set()


def free_port() -> int:
    """Choose a port of the loopback interface that no process listens on.

    The kernel gives outgoing connections a port of its own range. A server's port must lie outside of it: a client of
    another test could take it before the server does, or while the server is restarted.
    """
    last = _last()
    for _ in range(1000):
        port = _draw.randint(min(_FIRST, last - 8_000), last)
        if port not in _given and _is_free(port):
            _given.add(port)
            return port
    raise AssertionError(f"no free port below {last}")


def _last() -> int:
    try:
        first = int(_RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return _LAST
    return first - 1 if first > 12_000 else _LAST


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that lingers after its use is free
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
