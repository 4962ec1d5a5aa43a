"""One measurement: a server in a process of its own, the load client in another, the figures of the system."""

from __future__ import annotations

import json
import os
import resource
import select
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from bench.peers import Peer

ROOT: Final = Path(__file__).parents[1]
START_SECONDS: Final = 20.0


class Failed(Exception):
    """A measurement that gave no figure; the message goes into the table."""


class Unavailable(Failed):
    """The peer cannot be started here at all."""


class TooSlow(Failed):
    """It had not ended in the time that it was given: it is not tried again. `figures`: what there is all the same."""

    def __init__(self, why: str, figures: Mapping[str, float] | None = None) -> None:
        super().__init__(why)
        self.figures = figures or {}


class Process:
    """A child that says JSON lines. Its standard error is kept, for when it fails."""

    def __init__(self, command: Sequence[str]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the process)
        self._rest = b""
        try:
            self._child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, bufsize=0, cwd=ROOT,
            )  # fmt: skip
        except FileNotFoundError as error:
            self._errors.close()
            raise Unavailable(f"{command[0]} is not installed") from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.kill()
        self._child.wait()
        for stream in (self._child.stdin, self._child.stdout, self._errors):
            if stream is not None:
                stream.close()

    @property
    def pid(self) -> int:
        return self._child.pid

    def write(self, line: str) -> None:
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(line.encode() + b"\n")
        except BrokenPipeError as error:
            raise Failed(f"it ended: {self._complaint()}") from error

    def read(self, seconds: float) -> dict[str, Any]:
        """The next line. Raises TooSlow after so many seconds, Failed when the child has ended."""
        assert self._child.stdout is not None
        deadline = time.monotonic() + seconds
        while b"\n" not in self._rest:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._child.stdout], [], [], left)[0]:
                raise TooSlow(f"over {seconds:.0f} s")
            data = os.read(self._child.stdout.fileno(), 65536)
            if not data:
                raise Failed(f"it ended: {self._complaint()}")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return json.loads(line)

    def _complaint(self) -> str:
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()]
        telling = [line for line in lines if "Error" in line]
        return (telling or lines or ["without a word"])[-1][:120]

    @property
    def cpu(self) -> float:
        """Seconds of CPU that the process has used so far, all threads, user and system, to the nanosecond."""
        return time.clock_gettime((~self.pid << 3) | 2)  # the kernel's clock id of another process


class Server(Process):
    """A peer's server, from its start to its end; a context manager. `redis`: the URL of where it keeps its streams."""

    def __init__(self, peer: Peer, redis: str | None = None) -> None:
        super().__init__([*peer.command, *(("--redis", redis) if redis else ())])
        self.peer = peer

    def __enter__(self) -> Server:
        try:
            self.hello = self.read(START_SECONDS)
        except Failed as error:
            self.__exit__(None, None, None)
            raise Unavailable(f"cannot be started: {error}") from error
        return self

    @property
    def port(self) -> int:
        return self.hello["port"]

    def order(self, what: str, *, seconds: float = 60.0, **more: object) -> dict[str, Any]:
        """Tell it to do something (see `peers/worker.py`), and wait for the answer."""
        self.write(json.dumps({"do": what, **more}))
        return self.read(seconds)

    def settled_memory(self) -> int:
        """Bytes that are this process's own, after a garbage collection."""
        for _ in range(2):
            self.order("collect")
        time.sleep(0.1)
        return self.memory

    @property
    def memory(self) -> int:
        """Bytes that are this process's own."""
        rollup = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        return sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_")) * 1024


class Load(Process):
    """The load client at a server; a context manager.

    `frames`: events count when their frame is complete, not one by one. `cuts`: how many times viewers are cut off and
    reconnect, in all, about `cut_every` events apart.
    """

    def __init__(
        self, server: Server, *, viewers: int, streams: int = 1, events: int = 1, seconds: float = 60.0,
        path: str | None = None, frames: bool = False, cuts: int = 0, cut_every: int = 50, seed: int = 1,
    ) -> None:  # fmt: skip
        peer = server.peer
        self._seconds = seconds
        command = [
            load_client(), "--port", str(server.port), "--path", path or peer.path, "--viewers", str(viewers),
            "--streams", str(streams), "--events", str(events), "--timeout", str(seconds),
        ]  # fmt: skip
        if frames:
            command += ["--resume", "id"]
        if cuts:
            command += ["--resume", peer.resume, "--cuts", str(cuts), "--cut-every", str(cut_every)]
            command += ["--seed", str(seed)]
            command += ["--resume-path", peer.resume_path] if peer.resume_path else []
            command += ["--resume-header", peer.resume_header] if peer.resume_header else []
        super().__init__(command)

    def __enter__(self) -> Load:
        return self

    def ready(self) -> dict[str, Any]:
        """Wait until every viewer has its response's headers."""
        return self.read(self._seconds + 1)

    def result(self, *, exact: bool = True) -> dict[str, Any]:
        """Wait until every viewer has every event. `exact`: anything lost, repeated or out of order is a failure."""
        found = self.read(self._seconds + 5)
        if found["timed_out"]:
            raise TooSlow(f"over {self._seconds:.0f} s")
        faults = {what: found[what] for what in ("missing", "repeated", "misordered", "refused") if found[what]}
        if exact and faults:
            raise Failed(", ".join(f"{count:,} {what}" for what, count in faults.items()))
        return found


def load_client() -> str:
    """The path of the native client. Raises Unavailable where it was not built."""
    path = Path(os.environ.get("BENCH_LOAD", ROOT / "build" / "bench-load"))
    if not path.exists():
        raise Unavailable(f"{path.name} is not built: make bench builds it, with gcc")
    return str(path)


def raise_file_limit() -> None:
    """Let this process and its children hold as many connections as the system allows."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
