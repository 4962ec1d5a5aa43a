"""Replicas as processes: started, frozen, killed, drained and talked to over HTTP; and what is read from them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

import httpx2
import msgspec

from tests.integration.redis.replica import Script
from unspool.client import Client, Received, Started, State
from unspool.client.follow import Following
from unspool.content import Fold
from unspool.errors import UnspoolError

T = TypeVar("T")

ROOT = Path(__file__).parents[3]
PATIENCE = 60.0
"""Seconds after which a wait counts as a hang."""
SLACK = 10.0
"""Seconds that a busy machine may take for anything beside what is promised."""
_NO_TLS = ssl.create_default_context()  # made once: it takes longer than a request
TIMES = {"lease": 2.0, "poll": 0.25, "sweep": 0.2, "abort_grace": 0.5, "drain": 5.0}
"""Options of a replica that is not told otherwise."""


class Gate:
    """A file that holds up runs which have been told its name (see `replica.Script`) until the test opens it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def open(self) -> None:
        """Let the runs pass that wait here, and those that come later."""
        self._path.touch()

    def close(self) -> None:
        """Hold up the runs that come later."""
        self._path.unlink()


class Replica:
    """A process that serves over a store. Start several with `launch`, which waits for all of them together.

    `root`: the checkout whose code it runs. `ledger`: URL of the ledger that pays for what is started under /paid.
    """

    def __init__(
        self,
        store: str,
        name: str,
        *,
        port: int = 0,
        heartbeat: float = 15.0,
        resumable: str | None = None,
        log: IO[str] | None = None,
        root: Path = ROOT,
        ledger: str | None = None,
        ledger_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.name = name
        self.url = ""
        command = [
            sys.executable, "-m", "tests.integration.redis.replica", "--store", store, "--name", name,
            "--port", str(port), "--heartbeat", str(heartbeat), "--options", json.dumps({**TIMES, **options}),
            *(["--resumable", resumable] if resumable else []),
            *(["--ledger", ledger, "--ledger-options", json.dumps(dict(ledger_options or {}))] if ledger else []),
        ]  # fmt: skip
        environment = None if root == ROOT else {**os.environ, "PYTHONPATH": str(root / "src")}
        self._process = subprocess.Popen(
            command, cwd=root, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        )

    def __repr__(self) -> str:
        return f"<Replica {self.name} {self.url} pid={self.pid}>"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    async def ready(self) -> None:
        """Wait until it answers."""
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            line = await asyncio.to_thread(self._process.stdout.readline)
        assert line, f"{self.name} did not start"
        self.url = json.loads(line)["url"]

    # what is done to it

    def kill(self) -> None:
        """End it as `kill -9` does."""
        self._process.kill()
        self._process.wait()
        self._close()

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def terminate(self) -> None:
        """Ask it to end."""
        self._process.terminate()

    async def ended(self) -> int:
        """Wait until it has ended; its exit code."""
        code = await until(self._process.poll, "the process ends", lambda code: code is not None)
        self._close()
        assert code is not None
        return code

    def _close(self) -> None:
        if self._process.stdout is not None:
            self._process.stdout.close()

    # talking to it

    def client(self, user: str = "u", *, attempts: int = 1) -> Client:
        made = Client(self.url, headers={"x-user": user}, attempts=attempts, http=self.http())
        made._own = True  # it closes what it was given, as if it were its own
        return made

    def http(self, user: str = "u") -> httpx2.AsyncClient:
        headers = {"x-user": user}
        return httpx2.AsyncClient(base_url=self.url, headers=headers, timeout=PATIENCE, trust_env=False, verify=_NO_TLS)

    async def census(self) -> dict[str, Any]:
        """What it holds: see `replica.census`."""
        async with self.http() as client:
            return (await client.get("/census")).json()

    async def say(self, stream_id: str, *, user: str = "u", **script: Any) -> Started:
        """Start a run that follows this script."""
        return await start(self.client(user), stream_id, **script)


async def launch(*replicas: Replica) -> None:
    """Wait until all of them answer."""
    await asyncio.gather(*(replica.ready() for replica in replicas))


async def start(
    client: Client,
    stream_id: str,
    *,
    more: dict[str, Any] | None = None,
    gates: Mapping[int, Gate] | None = None,
    tool: float | Gate = 0.0,
    **script: Any,
) -> Started:
    """Start a run that follows this script. `more`: what else the client is told."""
    script["gates"] = {number: str(gate) for number, gate in (gates or {}).items()}
    script["tool"] = str(tool) if isinstance(tool, Gate) else tool
    message = msgspec.json.encode(Script(**script)).decode()
    async with client:
        return await client.start(stream_id, message, **(more or {}))


class Follower:
    """Reads a stream from one replica to its end, as a client that comes again when it is cut off; keeps all of it."""

    def __init__(self, replica: Replica, stream_id: str, *, user: str = "u", **position: Any) -> None:
        self.records: list[Received] = []
        self.states: list[str] = []
        self.error: UnspoolError | None = None
        self.ended_at = 0.0
        self._grew = asyncio.Event()
        self._client = replica.client(user)
        self._task = asyncio.create_task(self._read(stream_id, position))

    async def _read(self, stream_id: str, position: dict[str, Any]) -> None:
        try:
            async with self._client as client:
                async for record in client.follow(stream_id, on_state=self._on_state, **position):
                    self.records.append(record)
                    self._grew.set()
        except UnspoolError as error:
            self.error = error
        finally:
            self.ended_at = time.monotonic()
            self._grew.set()

    def _on_state(self, state: State) -> None:
        self.states.append(state.name)
        self._grew.set()

    async def until(self, enough: Callable[[Follower], bool], what: str = "enough") -> None:
        """Wait until what was read is enough."""
        async with asyncio.timeout(PATIENCE):
            while not enough(self):
                assert not self._task.done(), f"it ended before {what}: {self.error!r}, {self.types[-3:]}"
                self._grew.clear()
                await self._grew.wait()

    async def reach(self, number: int) -> None:
        """Wait until this number was read."""
        await self.until(lambda follower: follower.count >= number, f"number {number}")

    async def end(self) -> list[Received]:
        """Wait for the end; everything that was read."""
        async with asyncio.timeout(PATIENCE):
            await asyncio.shield(self._task)
        if self.error is not None:
            raise self.error
        return self.records

    async def leave(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    @property
    def count(self) -> int:
        return len(self.text.split())

    @property
    def text(self) -> str:
        folded = Fold()
        folded.apply_all(self.records)
        return folded.snapshot().text

    @property
    def types(self) -> list[str]:
        return [record.type for record in self.records]

    @property
    def connections(self) -> int:
        """How often it had to connect."""
        return self.states.count("live")


async def read_until_cut(
    client: httpx2.AsyncClient, url: str, following: Following, records: list[Received]
) -> httpx2.TransportError | None:
    """Read one response until it ends in whatever way; the error with which it did, if that was no proper end."""
    call = following.request()
    async with client:
        try:
            async with client.stream("GET", url + call.path, params=call.params, headers=call.headers) as response:
                following.answered(url, response.status_code, response.headers)
                async for data in response.aiter_raw():
                    records += following.feed(data)
        except httpx2.TransportError as error:
            return error
    return None


def numbers(count: int) -> str:
    """The text of a run that has said so many numbers."""
    return "".join(f"{number} " for number in range(1, count + 1))


def check_exact(records: Sequence[Received], count: int | None = None, *, first: int = 1) -> None:
    """Every record from the first on, in order, once, up to one terminal record; and the numbers without a hole."""
    offsets = [record.offset for record in records]
    assert offsets == list(range(first, first + len(records))), offsets
    assert [record.terminal for record in records] == [False] * (len(records) - 1) + [True], records[-3:]
    folded = Fold()
    folded.apply_all(records)
    said = folded.snapshot().text.split()
    begin = int(said[0]) if said and first > 1 else 1
    assert said == [str(number) for number in range(begin, begin + len(said))]
    if count is not None:
        assert begin + len(said) - 1 == count


async def until(
    look: Callable[[], T] | Callable[[], Awaitable[T]],
    what: str,
    good: Callable[[T], bool] = bool,
    *,
    seconds: float = PATIENCE,
) -> T:
    """Ask again until the answer is good."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        answer: T = await found if isinstance(found, Awaitable) else found  # pyright: ignore[reportAssignmentType]
        if good(answer):
            return answer
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s, but {answer!r}"
        await asyncio.sleep(0.01)
