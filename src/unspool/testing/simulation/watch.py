"""The watch: what must happen in time, and what must stay bounded.

Safety is judged where things happen (`truth.py`, `clients.py`). Here are the promises with a time limit, each counted
from the last moment at which it was in the power of some replica to keep it, and the bounds of memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from unspool.jobs import Status
from unspool.testing.simulation.log_truth import LogTruth
from unspool.testing.simulation.loop import Domain
from unspool.testing.simulation.node import Node

if TYPE_CHECKING:
    from unspool.replica import Replica
    from unspool.testing.simulation.world import World

_EVERY: Final = 0.25
"""Virtual seconds between two looks at the promises."""
_GRACE: Final = 2.0
"""Seconds that noticing and sealing may take on top of a lease: DESIGN section 6."""
_SLACK: Final = 1.5
"""Seconds for calls under way, on top of a bound."""
_LINGER: Final = 5.0
"""Seconds that a tail without viewers is kept."""
_LONGEST: Final = 600
"""Pieces of the longest answer that a run may still be giving when all trouble ends."""
_BATCH: Final = 16
"""Steps between two looks at one replica's bounds."""


class Stop:
    """A Stop that waits for its answer."""

    __slots__ = ("began", "life", "log", "node")

    def __init__(self, node: Node, log: LogTruth, began: float) -> None:
        self.node = node
        self.life = node.life
        self.log = log
        self.began = began


