"""Runs by name: what can be started with JSON arguments, and gone on with by another process that knows the name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, get_args

import msgspec

from unspool.errors import InvalidArgument
from unspool.events import check_depth, encode_data
from unspool.jobs import Task, check_id
from unspool.producer import Generation

RunFunction = Callable[[Generation], Awaitable[object]]
NamedRun = Callable[[Generation, dict[str, Any]], Awaitable[object]]
OwnerLost = Literal["fail", "resume"]


class Tasks:
    """The runs that this process knows by name."""

    def __init__(self) -> None:
        self._runs: dict[str, NamedRun] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._runs

    def register(self, name: str, run: NamedRun) -> None:
        """Raises InvalidArgument for a name that is taken."""
        check_id("name", name)
        if self._runs.setdefault(name, run) is not run:
            raise InvalidArgument(f"another run is registered as {name!r} already")

    def describe(
        self, run: RunFunction | str, args: Mapping[str, Any] | None, on_owner_lost: OwnerLost
    ) -> RunFunction | Task:
        """What is to be begun: a run by name as a job can keep it, any other one as it is. Raises InvalidArgument."""
        if on_owner_lost not in get_args(OwnerLost):
            raise InvalidArgument(f"on_owner_lost must be 'fail' or 'resume', not {on_owner_lost!r}")
        if not isinstance(run, str):
            if args is not None or on_owner_lost != "fail":
                raise InvalidArgument("args and on_owner_lost are for runs by name: register it, and give its name")
            return run
        if run not in self._runs:
            known = ", ".join(sorted(self._runs)) or "none"
            raise InvalidArgument(f"no run is registered as {run!r}; known are: {known}")
        copy = msgspec.json.decode(check_depth(encode_data(dict(args or {}), where="args"), where="args"))
        return Task(run, copy, resume=on_owner_lost == "resume")

    async def call(self, run: RunFunction | Task, generation: Generation) -> object:
        """Do what a run does."""
        if isinstance(run, Task):
            return await self._runs[run.name](generation, run.args)
        return await run(generation)
