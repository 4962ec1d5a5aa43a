"""What misfortune does: one table of named faults with their weights. Each mends itself after a while."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from unspool.testing.simulation.node import Node

if TYPE_CHECKING:
    from unspool.testing.simulation.world import World

Fault = Callable[["World"], None]


def _some_node(world: World) -> Node | None:
    ready = [node for node in world.nodes if node.up and not node.stopping]
    return world.random.choice(ready) if ready else None


def _while(world: World, mean: float) -> float:
    """How long it lasts: mostly short, sometimes much longer than a lease."""
    return world.random.expovariate(1.0) * mean * world.random.choice((0.1, 1.0, 3.0))


def _about_a_lease(world: World) -> float:
    """The same for what an owner must not outlive: often it is back just when somebody takes its place."""
    lease = world.profile.options.lease
    return lease * (1.0 + 0.4 * world.random.random()) if world.random.random() < 0.5 else _while(world, lease)


def _later(world: World, seconds: float, what: Callable[..., None], *args: object) -> None:
    world.loop.call_later(seconds, what, *args, context=world.loop.home.context)


def restart(node: Node) -> None:
    """Boot it, unless it lives."""
    if node.domain.dead:
        node.boot()


def _crash(world: World) -> None:
    node = _some_node(world)
    if node is not None:
        _kill(world, node)


def _kill(world: World, node: Node) -> None:
    world.crashes += 1
    node.crash()
    _later(world, _while(world, 5.0), restart, node)


def _deploy(world: World) -> None:
    node = _some_node(world)
    if node is not None and node.healthy:
        node.deploy(lambda: _later(world, _while(world, 1.0), restart, node))


def _pause(world: World) -> None:
    node = _some_node(world)
    if node is not None and not node.frozen:
        _freeze(world, node)


def _freeze(world: World, node: Node) -> None:
    node.freeze()
    _later(world, _about_a_lease(world), _thaw, node, node.life)


def _thaw(node: Node, life: int) -> None:
    if node.life == life:
        node.thaw()


def _cut(world: World) -> None:
    node = _some_node(world)
    if node is not None and not node.cut:
        _part(world, node)


def _part(world: World, node: Node) -> None:
    node.partition()
    _later(world, _about_a_lease(world), Node.heal, node)


def _outage(world: World) -> None:
    world.note("the store is away")
    world.network.down = True
    _later(world, _while(world, 3.0), mend_store, world)


def _flaky(world: World) -> None:
    world.note("calls to the store fail now and then")
    world.network.flaky = world.random.choice((0.05, 0.3))
    _later(world, _while(world, 5.0), mend_store, world)


def mend_store(world: World) -> None:
    """The store answers everybody who is connected."""
    if world.network.down or world.network.flaky:
        world.note("the store is well again")
        world.network.down = False
        world.network.flaky = 0.0
        world.store_ok_since = world.loop.time()


def _clock_step(world: World) -> None:
    lease = world.profile.options.lease
    seconds = world.random.uniform(-3.0, 3.0) * lease
    world.note("the store's clock steps by %+.3f s", seconds)
    world.clock_offset += seconds
    # After a step back every lease lasts so much longer, up to what no renewal can have granted.
    world.clock_ok_since = max(world.clock_ok_since, world.loop.time() + min(max(0.0, -seconds), lease * 9 / 8))


def ambush(world: World, node: Node) -> float:
    """Strike a replica in the middle of a call to the store; seconds within which the call is carried out."""
    lease = world.profile.options.lease
    if world.ending or not node.healthy:
        return world.profile.latency
    world.note("misfortune strikes in the middle of a call")
    fault = world.random.choice((_freeze, _freeze, _kill, _part))
    fault(world, node)
    if world.random.random() < 0.8:  # and who was away is back, just now
        for other in world.nodes:
            if other is not node:
                other.thaw()
                other.heal()
    return world.random.choice((0.0, 0.1, 1.0, 1.5)) * world.random.random() * lease


FAULTS: Final[tuple[tuple[int, str, Fault], ...]] = (
    (3, "crash", _crash),
    (2, "deploy", _deploy),
    (6, "pause", _pause),
    (4, "cut", _cut),
    (2, "outage", _outage),
    (2, "flaky", _flaky),
    (3, "clock", _clock_step),
)
