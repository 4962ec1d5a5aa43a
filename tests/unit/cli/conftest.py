"""What the tests of the command line share: the real command, and real servers, each in a process of its own."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.processes import bare_environment, default_signals
from tests.waiting import HANG

Spawn = Callable[..., Awaitable[Process]]


class Ran(NamedTuple):
    """How a command ended."""

    code: int | None
    out: str
    err: str


class Served(NamedTuple):
    """A real server, and what it said when it was ready."""

    process: Process
    url: str
    announced: str


@pytest.fixture(autouse=True)
def _no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove what the user has set for `unspool` and for the clients of providers."""
    for name in [name for name in os.environ if name.startswith(("UNSPOOL_", "OPENAI_", "ANTHROPIC_"))]:
        monkeypatch.delenv(name)


@pytest.fixture
async def spawn(tmp_path: Path) -> AsyncGenerator[Spawn, None]:
    """Start the real command in an empty folder, without the user's variables and with no signal ignored; it is
    killed after the test."""
    started: list[Process] = []
    command = Path(sys.executable).with_name("unspool")  # as installed, beside this very interpreter

    async def start(*arguments: str, **env: str) -> Process:
        environment = bare_environment(**{"COLUMNS": "100", "NO_COLOR": "1", **env})
        with default_signals():
            process = await asyncio.create_subprocess_exec(
                command,
                *arguments,
                cwd=tmp_path,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=PIPE,
                stderr=PIPE,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture
def unspool(spawn: Spawn) -> Callable[..., Awaitable[Ran]]:
    """Run the real command to its end."""

    async def run(*arguments: str, **env: str) -> Ran:
        process = await spawn(*arguments, **env)
        async with asyncio.timeout(HANG):
            out, err = await process.communicate()
        return Ran(process.returncode, out.decode(), err.decode())

    return run


@pytest.fixture
def serve(spawn: Spawn) -> Callable[..., Awaitable[Served]]:
    """Start a real server on a free port."""

    async def start(*arguments: str, **env: str) -> Served:
        process = await spawn("serve", "--port", "0", *arguments, **env)
        assert process.stdout is not None
        announced = ""
        async with asyncio.timeout(HANG):
            while (found := re.search(r"^http://\S+$", announced, re.MULTILINE)) is None:
                line = await process.stdout.readline()
                assert line, f"the server did not start: {announced}"
                announced += line.decode()
        return Served(process, found[0], announced)

    return start
