"""A replica of the simulated application: a manager in a domain of its own, which can stop, freeze, die and return."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from unspool.errors import ConfigurationError, StoreUnavailable, UnspoolError
from unspool.manager import GenerationManager
from unspool.protocols import EventTransport, JobStore
from unspool.testing.hostile import HostileTransport
from unspool.testing.simulation.network import StoreLink, Wire

if TYPE_CHECKING:
    from unspool.testing.simulation.clients import Connection
    from unspool.testing.simulation.world import World

T = TypeVar("T")


_NOT_OURS: Final = ("client", "run ")
"""Tasks that a manager may leave behind when it stops: its callers', and a run that will not hear."""


class Node:
    """One replica. `steady_since`: since when it is up, running and connected; meaningless while it is not."""

    def __init__(self, world: World, name: str, strike: Callable[[Node], float] | None) -> None:
        self.name = name
        self.up = False
        self.frozen = False
        self.cut = False
        self.stopping = False
        self._steady_since = 0.0
        self.life = 0
        self.connections: dict[Connection, None] = {}
        self._world = world
        self._strike = None if strike is None else partial(strike, self)
        self.boot()

    def __repr__(self) -> str:
        state = "frozen" if self.frozen else "cut" if self.cut else "up" if self.up else "down"
        return f"<Node {self.replica} {state} connections={len(self.connections)}>"

    @property
    def replica(self) -> str:
        """The name of this life: no two processes share one."""
        return f"{self.name}.{self.life}"

    @property
    def healthy(self) -> bool:
        return self.up and not self.frozen and not self.cut and not self.stopping and not self.link.stuck

    @property
    def steady_since(self) -> float:
        return max(self._steady_since, self.link.unstuck_at)

    def boot(self) -> None:
        """Begin a new life."""
        world = self._world
        self.life += 1
        self.stopping = False
        self.domain = world.loop.domain(self.replica)
        self.connections = {}
        store, transport = world.make()
        self.link = StoreLink(world.network, world.plant.store(store), self._strike)
        self.link.cut = self.cut
        self.wire = Wire(world.loop, self.domain, transport)
        self.wire.cut = self.cut
        self.manager = GenerationManager(
            self.link.as_store(), self._hostile(self.wire), options=world.profile.options,
            hooks=world.hooks(), replica=self.replica,
        )  # fmt: skip
        self.domain.context.run(world.note, "boots")
        world.loop.create_task(self._boot(), context=self.domain.context)

    def _hostile(self, wire: Wire) -> EventTransport:
        hints = self._world.profile.hints
        seed = self._world.random.getrandbits(32)
        return HostileTransport(
            wire, seed=seed, drop=hints.drop, delay=hints.delay, double=hints.double, reorder=hints.reorder
        )

    async def _boot(self) -> None:
        try:
            await self.manager.start_up()
        except StoreUnavailable:
            self._world.loop.call_later(0.5, self._boot_again, context=self.domain.context)
        else:
            self.up = True
            self._steady_since = self._world.loop.time()

    def _boot_again(self) -> None:
        self._world.loop.create_task(self._boot(), context=self.domain.context)

    # trouble

    def crash(self) -> None:
        """End as kill -9 does: nothing runs any more, and every connection breaks."""
        world = self._world
        world.note("%s crashes", self.replica)
        self.up = self.frozen = False
        world.loop.kill(self.domain)
        for channel in self.wire.channels:
            world.loop.create_task(channel.close(), context=world.network.domain.context)
        self.hang_up_on_clients()

    def freeze(self) -> None:
        self._world.note("%s is frozen", self.replica)
        self.frozen = True
        self._world.loop.freeze(self.domain)

    def thaw(self) -> None:
        if self.frozen:
            self._world.note("%s thaws", self.replica)
            self.frozen = False
            self._steady_since = self._world.loop.time()
            self._world.loop.thaw(self.domain)

    def partition(self) -> None:
        """Cut it off from the store and the other replicas; clients still reach it."""
        self._world.note("%s is cut off", self.replica)
        self.cut = self.link.cut = self.wire.cut = True

    def heal(self) -> None:
        if self.cut:
            self._world.note("%s is connected again", self.replica)
            self.cut = self.link.cut = self.wire.cut = False
            self._steady_since = self._world.loop.time()

    def deploy(self, then: Callable[[], None]) -> None:
        """Stop as a deployment does: let the runs finish for a while, release the viewers, leave nothing behind."""
        self.stopping = True
        self._world.note("%s stops", self.replica)
        life = self.life

        async def stop() -> None:
            await self.manager.stop()
            self._world.loop.call_later(1.0, self._stopped, life, then, context=self._world.loop.home.context)

        self._world.loop.create_task(stop(), context=self.domain.context)

    def _stopped(self, life: int, then: Callable[[], None]) -> None:
        if life != self.life or not self.up:
            return  # it died while it was stopping
        left = [name for task in self.domain.alive_tasks if not (name := task.get_name()).startswith(_NOT_OURS)]
        if left and not self.frozen:
            self._world.fail("bounds", f"{self.replica} has stopped, and left {left} running")
        self.up = self.frozen = False
        self._world.loop.kill(self.domain)
        self.hang_up_on_clients()
        then()

    def hang_up_on_clients(self) -> None:
        for connection in list(self.connections):
            connection.broken()
        self.connections.clear()

    # service

    def request(
        self, call: Callable[[GenerationManager], Awaitable[T]], answer: Callable[[T | UnspoolError], object]
    ) -> None:
        """Have this replica do something; `answer` gets the result or the error, and never comes from the dead."""
        manager = self.manager

        async def serve() -> None:
            found: Any
            try:
                found = await call(manager)
            except UnspoolError as error:
                found = error
            answer(found)

        self._world.loop.create_task(serve(), name="client request", context=self.domain.context)


def not_served(error: object) -> bool:
    """The replica could not serve: the caller tries another."""
    return isinstance(error, UnspoolError) and (
        isinstance(error, StoreUnavailable | ConfigurationError) or error.code in ("shutting_down", "viewer_released")
    )


Factory = Callable[[Callable[[], float], int], Callable[[], tuple[JobStore, EventTransport]]]
"""A back end: from the store's clock (Unix seconds) and the number of places, what makes each replica's ends of it."""
