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


@pytest.fixture
async def spawn(tmp_path: Path) -> AsyncGenerator[Spawn, None]:
    """Start the real command in an empty folder, without anybody's settings; it is killed after the test."""
    started: list[Process] = []
    clean = {name: value for name, value in os.environ.items() if not name.startswith("UNSPOOL_")}
    command = Path(sys.executable).with_name("unspool")  # as installed, beside this very interpreter

    async def start(*arguments: str, **env: str) -> Process:
        environment = {**clean, "COLUMNS": "100", "NO_COLOR": "1", **env}
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
        async with asyncio.timeout(30):
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
        async with asyncio.timeout(30):
            while (found := re.search(r"^http://\S+$", announced, re.MULTILINE)) is None:
                line = await process.stdout.readline()
                assert line, f"the server did not start: {announced}"
                announced += line.decode()
        return Served(process, found[0], announced)

    return start