class Watch:
    """Looks after every step. `until`: the step at which to look up; `over`: everything has ended as it should."""

    def __init__(self, world: World) -> None:
        self.until = float("inf")
        self.over = False
        self._world = world
        self._saving = world.profile.options.hook_timeout if world.profile.saves else 0.0
        self._stops: dict[Stop, None] = {}
        self._ending_since: float | None = None
        world.loop.call_later(_EVERY, self._look, context=world.loop.home.context)

    def after_step(self, domain: Domain) -> bool:
        """Called after each step; True: an invariant does not hold, or it is time to look up."""
        steps = self._world.loop.steps
        if steps % _BATCH == 0:
            for node in self._world.nodes:
                if node.domain is domain and node.healthy:
                    self._bounds(node, node.manager.replica)
        return steps >= self.until or self.over or self._world.violation is not None

    def _look(self) -> None:
        world = self._world
        self._sealed_in_time()
        self._stopped_in_time()
        self._served_in_time()
        self._forgotten_in_time()
        if world.ending:
            self._ended()
        world.loop.call_later(_EVERY, self._look, context=world.loop.home.context)

    # since when it could be done

    def _able_since(self) -> float:
        """Since when some replica has been well, with a store and a clock that are; now, when none is."""
        world, now = self._world, self._world.loop.time()
        if world.network.down or world.network.flaky:
            return now
        steady = min((node.steady_since for node in world.nodes if node.healthy), default=now)
        return max(steady, world.store_ok_since, world.clock_ok_since)

    def _node_able_since(self, node: Node) -> float:
        world, now = self._world, self._world.loop.time()
        if not node.healthy or world.network.down or world.network.flaky:
            return now
        return max(node.steady_since, world.store_ok_since)

    # promises

    def _sealed_in_time(self) -> None:
        """Whatever has no owner any more is sealed within a lease and two seconds; a stall within its limit."""
        world, now = self._world, self._world.loop.time()
        able = self._able_since()
        for log in list(world.truth.active.values()):
            owner = self._owner(log)
            if owner is None:
                # A replica that is well again, or a store, is observed for a lease from the next sweep on.
                since = max(log.attended_at, log.renewed_at, able + world.profile.options.sweep)
                if now > since + log.lease + _GRACE + self._saving:
                    world.fail("owner lost", f"{log!r} has no owner since {log.attended_at:.3f}, and is not sealed")
                continue
            log.attended_at = now
            limits = log.job.limits
            since = max(log.accepted_at, self._node_able_since(owner))
            options = world.profile.options
            allowed = limits.stall + options.abort_grace + options.sweep + self._saving + _SLACK
            if log.status is Status.RUNNING and now > since + allowed:
                world.fail("stall", f"{log!r} is silent since {log.accepted_at:.3f}, and was not stopped")

    def _owner(self, log: LogTruth) -> Node | None:
        """The replica that is well and runs it under the current lease."""
        for node in self._world.nodes:
            if node.replica == log.holder and node.healthy:
                run = node.manager.replica.runs.get(log.key)
                return node if run is not None and run.epoch == log.epoch else None
        return None

    def alive(self, log: LogTruth) -> bool:
        """Whether its owner is well and has renewed its lease less than a lease ago, by the simulation's own clock.

        A step of the store's clock that is too small to be noticed takes an eighth of the lease away.
        """
        return self._owner(log) is not None and self._world.loop.time() - log.renewed_at < log.lease * 7 / 8

    def stop_began(self, node: Node, log: LogTruth) -> Stop:
        stop = Stop(node, log, self._world.loop.time())
        self._stops[stop] = None
        return stop

    def stop_answered(self, stop: Stop) -> None:
        self._stops.pop(stop, None)

    def _stopped_in_time(self) -> None:
        """Stop is answered within the owner's grace and the caller's patience, and a lease if somebody took over."""
        world, now = self._world, self._world.loop.time()
        options = world.profile.options
        patience = options.abort_grace + min(1.0, options.lease / 3) + 2 * self._saving + _SLACK
        for stop in list(self._stops):
            node, log = stop.node, stop.log
            if node.life != stop.life or not node.up or node.stopping:
                del self._stops[stop]
                continue
            since, allowed = stop.began, patience
            if log.changed_at > stop.began:
                since, allowed = log.changed_at, patience + options.lease + patience
            if now > max(since, self._node_able_since(node)) + allowed:
                world.fail(
                    "stop", f"{node.replica} was asked to stop {log!r} at {stop.began:.3f}, and has not answered"
                )

    def _served_in_time(self) -> None:
        """A viewer of a replica that is well gets what there is within one poll, whatever became of the hints.

        The owner asks for nothing but its lease: where whoever has replaced its generation dies before it has said so,
        that is how the owner hears of it.
        """
        world, now = self._world, self._world.loop.time()
        for client in world.viewers:
            connection, log = client.connection, client.log
            state = (connection, client.position)
            waits = connection is not None and (
                not connection.answered
                or (log is not None and (log.next_public(client.position) is not None or not log.active))
            )
            if not waits or client.behind != state:
                client.behind, client.behind_since = state, now
                continue
            assert connection is not None
            since = max(client.behind_since, self._node_able_since(connection.node))
            options = world.profile.options
            owns = log is not None and log.holder == connection.node.replica
            if now > since + (max(options.poll, options.lease / 3) if owns else options.poll) + _SLACK:
                what = log.next_public(client.position) if log is not None else None
                world.fail(
                    "liveness",
                    f"{client!r} waits on {connection.node!r} since {client.behind_since:.3f}, next is {what}",
                )

    def _forgotten_in_time(self) -> None:
        """What is past retention goes with the next sweep."""
        world = self._world
        oldest = next(iter(world.truth.kept.values()), None)
        if oldest is None or oldest.settled is None:
            return
        options = world.profile.options
        age = world.clock() - oldest.settled
        able = world.loop.time() - self._able_since()
        if age > options.retention + options.sweep + _GRACE and able > options.sweep + _GRACE:
            world.fail("retention", f"{oldest!r} is kept {age:.3f} s after its seal")

    # bounds

    def _bounds(self, node: Node, replica: Replica) -> None:
        world, now = self._world, self._world.loop.time()
        options = world.profile.options
        able = now - self._node_able_since(node)
        for tail in replica.tails.values():
            if len(tail._records) > options.window:
                world.fail("bounds", f"{tail!r} holds {len(tail._records)} records; its window is {options.window}")
            if tail._bytes > options.window_bytes and len(tail._records) > 1:
                world.fail("bounds", f"{tail!r} holds {tail._bytes} bytes; its window is {options.window_bytes}")
            idle = min(now - tail.idle_since, able)
            if not tail.viewers and tail.key not in replica.runs and idle > _LINGER + 2 * options.sweep + _SLACK:
                world.fail("bounds", f"{tail!r} is held for nobody since {tail.idle_since:.3f}")
        for run in replica.runs.values():
            writer = run._writer
            if writer._queued + writer._in_flight > options.backlog + 1:
                world.fail("bounds", f"{writer!r} is more than its backlog of {options.backlog} ahead of the store")
        viewers = sum(len(tail.viewers) for tail in replica.tails.values())
        if len(replica.viewers) > viewers:
            world.fail("bounds", f"{node.replica} has {len(replica.viewers)} viewers, its tails have {viewers}")

    # the end

    def _ended(self) -> None:
        world, now = self._world, self._world.loop.time()
        if self._ending_since is None:
            self._ending_since = now
        reading = [client for client in world.viewers if not client.finished or client.connection is not None]
        coming = [node for node in world.nodes if not node.healthy or node.manager.replica.runs]
        if world.truth.active or self._stops or reading or coming:
            options = world.profile.options
            allowed = 2 * options.lease + 2 * options.abort_grace + options.drain + 30.0
            allowed += _LONGEST * world.profile.chunk
            if now > self._ending_since + allowed:
                left = [*world.truth.active.values(), *reading, *coming]
                world.fail("liveness", f"{allowed:.0f} s after all trouble there is still {left}")
            return
        self.over = True
        for node in world.nodes:
            replica = node.manager.replica
            if replica.viewers:
                world.fail("bounds", f"{node!r} still has {replica.viewers}")
