"""A TCP proxy that treats what a server sends as bad networks do: cut at any byte, torn into pieces, held up.

    async with Proxy(port, Faults(seed=7, cut_after=(100, 3000), cuts=25)) as proxy:
        ...  # clients talk to proxy.url

From the command line, for clients in other languages: `python -m unspool.testing.proxy --help`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import socket
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from types import TracebackType
from typing import Final

_READ: Final = 64 * 1024
_LINGER_NONE: Final = struct.pack("ii", 1, 0)  # closing sends RST: what was not acknowledged is lost


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What happens to the bytes that come from the server. Chances are drawn from `seed`, so runs are alike.

    `cut_after`: each connection is cut after so many bytes, from the first to the second number; None: never. `cuts`:
    how many connections are cut in all; None: every one. Half of the cuts are a reset, which loses what is under way,
    half a clean end. `split`: bytes arrive in pieces of any size. `stall`: the chance that a piece is held up, and for
    how many seconds at most. `latency`: seconds by which every piece is held up. `uplink`: bytes per second that each
    connection carries to the server; 0: as many as come.
    """

    seed: int = 0
    cut_after: tuple[int, int] | None = None
    cuts: int | None = None
    split: bool = False
    stall: tuple[float, float] = (0.0, 0.0)
    latency: float = 0.0
    uplink: float = 0.0


class Proxy:
    """Listens on a free port of this machine while it is entered. `connections` and `cuts` are counted so far; of
    several upstream ports each connection goes to the next one.

    Set `refusing` to turn new connections away; `cut_all` cuts those that are open. `silence` swallows nothing and cuts
    nothing, but lets no byte through in either direction until `speak`: what a cable looks like that was pulled.
    """

    def __init__(self, upstream_port: int | Sequence[int], faults: Faults | None = None) -> None:
        self.port = 0
        self.connections = 0
        self.cuts = 0
        self.refusing = False
        self._upstreams = itertools.cycle([upstream_port] if isinstance(upstream_port, int) else upstream_port)
        self._faults = faults or Faults()
        self._random = Random(self._faults.seed)
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._server: asyncio.Server | None = None
        self._passing = asyncio.Event()
        self._passing.set()

    @property
    def open(self) -> int:
        """How many connections there are now."""
        return len(self._open)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        tasks = list(self._open)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()

    def cut_all(self) -> None:
        """Cut every open connection, with a reset."""
        for task, writer in list(self._open.items()):
            self.cuts += 1
            _reset(writer)
            task.cancel()

    def silence(self) -> None:
        """Let nothing through, from now on."""
        self._passing.clear()

    def speak(self) -> None:
        """Let everything through that was held up, and what follows."""
        self._passing.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = writer
        try:
            if self.refusing:
                _reset(writer)
            else:
                self.connections += 1
                await self._serve(reader, writer)
        except asyncio.CancelledError:
            pass  # cut, or the end: nobody awaits this task
        finally:
            del self._open[task]
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, upstream = await asyncio.open_connection("127.0.0.1", next(self._upstreams))
        except OSError:
            _reset(writer)
            return
        asking = asyncio.create_task(self._ask(reader, upstream))
        try:
            await self._answer(there, writer)
        finally:
            asking.cancel()
            upstream.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        faults, random = self._faults, self._random
        left = random.randint(*faults.cut_after) if faults.cut_after is not None else sys.maxsize
        with contextlib.suppress(OSError, RuntimeError):  # uvloop's word for a transport that has been closed
            while data := await reader.read(_READ):
                while data:
                    size = random.randint(1, len(data)) if faults.split else len(data)
                    if faults.latency:
                        await asyncio.sleep(faults.latency)
                    if random.random() < faults.stall[0]:
                        await asyncio.sleep(random.random() * faults.stall[1])
                    await self._passing.wait()
                    if size >= left and (faults.cuts is None or self.cuts < faults.cuts):
                        await self._cut(writer, data[:left])
                        return
                    writer.write(data[:size])
                    await writer.drain()
                    left -= size
                    data = data[size:]
                    if data:
                        await asyncio.sleep(0)  # so that the next piece is one of its own

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(_READ):
                if self._faults.uplink:
                    await asyncio.sleep(len(data) / self._faults.uplink)
                await self._passing.wait()
                writer.write(data)
                await writer.drain()
            writer.write_eof()
        except (OSError, RuntimeError):
            _reset(writer)  # whoever asked is gone, and waits for no answer

    async def _cut(self, writer: asyncio.StreamWriter, last: bytes) -> None:
        self.cuts += 1
        writer.write(last)
        await writer.drain()
        if self._random.random() < 0.5:
            _reset(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    connection: socket.socket = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
    writer.transport.abort()


async def _run(upstream: int, faults: Faults) -> None:
    async with Proxy(upstream, faults) as proxy:
        _say(port=proxy.port)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        _say(connections=proxy.connections, cuts=proxy.cuts)


def _say(**counts: int) -> None:
    sys.stdout.write(json.dumps(counts) + "\n")
    sys.stdout.flush()


def main() -> None:
    """The command: prints its port as JSON, and, when its standard input ends, what was counted."""
    parser = argparse.ArgumentParser(
        prog="python -m unspool.testing.proxy", description="A proxy that cuts, tears and stalls."
    )
    parser.add_argument("upstream", type=int, help="the server's port on this machine")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cut-after", type=int, nargs=2, metavar=("LOW", "HIGH"), help="bytes after which to cut")
    parser.add_argument("--cuts", type=int, help="connections to cut in all (every one)")
    parser.add_argument("--split", action="store_true", help="tear what comes into pieces")
    parser.add_argument("--stall", type=float, nargs=2, default=(0.0, 0.0), metavar=("CHANCE", "SECONDS"))
    given = parser.parse_args()
    cut_after: tuple[int, int] | None = tuple(given.cut_after) if given.cut_after else None
    stall: tuple[float, float] = tuple(given.stall)
    faults = Faults(seed=given.seed, cut_after=cut_after, cuts=given.cuts, split=given.split, stall=stall)
    asyncio.run(_run(given.upstream, faults))


if __name__ == "__main__":
    main()
