"""Random reconnects over real sockets, hints lost, late, doubled and out of order: nothing lost or repeated.

2,000 of them in every run of the suite; as many as UNSPOOL_RECONNECTS says, where it is set.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import socket
import struct
import time
from collections import Counter

import httptools
import pytest

from tests.conftest import Serving
from unspool import GenerationManager, Options
from unspool.backends.memory import MemoryStore, MemoryTransport
from unspool.http import StartRequest, create_app
from unspool.producer import Generation
from unspool.sse import Decoder
from unspool.testing.hostile import HostileTransport

RECONNECTS = int(os.environ.get("UNSPOOL_RECONNECTS", "2000"))
STREAMS = 20
TERMINAL = "completed"
AHEAD = 200  # events that a run may be ahead of its reader: both stay live over any number of cuts
_RESET = struct.pack("ii", 1, 0)


async def unused(gen: Generation, request: StartRequest) -> None:
    raise AssertionError("nothing is started over HTTP here")


class Reader:
    """One client: connects, reads a random number of bytes, cuts, and goes on from its last position.

    A library's client takes longer for a connection than the server does; so this is a socket and a parser.
    """

    def __init__(self, stream: str, seed: int, total: Counter[str]) -> None:
        self.stream = stream
        self.random = random.Random(seed)
        self.total = total
        self.offsets: list[int] = []
        self.numbers: list[int] = []
        self.ended = False
        self._decoder = Decoder()
        self._parser = httptools.HttpResponseParser(self)

    async def read(self, port: int) -> None:
        while not self.ended:
            with socket.socket() as connection:
                connection.setblocking(False)
                await self._attempt(connection, port)
                if self.random.random() < 0.5:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    async def _attempt(self, connection: socket.socket, port: int) -> None:
        loop = asyncio.get_running_loop()
        self._decoder = Decoder(self._decoder.last_event_id)
        parser = self._parser = httptools.HttpResponseParser(self)
        position = f"last-event-id: {self._decoder.last_event_id}\r\n" if self._decoder.last_event_id else ""
        request = f"GET /v1/streams/{self.stream}/events HTTP/1.1\r\nhost: 127.0.0.1\r\n{position}\r\n"
        self.total["connections"] += 1
        # Anywhere: in the head of the answer, in the frame of a chunk, in an event.
        budget = 1 + int(self.random.expovariate(1 / 900))
        await loop.sock_connect(connection, ("127.0.0.1", port))
        await loop.sock_sendall(connection, request.encode())
        while budget > 0 and not self.ended:
            last = self.total["connections"] >= RECONNECTS
            data = await loop.sock_recv(connection, 65_536 if last else budget)
            assert data, "the server ended the connection"
            parser.feed_data(data)
            budget -= 0 if last else len(data)

    def on_headers_complete(self) -> None:
        assert self._parser.get_status_code() == 200

    def on_body(self, body: bytes) -> None:
        for message in self._decoder.feed(body):
            self.ended = self.ended or message.event == TERMINAL
            self._take(message.id, message.event, message.data)

    def _take(self, position: str | None, event: str, data: str) -> None:
        assert position is not None
        self.offsets.append(int(position.partition("-")[2]))
        if event == "custom":
            self.numbers.append(int(data.rpartition(":")[2].rstrip("}")))


@pytest.mark.timeout(120 + RECONNECTS // 100)
async def test_random_reconnects_are_exact(serving: Serving, capsys: pytest.CaptureFixture[str]) -> None:
    """Every client, cut at random bytes and on a replica that is not the owner, gets every record once, in order."""
    options = Options(poll=0.02, sweep=0.05)
    store = MemoryStore()
    transport = HostileTransport(MemoryTransport(), seed=7)
    owner = GenerationManager(store, transport, options=options)
    replica = GenerationManager(store, transport, options=options)
    total: Counter[str] = Counter()
    readers = {f"s{number}": Reader(f"s{number}", number, total) for number in range(STREAMS)}
    done = asyncio.Event()
    sent: dict[str, int] = {}
    begun = time.monotonic()

    async def run(gen: Generation) -> None:
        number = 0
        reader = readers[gen.stream_id]
        while not done.is_set():
            if number < len(reader.numbers) + AHEAD:
                number += 1
                await gen.emit("custom", {"name": "n", "value": number})
            await asyncio.sleep(0.001)
        sent[gen.stream_id] = number

    async with owner, serving(create_app(replica, run=unused)) as client:
        assert client.base_url.port is not None
        for name in readers:
            await owner.start(name, run)
        reading = [asyncio.create_task(reader.read(client.base_url.port)) for reader in readers.values()]
        while total["connections"] < RECONNECTS and not any(task.done() for task in reading):
            await asyncio.sleep(0.05)
        done.set()
        await asyncio.gather(*reading)
    lost = repeated = disordered = 0
    for name, reader in readers.items():
        expected = list(range(1, sent[name] + 1))
        lost += len(set(expected) - set(reader.numbers))
        repeated += len(reader.offsets) - len(set(reader.offsets))
        disordered += sum(a >= b for a, b in itertools.pairwise(reader.offsets))
        assert reader.numbers == expected
    with capsys.disabled():
        print(
            f"\n{total['connections']} connections, {sum(sent.values())} events, "
            f"{lost} lost, {repeated} repeated, {disordered} out of order; hints: {transport.statistics()}; "
            f"{time.monotonic() - begun:.0f} s"
        )
    assert total["connections"] >= RECONNECTS
    assert (lost, repeated, disordered) == (0, 0, 0)
