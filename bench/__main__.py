"""`python -m bench`: ours beside its peers and the machine's floor, as ratios measured in one run.

`python -m bench compare BASE.json [NEW.json]`: what has changed since; without NEW the bench runs itself.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench import compare, report
from bench.cases import Case
from bench.harness import raise_file_limit
from bench.peers import OURS
from bench.rounds import measure
from bench.workloads import CASES


def _chosen(only: str | None, who: str | None) -> Sequence[Case]:
    """The workloads named in `only`, with ours and those whose names hold a word of `who`."""
    cases = CASES if only is None else _named(only)
    if who is None:
        return cases
    words = [word.strip().lower() for word in who.split(",")]
    return [
        replace(case, peers=[peer for peer in case.peers if peer is OURS or any(w in peer.name.lower() for w in words)])
        for case in cases
    ]


def _named(only: str) -> Sequence[Case]:
    wanted = [name.strip().lower() for name in only.split(",")]
    found = [case for case in CASES if case.key.lower() in wanted or case.key.split()[0].lower() in wanted]
    if not found:
        raise SystemExit(f"no workload is called {only}: there are {', '.join(case.key for case in CASES)}")
    return found


def _run(options: argparse.Namespace) -> report.Row:
    cases = _chosen(options.only, options.who)
    rounds = options.rounds or (1 if options.quick else 3)
    raise_file_limit()
    begun = time.monotonic()
    results = measure(cases, rounds=rounds, quick=options.quick)
    found = report.document(cases, results, rounds=rounds, quick=options.quick, seconds=time.monotonic() - begun)
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n")
    return found


def _measuring(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", help="workloads, as W1,W3")
    parser.add_argument("--who", help="beside unspool only those whose names hold one of these: floor,pypi")
    parser.add_argument("--rounds", type=int, help="turns of each (3; 1 with --quick)")
    parser.add_argument("--quick", action="store_true", help="a smoke: small workloads, one round")
    parser.add_argument("--json", metavar="FILE", help="write everything there")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    _measuring(parser)
    parser.add_argument("--markdown", action="store_true", help="print the tables for the documentation")
    if sys.argv[1:2] == ["compare"]:
        _compare(sys.argv[2:])
        return
    options = parser.parse_args()
    found = _run(options)
    print(report.markdown(found) if options.markdown else report.text(found))


def _compare(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench compare")
    parser.add_argument("base", type=Path, help="what --json wrote")
    parser.add_argument("new", type=Path, nargs="?", help="likewise; else the bench runs now")
    _measuring(parser)
    options = parser.parse_args(arguments)
    base = json.loads(options.base.read_text())
    if options.new is None:
        options.quick = options.quick or base["quick"]
        options.only = options.only or ",".join(base["titles"])
        new = _run(options)
    else:
        new = json.loads(options.new.read_text())
    print(compare.text(compare.compare(base, new), base, new))


if __name__ == "__main__":
    main()
