"""`python -m tests.chaos --seed 7 --minutes 1`: replicas that die, and everything else that goes wrong, over Redis.

Ends with 1 at the first thing that must never happen, and tells what led there. Processes are real and so is the time:
a seed chooses what happens, and not exactly when.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import resource
import sys
import tempfile
import time
from pathlib import Path
from random import Random

import httpx2

from tests.chaos import books, leftovers, truth
from tests.chaos.faults import Troublemaker
from tests.chaos.newer import Injector
from tests.chaos.report import Fault, Report
from tests.chaos.settings import TOPOLOGIES, Settings
from tests.chaos.streams import User
from tests.chaos.world import World, made


async def run(settings: Settings, folder: Path, *, quiet: bool = False) -> Report:
    """One run; `Report.fault` says what must not have happened, if anything."""
    report = Report(settings, folder)
    try:
        async with made(settings, report) as world, httpx2.AsyncClient(trust_env=False) as http:
            users = [User(world, number, http) for number in range(settings.streams)]
            async with asyncio.TaskGroup() as group:
                for user in users:
                    group.create_task(user.live())
                group.create_task(Troublemaker(world, users, Random(settings.seed)).run())
                group.create_task(Injector(world, Random(f"{settings.seed}/newer"), http).run())
                group.create_task(_watch(world, users, quiet=quiet))
            for user in users:
                await truth.check_unchanged(world, user.turns)
            if world.books is not None:
                await books.check(world.books, report)
            await leftovers.check(world)
    except* Fault as faults:
        report.fault = "\n".join(str(fault) for fault in faults.exceptions)
    return report


async def _watch(world: World, users: list[User], *, quiet: bool) -> None:
    """Say how far it is, and when it is enough."""
    settings, report = world.settings, world.report
    told = 0.0
    while True:
        await asyncio.sleep(0.5)
        seconds = time.monotonic() - report.begun
        kills = report.counts["trouble: killed"]
        reconnects = report.counts["reconnects"]
        if not quiet and seconds - told >= 10:
            told = seconds
            sys.stderr.write(f"{seconds:6.0f} s, {kills} kills, {reconnects:,} reconnects\n")
        enough = kills >= settings.kills and reconnects >= settings.reconnects
        if (seconds >= settings.seconds and enough) or seconds >= 2 * settings.seconds:
            world.over.set()
            return


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--viewers", type=int, default=4, help="of each generation")
    parser.add_argument("--topology", choices=TOPOLOGIES, default="single")
    parser.add_argument("--hold", type=float, default=0.3, help="mean seconds of a viewer's connection")
    parser.add_argument("--trouble", type=float, default=1.0, help="mean seconds between two troubles")
    parser.add_argument("--retention", type=float, default=20.0)
    parser.add_argument("--kills", type=int, default=0, help="go on until so many processes were killed")
    parser.add_argument("--reconnects", type=int, default=0, help="and viewers came back so often")
    parser.add_argument(
        "--without", action="append", default=[], metavar="TROUBLE", help='"redis emptied", "ledger", …'
    )
    parser.add_argument("--mixed", action="store_true", help="half of the replicas run another version, without clocks")
    parser.add_argument("--other", default=Settings.other, metavar="COMMIT", help="which, for --mixed")
    parser.add_argument("--json", type=Path, help="write what was counted and measured there")
    given = vars(parser.parse_args())
    path, minutes, without = given.pop("json"), given.pop("minutes"), tuple(given.pop("without"))
    logging.disable(logging.WARNING)
    logging.getLogger("unspool.redis").setLevel(logging.CRITICAL)  # records of a newer form are meant to be
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    folder = Path(tempfile.mkdtemp(prefix="unspool-chaos-"))
    report = asyncio.run(run(Settings(seconds=minutes * 60, without=without, **given), folder))
    print(report)
    if path is not None:
        report.write(path)
    return 0 if report.fault is None else 1


if __name__ == "__main__":
    sys.exit(main())
