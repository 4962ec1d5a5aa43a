"""The ways between replicas and their store: what becomes of calls and hints when something happens to either end."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest

from unspool.backends.memory import MemoryStore, MemoryTransport
from unspool.errors import NotFound, StoreUnavailable
from unspool.events import Record
from unspool.jobs import GenerationKey, Owner
from unspool.protocols import Hint, NewJob
from unspool.testing.simulation.loop import SimLoop
from unspool.testing.simulation.network import Network, StoreLink, Wire

KEY = GenerationKey("s", 1)
RECORD = Record(1, "text.delta", b'{"text":"x"}')


@pytest.fixture
def loop() -> Iterator[SimLoop]:
    loop = SimLoop(Random(1))
    yield loop
    loop.close()


def connected(loop: SimLoop, *, slow_calls: float = 0.0) -> tuple[Network, StoreLink, MemoryStore]:
    store = MemoryStore(clock=loop.time)
    network = Network(loop, Random(1), slow_calls=slow_calls, latency=1.0)
    loop.run_until_complete(store.create(NewJob(stream_id="s", owner=Owner(), replica="a", lease=10.0)))
    return network, StoreLink(network, store, None), store


def last(loop: SimLoop, store: MemoryStore) -> int:
    return loop.run_until_complete(store.get("s")).last_offset


def test_a_call_of_a_replica_that_dies_is_carried_out_all_the_same(loop: SimLoop) -> None:
    _, link, store = connected(loop, slow_calls=1.0)
    dying = loop.domain("dying")
    call = loop.create_task(link.as_store().append(KEY, 1, [RECORD]), context=dying.context)
    loop.run(lambda _: True)
    loop.kill(dying)
    loop.run(lambda _: False)
    assert last(loop, store) == 1
    assert not call.done()


def test_a_cancelled_call_cannot_be_called_back(loop: SimLoop) -> None:
    _, link, store = connected(loop, slow_calls=1.0)
    call = loop.create_task(link.as_store().append(KEY, 1, [RECORD]))
    loop.call_soon(call.cancel)
    loop.run(lambda _: False)
    assert call.cancelled()
    assert last(loop, store) == 1


@pytest.mark.parametrize("trouble", ["cut", "down"])
def test_a_call_during_which_the_way_is_cut_was_done_and_got_no_answer(loop: SimLoop, trouble: str) -> None:
    network, link, store = connected(loop, slow_calls=1.0)
    call = loop.create_task(link.as_store().append(KEY, 1, [RECORD]))
    loop.run(lambda _: True)
    setattr(link if trouble == "cut" else network, trouble, True)
    loop.run(lambda _: False)
    assert isinstance(call.exception(), StoreUnavailable)
    assert last(loop, store) == 1


def test_a_flaky_store_fails_before_the_step_and_after_it(loop: SimLoop) -> None:
    network, link, store = connected(loop)
    network.flaky = 0.5
    failed_before = failed_after = 0
    for offset in range(1, 41):
        before = last(loop, store)
        try:
            loop.run_until_complete(link.as_store().append(KEY, 1, [Record(before + 1, "text.delta", b"{}")]))
        except StoreUnavailable:
            failed_before += last(loop, store) == before
            failed_after += last(loop, store) == before + 1
        assert last(loop, store) <= offset
    assert failed_before > 5
    assert failed_after > 5


def test_errors_of_the_store_reach_the_caller(loop: SimLoop) -> None:
    for slow_calls in (0.0, 1.0):
        _, link, _ = connected(loop, slow_calls=slow_calls)
        with pytest.raises(NotFound):
            loop.run_until_complete(link.as_store().get("nobody"))


def test_misfortune_strikes_in_the_middle_of_a_call(loop: SimLoop) -> None:
    struck: list[float] = []

    def strike() -> float:
        struck.append(loop.time())
        return 2.0

    network, _, store = connected(loop)
    link = StoreLink(network, store, strike).as_store()
    for offset in range(1, 1 + 5000):
        loop.run_until_complete(link.append(KEY, 1, [Record(offset, "text.delta", b"{}")]))
    assert 0 < len(struck) < 50
    assert loop.time() > 0.0  # those calls took a while
    assert last(loop, store) == 5000


def test_hints_arrive_in_the_domain_of_the_replica_that_hears_them(loop: SimLoop) -> None:
    shared, heard = MemoryTransport(), []
    domains = [loop.domain(name) for name in "ab"]
    wires = [Wire(loop, domain, shared) for domain in domains]
    channels = []
    for wire, domain in zip(wires, domains, strict=True):
        connecting = loop.create_task(
            wire.connect("r", lambda hint: heard.append((loop.running, hint.last_offset))), context=domain.context
        )
        loop.run(lambda _, task=connecting: task.done())
        channels.append(connecting.result())
    channels[1].watch(KEY)

    def publish(offset: int) -> None:
        loop.call_soon(channels[0].publish, Hint(KEY, offset), context=domains[0].context)
        loop.run(lambda _: False)

    publish(1)
    assert heard == [("b", 1)]
    wires[1].cut = True
    publish(2)
    wires[1].cut, wires[0].cut = False, True
    publish(3)
    wires[0].cut = False
    publish(4)
    loop.kill(domains[1])
    publish(5)
    assert heard == [("b", 1), ("b", 4)]
