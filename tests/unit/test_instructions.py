"""Cost of the hot loops in bytecodes: a figure that depends on nothing but the code."""

from __future__ import annotations

import sys

import pytest

from bench.instructions import LOOPS, bytecodes

pytestmark = pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the bounds are of CPython 3.11")


@pytest.mark.parametrize("name", LOOPS)
def test_a_hot_loop_stays_within_its_bound(name: str) -> None:
    """A loop is also not far below its bound, since such a bound bounds nothing. Renew it in bench/instructions.py."""
    loop = LOOPS[name]
    cost = bytecodes(loop.run)
    assert loop.bound * 0.85 <= cost <= loop.bound, f"{name}: {cost:.0f} bytecodes per event, bound {loop.bound}"
