"""A store that fails and dawdles on demand: before a step, or after it, when nobody can tell whether it was done."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

from unspool.errors import StoreUnavailable
from unspool.protocols import JobStore


class FaultyStore:
    """Wraps a store. Use it as a JobStore: `store = FaultyStore(inner).as_store()`.

    `before`, `after`: the share of calls of the verbs in `verbs` that raise StoreUnavailable before, or after, the step
    was done; `delay`: seconds that each of them takes, at most. `down`: while set, every verb fails. `gate`: while it
    is an event that is not set, the verbs wait for it.
    """

    def __init__(
        self,
        inner: JobStore,
        *,
        seed: int = 0,
        before: float = 0.0,
        after: float = 0.0,
        delay: float = 0.0,
        verbs: frozenset[str] = frozenset({"append"}),
    ) -> None:
        self.before = before
        self.after = after
        self.delay = delay
        self.verbs = verbs
        self.down = False
        self.gate: asyncio.Event | None = None
        self.calls: dict[str, int] = {}
        self._inner = inner
        self._random = Random(seed)

    def __repr__(self) -> str:
        return f"<FaultyStore {self._inner!r} down={self.down} calls={sum(self.calls.values())}>"

    def as_store(self) -> JobStore:
        return self  # pyright: ignore[reportReturnType]  (its verbs are those of the store inside)

    def __getattr__(self, name: str) -> Any:
        if name == "append_at_once":
            raise AttributeError(name)  # nothing that may fail or take its time is
        found = getattr(self._inner, name)
        if name.startswith("_") or not inspect.iscoroutinefunction(found):
            return found
        return self._faulty(name, found)

    def _faulty(self, name: str, verb: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] = self.calls.get(name, 0) + 1
            self._fail_when(self.down and name != "close", name)
            if name not in self.verbs:
                return await verb(*args, **kwargs)
            if self.gate is not None:
                await self.gate.wait()
            if self.delay:
                await asyncio.sleep(self._random.random() * self.delay)
            self._fail_when(self._random.random() < self.before, name)
            answer = await verb(*args, **kwargs)
            if self.delay:
                await asyncio.sleep(self._random.random() * self.delay)
            self._fail_when(self.down or self._random.random() < self.after, name)
            return answer

        return call

    def _fail_when(self, due: bool, name: str) -> None:
        if due:
            raise StoreUnavailable(f"{name} failed, as it was told to")
