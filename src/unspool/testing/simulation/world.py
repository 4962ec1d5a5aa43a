"""One simulated world: its loop, its clocks, its replicas and clients, the truth about them, and what is counted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Generator
from functools import partial
from random import Random
from typing import Any, Final

from unspool import tail
from unspool.backends.memory import MemoryStore, MemoryTransport
from unspool.content import Snapshot
from unspool.jobs import GenerationKey, Job, Status
from unspool.options import Hooks
from unspool.protocols import EventTransport, JobStore
from unspool.testing.simulation.actions import ACTIONS, Actions
from unspool.testing.simulation.clients import Client
from unspool.testing.simulation.faults import FAULTS, ambush
from unspool.testing.simulation.log_truth import LogTruth
from unspool.testing.simulation.loop import Domain, SimLoop
from unspool.testing.simulation.network import Network
from unspool.testing.simulation.node import Factory, Node
from unspool.testing.simulation.plants import Plant
from unspool.testing.simulation.profile import draw
from unspool.testing.simulation.runs import PlannedFailure
from unspool.testing.simulation.trace import Trace, Violation
from unspool.testing.simulation.truth import Truth
from unspool.testing.simulation.watch import Watch
from unspool.testing.simulation.witness import Witness

EPOCH: Final = 1_700_000_000.0
"""The store's clock when a simulation begins, in Unix seconds."""
_RECENT: Final = 12
"""Generations that new viewers choose from."""
_EXPECTED: Final = (
    "the run failed",
    "not sealed when the replica stopped",
    "a hook failed",
    "the partial answer was not saved",
)
"""Errors in the log that the actions of a simulation cause on purpose."""


def memory(clock: Any, max_jobs: int) -> Any:
    """The memory back end, shared by all replicas."""
    store, transport = MemoryStore(max_jobs=max_jobs, clock=clock), MemoryTransport()
    return lambda: (store, transport)


