"""The hostile transport: its dice are the caller's, and what it does is counted."""

from __future__ import annotations

import asyncio

import pytest

from unspool.backends.memory import MemoryTransport
from unspool.errors import InvalidArgument
from unspool.jobs import GenerationKey
from unspool.protocols import Hint
from unspool.testing.hostile import HostileTransport

pytestmark = pytest.mark.virtual_time

KEY = GenerationKey("s", 1)


async def _send(count: int, seed: int = 1, **shares: float) -> tuple[list[int], HostileTransport]:
    got: list[int] = []
    transport = HostileTransport(MemoryTransport(), seed=seed, **shares)
    sender = await transport.connect("a", lambda _: None)
    receiver = await transport.connect("b", lambda hint: got.append(hint.last_offset))
    receiver.watch(KEY)
    for n in range(count):
        sender.publish(Hint(KEY, n))
    await asyncio.sleep(0.02)
    await receiver.close()
    await sender.close()
    return got, transport


async def test_it_is_a_transport_when_told_to_do_nothing() -> None:
    """All shares zero: every hint once, in order, and only what is watched."""
    got, transport = await _send(50, drop=0, delay=0, double=0, reorder=0)
    assert got == list(range(50))
    assert transport.statistics()["delivered"] == 50


async def test_it_drops_doubles_delays_and_reorders() -> None:
    """Each kind of mischief happens and is counted; what arrives was sent."""
    got, transport = await _send(500, delay=0.003)
    counts = transport.statistics()
    assert all(counts[name] > 20 for name in ("dropped", "delayed", "doubled", "reordered"))
    assert counts["received"] == 500
    assert counts["delivered"] == len(got)
    assert got != sorted(got)
    assert len(got) > len(set(got))
    assert set(got) < set(range(500))


async def test_the_same_seed_does_the_same() -> None:
    """Without delays even the order is the same; another seed differs."""
    first, _ = await _send(200, seed=7, delay=0, double=0)
    assert first == (await _send(200, seed=7, delay=0, double=0))[0]
    assert first != (await _send(200, seed=8, delay=0, double=0))[0]


async def test_it_can_lose_everything() -> None:
    """A share of one is all."""
    assert (await _send(100, drop=1))[0] == []


async def test_nothing_comes_after_closing() -> None:
    """Hints that are still on their way are taken back."""
    got: list[Hint] = []
    transport = HostileTransport(MemoryTransport(), seed=1, drop=0, double=0, reorder=0, delay=0.05)
    sender, receiver = await transport.connect("a", got.append), await transport.connect("b", got.append)
    receiver.watch(KEY)
    for n in range(20):
        sender.publish(Hint(KEY, n))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    seen = len(got)
    await receiver.close()
    await asyncio.sleep(0.06)
    assert len(got) == seen
    receiver.unwatch(KEY)


@pytest.mark.parametrize("shares", [{"drop": 1.1}, {"double": -0.1}, {"reorder": 2}, {"delay": -1}])
def test_shares_are_shares(shares: dict[str, float]) -> None:
    """What makes no sense is refused by name."""
    with pytest.raises(InvalidArgument, match=next(iter(shares))):
        HostileTransport(MemoryTransport(), seed=1, **shares)
