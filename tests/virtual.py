"""Virtual time for tests: a loop that never waits, the clock of that loop, and a runner for a single coroutine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, Final, TypeVar

from unspool.testing.simulation.loop import SimLoop

T = TypeVar("T")

BEGIN: Final = 1_800_000_000.0
"""Unix seconds at which the virtual time of a test begins."""


class VirtualLoop(SimLoop):
    """A loop whose clock moves only when there is nothing left to do. It has no sockets, and what is asked of a thread
    is done at once, by the caller.

    An error that no task has caught fails the test when the loop is closed.
    """

    def __init__(self) -> None:
        self._errors: list[dict[str, Any]] = []
        super().__init__(Random(0), on_error=self._errors.append)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Call it in place: a virtual clock cannot wait for threads."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001  (it is the awaiting caller's)
            future.set_exception(error)
        return future

    def close(self) -> None:
        super().close()
        assert not self._errors, self._errors


def now() -> float:
    """Unix seconds on the loop that is running: give it to stores as their clock."""
    return BEGIN + asyncio.get_running_loop().time()


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run one coroutine to its end on a virtual loop of its own, as `asyncio.run` does on a real one."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)
