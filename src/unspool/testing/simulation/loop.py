"""An event loop with virtual time and a seeded scheduler: nothing waits, and the same seed runs the same way.

Every callback belongs to a `Domain`, which is what one process would be: its callbacks keep their order, as on any
event loop, and the seed says which domain goes next. A domain can be frozen (its callbacks wait), and killed (nothing
of it runs again, no `finally` either). The clock moves only when there is nothing left to do.
"""

from __future__ import annotations

import asyncio
import heapq
from asyncio import events as asyncio_events
from collections import deque
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from random import Random
from typing import Any, Final

SPIN: Final = 200_000
"""Steps without a moment passing, after which something is taken to be going round in circles."""


class Domain:
    """What is frozen and killed together. `context`: create tasks in it to make them part of the domain."""

    __slots__ = ("_prune_at", "context", "dead", "frozen", "name", "ready", "tasks")

    def __init__(self, name: str) -> None:
        self.name = name
        self.frozen = False
        self.dead = False
        self.ready: deque[SimHandle] = deque()
        self.tasks: list[asyncio.Task[Any]] = []
        self.context = copy_context()
        self.context.run(_domain.set, self)
        self._prune_at = 64

    def __repr__(self) -> str:
        state = "dead" if self.dead else "frozen" if self.frozen else "alive"
        return f"<Domain {self.name} {state} ready={len(self.ready)}>"

    @property
    def alive_tasks(self) -> list[asyncio.Task[Any]]:
        """The tasks that have not ended, oldest first."""
        return [task for task in self.tasks if not task.done()]

    def adopt(self, task: asyncio.Task[Any]) -> None:
        # A reference to every task: one that is dropped would be finalised, and run what must never run again.
        self.tasks.append(task)
        if len(self.tasks) >= self._prune_at:
            self.tasks = self.alive_tasks
            self._prune_at = 2 * len(self.tasks) + 64


_domain: ContextVar[Domain] = ContextVar("domain")


class SimHandle(asyncio.TimerHandle):
    """A callback that waits for its turn or for its time."""

    __slots__ = ("domain",)

    def __init__(
        self, callback: Callable[..., object], args: tuple[Any, ...], loop: SimLoop, context: Context, when: float
    ) -> None:
        # Not the initialiser of the class above: this is the hottest path of a simulation.
        self._callback: Callable[..., object] | None = callback
        self._args = args
        self._loop = loop
        self._context = context
        self._cancelled = False
        self._repr = None
        self._source_traceback = None
        self._when = when
        self._scheduled = False
        self.domain: Domain = context.get(_domain, loop.home)

    def cancel(self) -> None:
        self._cancelled = True
        self._callback = None
        self._args = ()


