"""The cutting proxy: what it lets through is what was sent, and what it cuts is counted."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from tests.waiting import until
from unspool.testing.proxy import Faults, Proxy

DATA = bytes(range(256)) * 64


@asynccontextmanager
async def sending(data: bytes = DATA) -> AsyncGenerator[int]:
    """A server that sends this to everybody who says something."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(data)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def fetch(port: int) -> tuple[bytes, list[int]]:
    """What came, and in pieces of which sizes, until the connection ended in whatever way."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    got, sizes = b"", []
    try:
        writer.write(b"x")
        while piece := await reader.read(65536):
            got += piece
            sizes.append(len(piece))
    except ConnectionError:
        pass
    finally:
        writer.close()
    return got, sizes


async def test_without_faults_it_is_not_there() -> None:
    async with sending() as port, Proxy(port) as proxy:
        assert (await fetch(proxy.port))[0] == DATA
        assert (proxy.connections, proxy.cuts) == (1, 0)


async def test_silenced_it_lets_nothing_through_until_it_speaks() -> None:
    async with sending() as port, Proxy(port, Faults(latency=0.001)) as proxy:
        proxy.silence()
        fetching = asyncio.create_task(fetch(proxy.port))
        await until(lambda: proxy.connections)
        assert await asyncio.wait([fetching], timeout=0.1) == (set(), {fetching})
        proxy.speak()
        assert (await fetching)[0] == DATA


async def test_split_and_stalled_it_is_still_whole() -> None:
    # Each piece is held up so long that no two of them come in one read.
    faults = Faults(seed=1, split=True, latency=0.02, stall=(0.5, 0.002))
    async with sending() as port, Proxy(port, faults) as proxy:
        got, sizes = await fetch(proxy.port)
    assert got == DATA
    assert len(sizes) > 3


async def test_it_cuts_as_often_as_it_is_told_each_time_within_the_bounds() -> None:
    """A prefix arrives; a reset may lose what was under way, never change it."""
    async with sending() as port, Proxy(port, Faults(seed=2, cut_after=(10, 500), cuts=20)) as proxy:
        cut = [(await fetch(proxy.port))[0] for _ in range(20)]
        assert proxy.cuts == 20
        assert (await fetch(proxy.port))[0] == DATA
        assert (proxy.cuts, proxy.connections) == (20, 21)
    assert all(len(got) <= 500 and DATA.startswith(got) for got in cut)
    assert len({len(got) for got in cut}) > 5


async def test_it_cuts_and_refuses_on_demand() -> None:
    async with sending(b"") as port, Proxy(port) as proxy:
        _, idle = await asyncio.open_connection("127.0.0.1", proxy.port)
        while not proxy.connections:
            await asyncio.sleep(0)
        proxy.cut_all()
        proxy.refusing = True
        assert proxy.cuts == 1
        assert (await fetch(proxy.port))[0] == b""
        assert proxy.connections == 1
        idle.close()


async def test_a_server_that_is_away_is_a_broken_connection() -> None:
    async with sending() as port:
        pass
    async with Proxy(port) as proxy:
        assert (await fetch(proxy.port))[0] == b""


async def test_as_a_command() -> None:
    async with sending() as port:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "unspool.testing.proxy", str(port),
            "--seed", "3", "--cut-after", "5", "9", "--cuts", "1",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        hello = json.loads(await process.stdout.readline())
        assert len((await fetch(hello["port"]))[0]) <= 9
        assert (await fetch(hello["port"]))[0] == DATA
        counted, _ = await process.communicate(b"")
    assert json.loads(counted) == {"connections": 2, "cuts": 1}
    assert process.returncode == 0


@pytest.mark.parametrize("seed", [4, 5])
async def test_the_same_seed_cuts_at_the_same_places(seed: int) -> None:
    found: list[list[int]] = []
    for _ in range(2):
        async with sending() as port, Proxy(port, Faults(seed=seed, cut_after=(1, 9999))) as proxy:
            # Only clean ends arrive in full; where the reset ones fall is the same, too.
            found.append([len((await fetch(proxy.port))[0]) for _ in range(8)])
    assert sum(a == b for a, b in zip(*found, strict=True)) >= 3
