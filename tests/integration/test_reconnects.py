"""2,000 random reconnects over real sockets, hints lost, late, doubled and out of order: nothing lost or repeated."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import httpx2
import pytest

from tests.conftest import Serving
from unspool import GenerationManager, Options
from unspool.backends.memory import MemoryStore, MemoryTransport
from unspool.http import StartRequest, create_app
from unspool.producer import Generation
from unspool.sse import Decoder
from unspool.testing.hostile import HostileTransport

RECONNECTS = 2_000
STREAMS = 20
TERMINAL = "completed"


async def unused(gen: Generation, request: StartRequest) -> None:
    raise AssertionError("nothing is started over HTTP here")


class Reader:
    """One client: connects, reads a random number of bytes, cuts, and goes on from its last position."""

    def __init__(self, stream: str, seed: int, total: Counter[str]) -> None:
        self.stream = stream
        self.random = random.Random(seed)
        self.total = total
        self.offsets: list[int] = []
        self.numbers: list[int] = []
        self.position = ""

    async def read(self, client: httpx2.AsyncClient) -> None:
        ended = False
        while not ended:
            headers = {"Last-Event-ID": self.position} if self.position else {}
            budget = int(self.random.expovariate(1 / 600))
            decoder = Decoder(self.position)
            async with client.stream("GET", f"/v1/streams/{self.stream}/events", headers=headers) as response:
                self.total["connections"] += 1
                assert response.status_code == 200, await response.aread()
                async for chunk in response.aiter_raw():
                    piece = chunk[:budget] if self.total["connections"] < RECONNECTS else chunk
                    budget -= len(piece)
                    for message in decoder.feed(piece):
                        ended = ended or message.event == TERMINAL
                        self.take(message.id, message.event, message.data)
                    if len(piece) < len(chunk):
                        break
            self.position = decoder.last_event_id

    def take(self, position: str | None, event: str, data: str) -> None:
        assert position is not None
        self.offsets.append(int(position.partition("-")[2]))
        if event == "custom":
            self.numbers.append(int(data.rpartition(":")[2].rstrip("}")))


@pytest.mark.timeout(240)
async def test_two_thousand_random_reconnects_are_exact(serving: Serving, capsys: pytest.CaptureFixture[str]) -> None:
    """Every client, cut at random bytes and on a replica that is not the owner, gets every record once, in order."""
    options = Options(poll=0.02, sweep=0.05)
    store = MemoryStore()
    transport = HostileTransport(MemoryTransport(), seed=7)
    owner = GenerationManager(store, transport, options=options)
    replica = GenerationManager(store, transport, options=options)
    total: Counter[str] = Counter()
    done = asyncio.Event()
    sent: dict[str, int] = {}

    async def run(gen: Generation) -> None:
        number = 0
        while not done.is_set():
            number += 1
            await gen.emit("custom", {"name": "n", "value": number})
            await asyncio.sleep(0.001)
        sent[gen.stream_id] = number

    async with owner, serving(create_app(replica, run=unused)) as client:
        names = [f"s{number}" for number in range(STREAMS)]
        for name in names:
            await owner.start(name, run)
        readers = [Reader(name, seed, total) for seed, name in enumerate(names)]
        reading = [asyncio.create_task(reader.read(client)) for reader in readers]
        while total["connections"] < RECONNECTS and not any(task.done() for task in reading):
            await asyncio.sleep(0.05)
        done.set()
        await asyncio.gather(*reading)
    lost = repeated = disordered = 0
    for reader in readers:
        expected = list(range(1, sent[reader.stream] + 1))
        lost += len(set(expected) - set(reader.numbers))
        repeated += len(reader.offsets) - len(set(reader.offsets))
        disordered += sum(a >= b for a, b in zip(reader.offsets, reader.offsets[1:], strict=False))
        assert reader.numbers == expected
    with capsys.disabled():
        print(
            f"\n{total['connections']} connections, {sum(sent.values())} events, "
            f"{lost} lost, {repeated} repeated, {disordered} out of order; hints: {transport.statistics()}"
        )
    assert total["connections"] >= RECONNECTS
    assert (lost, repeated, disordered) == (0, 0, 0)
