"""Rounds: in each of them everybody takes a turn, so that a ratio compares what the machine did in the same moment."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from bench.cases import Case, Figures, Results
from bench.harness import Failed, TooSlow, Unavailable
from bench.peers import Peer

_ABSENT: Final = "absent: "
_GIVEN_UP: Final = " (given up)"


def measure(cases: Sequence[Case], *, rounds: int, quick: bool) -> Results:
    """Run the cases one after the other. A failure becomes a note; who cannot be started is not asked again."""
    results = Results()
    absent: dict[str, str] = {}
    for case in cases:
        for turn in range(1, min(rounds, case.rounds or rounds) + 1):
            for peer in case.peers:
                key = case.key, peer.name
                if peer.name in absent:
                    results.notes[key] = absent[peer.name]
                    continue
                if results.notes.get(key, "").endswith(_GIVEN_UP):
                    continue
                _tell(f"{case.key}, round {turn}: {peer.name}")
                figures, note = _turn(case, peer, quick)
                results.rounds.setdefault(key, []).append(figures)
                if note is not None:
                    results.notes[key] = note
                if note is not None and note.startswith(_ABSENT):
                    absent[peer.name] = note
    _tell("")
    return results


def _turn(case: Case, peer: Peer, quick: bool) -> tuple[Figures | None, str | None]:
    try:
        return case.run(peer, quick), None
    except Unavailable as error:
        return None, f"{_ABSENT}{error}"
    except TooSlow as error:
        return error.figures or None, f"{error}{_GIVEN_UP}"
    except Failed as error:
        return None, f"failed: {error}"


def _tell(what: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{what}", end="", file=sys.stderr, flush=True)
    elif what:
        print(what, file=sys.stderr, flush=True)
