"""Programs of others that a test runs: what they print, and that none outlives its test."""

from __future__ import annotations

import asyncio
import json
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any


@asynccontextmanager
async def program(
    *command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None
) -> AsyncGenerator[Process]:
    """A program with its standard streams at hand. It is killed on leaving, where it has not ended by itself."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command), cwd=cwd, env=env, stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def ended(process: Process, read: object = None) -> str:
    """What it prints until its end. `read`: JSON on its standard input. Raises AssertionError with its complaints."""
    output, errors = await process.communicate(json.dumps(read).encode())
    assert process.returncode == 0, errors.decode()
    return output.decode()


async def node(script: Path, *arguments: str, read: object = None) -> Any:
    """The JSON that a program for Node prints."""
    async with program("node", script, *arguments) as process:
        return json.loads(await ended(process, read))
