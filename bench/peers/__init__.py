"""Who is measured: each a server in a process of its own that obeys the orders of `worker`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_HERE: Final = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Peer:
    """`path` and `resume_path` have {n} for the stream's number and {p} for the position; `resume` says what a position
    is (see `load/parse.h`). `snapshot_path`: a join that begins with the content instead of the events."""

    name: str
    command: Sequence[str]
    path: str = "/s-{n}"
    resume: str = "none"
    resume_path: str | None = None
    resume_header: str | None = None
    snapshot_path: str | None = None
    floor: bool = False
    forgets: bool = False
    """An ended stream is not kept: what is retained is measured on streams that are still open."""
    merge: bool = True
    """Neighbouring deltas may merge."""


def _python(module: str) -> Sequence[str]:
    return (sys.executable, "-m", f"bench.peers.{module}")


def _node(script: str) -> Sequence[str]:
    return ("node", "--expose-gc", str(_HERE / f"{script}.mjs"))


_EVENTS: Final = "/v1/streams/s-{n}/events"

BARE: Final = Peer("floor: bare socket loop", _python("bare"), floor=True)
ASGI: Final = Peer("floor: raw ASGI, uvicorn", _python("asgi"), snapshot_path="/s-{n}/snapshot", floor=True)
OURS: Final = Peer(
    "unspool", _python("ours"), path=_EVENTS, resume="id", resume_header="Last-Event-ID: {p}",
    snapshot_path=f"{_EVENTS}?snapshot=1",
)  # fmt: skip
UNMERGED: Final = Peer("unspool, nothing merges", _python("ours"), path=_EVENTS, merge=False)
RS_NPM: Final = Peer(
    "npm resumable-stream", _node("resumable-stream"), resume="chars", resume_path="/s-{n}?resumeAt={p}", forgets=True
)
RS_PYPI: Final = Peer(
    "PyPI resumable-stream", _python("resumable_stream_py"), resume="chars", resume_path="/s-{n}?resume_at={p}",
    forgets=True,
)  # fmt: skip
DURABLE: Final = Peer(
    "npm @durable-streams/server", _node("durable-streams"), path="/s-{n}?offset=-1&live=sse", resume="offset",
    resume_path="/s-{n}?offset={p}&live=sse",
)  # fmt: skip
RAKAIA: Final = Peer(
    "PyPI rakaia-streams", _python("rakaia_streams"), path="/s-{n}?offset=-1&live=sse", resume="offset",
    resume_path="/s-{n}?offset={p}&live=sse",
)  # fmt: skip

FLOORS: Final = (BARE, ASGI)
PEERS: Final = (OURS, RS_NPM, RS_PYPI, DURABLE, RAKAIA)
