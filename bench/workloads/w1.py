"""W1: one job, one subscriber in the same process."""

from __future__ import annotations

from typing import Final

from bench.cases import CPU, RATE, Case, Figures, ahead
from bench.harness import Server
from bench.peers import BARE, OURS, PEERS, UNMERGED, Peer


def _run(peer: Peer, quick: bool) -> Figures:
    events = 10_000 if quick else 100_000
    with Server(peer) as server:
        before = server.cpu
        found = server.order("local", events=events, merge=peer.merge)
        spent = server.cpu - before
    return {CPU.name: spent / events * 1e6, RATE.name: events / found["seconds"]}


CASES: Final = (
    Case(
        "W1", "one job, one in-process subscriber, 100,000 events, content folded where there is a fold",
        (BARE, OURS, UNMERGED, *PEERS[1:]), (CPU, RATE), _run, (ahead(CPU.name), ahead(RATE.name)),
    ),
)  # fmt: skip