class SimLoop(asyncio.AbstractEventLoop):
    """The loop. `on_error` gets what no task caught, in the form of `call_exception_handler`.

    `shuffle`: the share of steps that take any callback of their domain instead of its oldest.
    """

    def __init__(
        self, random: Random, *, shuffle: float = 0.0, on_error: Callable[[dict[str, Any]], None] | None = None
    ) -> None:
        self.home = Domain("home")
        self.steps = 0
        self._random = random.random
        self._shuffle = shuffle
        self._on_error = on_error
        self._now = 0.0
        self._timers: list[tuple[float, int, SimHandle]] = []
        self._sequence = 0
        self._runnable: list[Domain] = []
        self._domains: list[Domain] = [self.home]
        self._buried: list[SimHandle] = []
        self._stopping = False
        self._closed = False

    def __repr__(self) -> str:
        return f"<SimLoop t={self._now:.6f} steps={self.steps} timers={len(self._timers)}>"

    # domains

    def domain(self, name: str) -> Domain:
        """A new domain."""
        domain = Domain(name)
        self._domains.append(domain)
        return domain

    def freeze(self, domain: Domain) -> None:
        """Let nothing of this domain run until it thaws. Its timers still fall due, and wait as well."""
        if not domain.frozen:
            domain.frozen = True
            if domain in self._runnable:
                self._runnable.remove(domain)

    def thaw(self, domain: Domain) -> None:
        if domain.frozen:
            domain.frozen = False
            if domain.ready and not domain.dead:
                self._runnable.append(domain)

    def kill(self, domain: Domain) -> None:
        """Run nothing of this domain ever again."""
        self.freeze(domain)
        domain.dead = True
        self._buried.extend(domain.ready)
        domain.ready.clear()

    # running

    def run(self, after_step: Callable[[Domain], bool]) -> None:
        """Run until `after_step`, called after every step with its domain, says True, or nothing is left to do.

        Raises RuntimeError when steps follow each other without a moment passing.
        """
        outer = asyncio_events._get_running_loop()
        asyncio_events._set_running_loop(None)
        asyncio_events._set_running_loop(self)
        self._stopping = False
        runnable, pick, shuffle = self._runnable, self._random, self._shuffle
        until = self.steps + SPIN
        try:
            while not self._stopping:
                if not runnable:
                    if not self._advance():
                        return
                    until = self.steps + SPIN
                    continue
                place = int(pick() * len(runnable)) if len(runnable) > 1 else 0
                domain = runnable[place]
                ready = domain.ready
                if shuffle and len(ready) > 1 and pick() < shuffle:
                    chosen = int(pick() * len(ready))
                    handle = ready[chosen]
                    del ready[chosen]
                else:
                    handle = ready.popleft()
                if not ready:
                    runnable[place] = runnable[-1]
                    runnable.pop()
                if handle._callback is None:
                    continue
                self.steps += 1
                try:
                    handle._context.run(handle._callback, *handle._args)
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:  # noqa: BLE001  (as every event loop: it is reported, and goes on)
                    self.call_exception_handler({"message": f"{handle._callback!r} failed", "exception": error})
                if after_step(domain):
                    return
                if self.steps > until:
                    raise RuntimeError(f"{SPIN} steps at {self._now:.3f} s without a moment passing")
        finally:
            asyncio_events._set_running_loop(outer)

    def run_until_complete(self, future: Any) -> Any:
        """Run a coroutine or a future to its end, and return its result. Raises RuntimeError when it never ends."""
        task: asyncio.Future[Any] = asyncio.ensure_future(future, loop=self)
        self.run(lambda _: task.done())
        if not task.done():
            raise RuntimeError("nothing is left to do, and it is not done")
        return task.result()

    def _advance(self) -> bool:
        """Let the time pass until something falls due that can run; False when nothing ever does."""
        timers = self._timers
        while timers and not self._runnable:
            when = timers[0][0]
            self._now = max(self._now, when)
            while timers and timers[0][0] <= self._now:
                handle = heapq.heappop(timers)[2]
                if handle._callback is not None:
                    self._enqueue(handle)
        return bool(self._runnable)

    def _enqueue(self, handle: SimHandle) -> None:
        domain = handle.domain
        if domain.dead or self._closed:
            self._buried.append(handle)
            return
        domain.ready.append(handle)
        if len(domain.ready) == 1 and not domain.frozen:
            self._runnable.append(domain)

    @property
    def running(self) -> str:
        """The name of the domain that runs."""
        return _domain.get(self.home).name

    def stop(self) -> None:
        self._stopping = True

    def close(self) -> None:
        """End every coroutine without running anything more: what their clean-up asks for is ignored."""
        if self._closed:
            return
        self._closed = True
        outer = asyncio_events._get_running_loop()
        asyncio_events._set_running_loop(None)
        asyncio_events._set_running_loop(self)
        try:
            for domain in self._domains:
                for task in domain.alive_tasks:
                    _end(task)
                domain.tasks.clear()
                domain.ready.clear()
        finally:
            asyncio_events._set_running_loop(outer)
        self._timers.clear()
        self._buried.clear()

    # what asyncio asks of a loop

    def time(self) -> float:
        """Seconds since the simulation began."""
        return self._now

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> SimHandle:
        handle = SimHandle(callback, args, self, context if context is not None else copy_context(), 0.0)
        self._enqueue(handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> SimHandle:
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> SimHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> SimHandle:
        handle = SimHandle(callback, args, self, context if context is not None else copy_context(), when)
        self._sequence += 1
        heapq.heappush(self._timers, (when, self._sequence, handle))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: Any, *, name: str | None = None, context: Context | None = None, **_: object
    ) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=name, context=context)
        if self._closed:
            _end(task)
        elif context is None:
            _domain.get(self.home).adopt(task)
        else:
            context.get(_domain, self.home).adopt(task)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self._on_error is not None and not self._closed:
            self._on_error(context)

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    def get_debug(self) -> bool:
        return False

    def set_debug(self, enabled: bool) -> None:
        """Ignore it: what asyncio's debug mode measures is real time."""

    async def shutdown_asyncgens(self) -> None:
        """Do nothing: `close` ends whatever is left, and this loop has no hooks for asynchronous generators."""

    async def shutdown_default_executor(self) -> None:
        """Do nothing: a virtual clock cannot wait for threads, so there are none."""

    def is_running(self) -> bool:
        return asyncio_events._get_running_loop() is self

    def is_closed(self) -> bool:
        return self._closed

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """A cancelled timer is passed over when it falls due."""


_CLEAN_UPS: Final = 100
"""Clean-ups of one coroutine that may each want to wait, as the exit stack of a manager does for all that it closes."""


def _end(task: asyncio.Task[Any]) -> None:
    setattr(task, "_log_destroy_pending", False)  # noqa: B010  (not in the type's public face)
    coroutine: Any = task.get_coro()
    for _ in range(_CLEAN_UPS):
        try:
            coroutine.close()
            return
        except RuntimeError:
            continue  # its clean-up would wait for something: there is nothing to wait for any more