class World:
    """Everything there is. `violation` is the first invariant that did not hold; the world stops there."""

    def __init__(self, seed: int, *, plant: Plant, backend: Factory = memory, trace: int | None = 300) -> None:
        self.seed = seed
        self.plant = plant
        self.random = Random(seed)
        self.profile = draw(self.random, tuple(name for _, name, _ in FAULTS))
        self.loop = SimLoop(self.random, shuffle=self.profile.shuffle, on_error=self._unhandled)
        self.trace = Trace(trace)
        self.violation: Violation | None = None
        self.ending = False
        self.clock_offset = 0.0
        self.store_ok_since = self.clock_ok_since = 0.0
        self.reconnects = self.delivered = self.syncs = self.dropped = self.gone = self.compared = 0
        self.lost = self.repeated = self.disordered = self.stops = self.probes = self.crashes = 0
        self.recent: list[LogTruth] = []
        self.began: dict[GenerationKey, int] = {}
        self.hooked: dict[GenerationKey, int] = {}
        self.saved: set[GenerationKey] = set()
        options = self.profile.options
        self.truth = Truth(
            now=self.loop.time, clock=self.clock, fail=self.fail, note=self._note_truth,
            alive=self._is_alive, max_jobs=options.max_jobs, lease=options.lease, retention=options.retention,
        )  # fmt: skip
        self.network = Network(self.loop, self.random, slow_calls=self.profile.slow_calls, latency=self.profile.latency)
        self._ends = backend(self.clock, options.max_jobs)
        self.clients: Domain = self.loop.domain("clients")
        strike = partial(ambush, self) if self.profile.trouble else None
        self.nodes = [Node(self, name, strike) for name in "abcd"[: self.profile.replicas]]
        self.actions = Actions(self, ACTIONS)
        self.watch = Watch(self)
        self.viewers = [Client(self, number) for number in range(1, self.profile.followers + 1)]

    def __repr__(self) -> str:
        return f"<World seed={self.seed} {self.loop!r}>"

    def make(self) -> tuple[JobStore, EventTransport]:
        """One replica's ends of the back end."""
        store, transport = self._ends()
        return Witness(self.plant.inner(store), self.truth), transport

    def clock(self) -> float:
        """The store's clock: Unix seconds, and it may step."""
        return EPOCH + self.loop.time() + self.clock_offset

    # what the judges say

    def note(self, what: str, *args: Any) -> None:
        """Add a line to the trace, in the name of the domain that runs."""
        if self.violation is None:
            self.trace.add((self.loop.time(), self.loop.running, what, args))

    def _note_truth(self, what: str, *args: Any) -> None:
        self.note("  " + what, *args)
        if what.startswith("created"):
            self.recent.append(self.truth.logs[args[0]])
            if len(self.recent) > _RECENT:
                del self.recent[0]

    def fail(self, invariant: str, message: str) -> None:
        """An invariant does not hold. Nothing is raised: the code under test might catch it."""
        if self.violation is None:
            self.note("VIOLATION of %s: %s", invariant, message)
            self.violation = Violation(invariant, message, self.loop.time(), self.loop.steps)

    def _is_alive(self, log: LogTruth) -> bool:
        return self.watch.alive(log)

    def _unhandled(self, context: dict[str, Any]) -> None:
        self.fail("no stray errors", f"{context.get('message')}: {context.get('exception')!r}")

    # what the replicas' hooks and runs tell

    def run_began(self, key: GenerationKey) -> None:
        self.began[key] = self.began.get(key, 0) + 1
        if self.began[key] > 1:
            self.fail("idempotent create", f"the run of {key} was begun {self.began[key]} times")

    def hooks(self) -> Hooks:
        """The hooks of every replica."""
        return Hooks(
            settled=[self.was_settled] if self.profile.hooks else [],
            save_partial=[self.save_partial] if self.profile.saves else [],
        )

    async def save_partial(self, job: Job, snapshot: Snapshot) -> None:
        """The hook that saves: slowly, and sometimes it fails."""
        log = self.truth.log(job.key)
        if log is None:
            return
        self.truth.snapshot(log, snapshot, "the content to save")
        self.saved.add(job.key)
        await asyncio.sleep(self.random.random())
        if self.random.random() < 0.1:
            raise PlannedFailure

    async def was_settled(self, job: Job, snapshot: Snapshot) -> None:
        """The hook `settled` of every replica."""
        self.hooked[job.key] = self.hooked.get(job.key, 0) + 1
        log = self.truth.log(job.key)
        if log is None:
            return
        if self.hooked[job.key] > 1 or job.terminal != log.terminal:
            self.fail("one seal", f"the hook for {job!r} was called {self.hooked[job.key]} times; {log!r}")
        if self.profile.saves and job.status in {Status.ABORTED, Status.ERROR} and job.key not in self.saved:
            self.fail("one seal", f"{job!r} ended unfinished, and was not saved before")
        self.truth.snapshot(log, snapshot, "the content at the seal")

    # life

    def run(self, steps: int) -> None:
        """Live for this many steps, then let everything come to its end: `violation` says what was wrong."""
        handler = _LogWatch(self)
        logger = logging.getLogger("unspool")
        before = logger.level, logger.propagate
        logger.addHandler(handler)
        logger.setLevel(logging.WARNING)
        logger.propagate = False
        try:
            with self.plant.installed(), _pages_of(self.profile.page):
                self._live(steps)
        finally:
            logger.removeHandler(handler)
            logger.setLevel(before[0])
            logger.propagate = before[1]
            self.loop.close()

    def _live(self, steps: int) -> None:
        watch = self.watch
        try:
            watch.until = steps
            self.loop.run(watch.after_step)
            if self.violation is None:
                watch.until = float("inf")
                self.actions.end()
                self.loop.run(watch.after_step)
        except RuntimeError as error:
            self.fail("no spinning", str(error))
        if self.violation is None and not self.watch.over:
            self.fail("liveness", "nothing is left to do, and not everything has ended")


@contextlib.contextmanager
def _pages_of(records: int) -> Generator[None, None, None]:
    # Small pages: their edges are met in short logs, too, and a viewer that drops at once has cost little.
    real = tail.PAGE
    setattr(tail, "PAGE", records)  # noqa: B010  (a constant, for everybody else)
    try:
        yield
    finally:
        setattr(tail, "PAGE", real)  # noqa: B010


class _LogWatch(logging.Handler):
    """Warnings become lines of the trace; errors that nobody meant to cause are violations."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.WARNING)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        self._world.note("    log: %s", record.getMessage())
        if record.levelno >= logging.ERROR and not any(known in record.getMessage() for known in _EXPECTED):
            error = record.exc_info[1] if record.exc_info else None
            self._world.fail("no stray errors", f"{record.getMessage()} {error!r}")
