"""`python -m bench.growth`: how costs grow with viewers, streams, events, payload and replicas; and unit costs.

It takes some seven minutes; --quick is a smoke of one or two. `python -m bench.scaling FILE` prints what the unit costs
of such a run mean for many generations.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from bench.growth import pages
from bench.growth.running import chosen, run
from bench.harness import Unavailable, load_client, raise_file_limit


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__)
    parser.add_argument("--only", help="curves, as viewers,streams,events,payload,replicas,units")
    parser.add_argument("--quick", action="store_true", help="a smoke: few points, each of a moment")
    parser.add_argument("--rounds", type=int, default=1, help="measure each point so often and keep the least (1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw the curves there")
    parser.add_argument("--docs", action="store_true", help="rewrite the figures and pictures of the documentation")
    parser.add_argument("--from", type=Path, metavar="FILE", dest="source", help="what --json wrote, instead of a run")
    return parser.parse_args()


def _document(options: argparse.Namespace) -> dict[str, Any]:
    if options.source is not None:
        try:
            return json.loads(options.source.read_text())
        except (OSError, ValueError) as error:
            raise SystemExit(f"{options.source} cannot be read: {error}") from error
    curves, units = chosen(options.only)
    try:
        load_client()
    except Unavailable as missing:
        raise SystemExit(str(missing)) from missing
    raise_file_limit()
    return run(curves, units=units, quick=options.quick, rounds=max(options.rounds, 1))


def main() -> None:
    options = _arguments()
    document = _document(options)
    if options.json is not None:
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    if options.plots is not None:
        pages.draw_pictures(document, options.plots)
    if options.docs:
        pages.write_docs(document)
    print(pages.text(document))


if __name__ == "__main__":
    main()
