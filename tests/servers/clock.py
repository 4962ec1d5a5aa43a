"""The wall clock of one server, which a test steps while the server runs; its monotonic clock goes on as it was."""

from __future__ import annotations

from functools import cache
from pathlib import Path

_CACHED = Path(__file__).parents[2] / ".cache/faketime"
_NAME = "usr/lib/*/faketime/libfaketime.so.1"


@cache
def library() -> Path | None:
    """The library that a server's clock is stepped with; None where there is none: see scripts/faketime.sh."""
    return next((found for place in (_CACHED, Path("/")) for found in sorted(place.glob(_NAME))), None)


class Clock:
    """A clock that is `offset` seconds ahead of the machine's. Start the server with `environment`."""

    def __init__(self, file: Path) -> None:
        self.offset = 0.0
        self._file = file
        self.set(0.0)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",  # else a step is noticed ten seconds later
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    @staticmethod
    def forget(pid: int) -> None:
        """Remove the shared memory that the library leaves behind when its process is killed."""
        for name in (f"faketime_shm_{pid}", f"sem.faketime_sem_{pid}"):
            (Path("/dev/shm") / name).unlink(missing_ok=True)

    def set(self, offset: float) -> None:
        """Step it. The server never reads half of a number: the file is replaced."""
        written = self._file.with_suffix(".new")
        written.write_text(f"{offset:+.3f}")
        written.replace(self._file)
        self.offset = offset
