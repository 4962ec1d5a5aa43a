"""`python -m tests.fuzz`: every target for a while, coverage-guided where atheris is installed, else by Hypothesis.

`--seconds` for each (60), `--jobs` at a time. The corpus grows in .cache/fuzz. A finding is written there, told with
what reproduces it (`python -m tests.fuzz NAME --input FILE`, or `--seed N`), and ends in status 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import faulthandler
import importlib
import logging
import os
import subprocess
import sys
import time
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from tests.fuzz.catalogue import NAMES, UNGUIDED

CACHE = Path(".cache/fuzz")
ROUND = 500  # examples of Hypothesis between two looks at the clock


class Outcome(NamedTuple):
    """How one target ended."""

    name: str
    how: str
    cases: str
    seconds: float
    output: str | None
    """What it said, where it found something."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(NAMES))
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target")
    parser.add_argument("--jobs", type=int, default=min(os.cpu_count() or 1, 4), help="targets at a time")
    parser.add_argument("--input", type=Path, help="run one target on the bytes of this file")
    parser.add_argument("--seed", type=int, help="where the choices of Hypothesis begin")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.targets) - set(NAMES):
        parser.error(f"there is no target {', '.join(sorted(unknown))}: there are {', '.join(NAMES)}")
    names = options.targets or NAMES
    if options.child or options.input is not None:
        return _one(names[0], options)
    print(f"{len(names)} targets, {options.seconds:g} s each, {options.jobs} at a time", flush=True)
    with ThreadPoolExecutor(options.jobs) as pool:
        outcomes = list(pool.map(lambda name: _run(name, options), names))
    found = [outcome for outcome in outcomes if outcome.output is not None]
    for outcome in found:
        print(f"\n==> {outcome.name}\n{outcome.output}")
    print(f"\n{len(outcomes)} targets, {len(found)} with findings{': ' if found else ''}"
          + ", ".join(outcome.name for outcome in found))  # fmt: skip
    return 1 if found else 0


def _run(name: str, options: argparse.Namespace) -> Outcome:
    """One target in a process of its own: a finding, a crash or a hang ends that, and nothing else."""
    guided = find_spec("atheris") is not None and name not in UNGUIDED
    how = "atheris" if guided else "hypothesis"
    command = [sys.executable, "-m", "tests.fuzz", name, "--child", "--seconds", str(options.seconds)]
    if options.seed is not None:
        command += ["--seed", str(options.seed)]
    begun = time.monotonic()
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=options.seconds + 120
        )
        said, code = done.stdout.decode(errors="replace"), done.returncode
    except subprocess.TimeoutExpired as error:
        said, code = (error.stdout or b"").decode(errors="replace") + "\nit hangs", 1
    cases = next((line.split()[-1] for line in said.splitlines() if line.startswith(_CASES)), "?")
    outcome = Outcome(name, how, cases, time.monotonic() - begun, said[-8000:] if code else None)
    verdict = "FOUND SOMETHING" if code else "ok"
    print(f"{name:12} {how:10} {cases:>10} cases {outcome.seconds:7.1f} s  {verdict}", flush=True)
    return outcome


_CASES = ("stat::number_of_executed_units", "cases:")


def _one(name: str, options: argparse.Namespace) -> int:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    faulthandler.enable()
    if options.input is not None:
        return _reproduce(name, options.input.read_bytes())
    if find_spec("atheris") is not None and name not in UNGUIDED:
        return _guided(name, options)
    return _drawn(name, options)


def _drawn(name: str, options: argparse.Namespace) -> int:
    """Rounds of Hypothesis, each with a seed of its own, until the time is up."""
    from hypothesis import seed

    from tests.fuzz.catalogue import load

    target, cases = load(name), [0]

    def count() -> None:
        cases[0] += 1

    until = time.monotonic() + options.seconds
    number = Random().randrange(2**32) if options.seed is None else options.seed
    while time.monotonic() < until:
        try:
            seed(number)(target.property(40 if name in UNGUIDED else ROUND, count=count))()
        except BaseException:  # noqa: BLE001  (told, with what reproduces it)
            traceback.print_exc()
            print(f"cases: {cases[0]}\nagain: python -m tests.fuzz {name} --child --seed {number}", flush=True)
            os._exit(1)
        number += 1
    print(f"cases: {cases[0]}", flush=True)
    os._exit(0)  # threads of servers need no farewell


def _guided(name: str, options: argparse.Namespace) -> int:
    """libFuzzer on our own code."""
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["unspool"], enable_loader_override=False):
        from tests.fuzz.catalogue import load

        target = load(name)
    corpus, found = CACHE / "corpus" / name, CACHE / "found" / name
    for folder in (corpus, found):
        folder.mkdir(parents=True, exist_ok=True)
    # Choices of some length to begin with, else most inputs would end before anything is drawn from them.
    seeds = target.seeds if target.raw else [Random(number).randbytes(512) for number in range(8)]
    for number, data in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(data)
    arguments = [
        name, str(corpus), f"-max_total_time={max(int(options.seconds), 1)}", f"-artifact_prefix={found}/",
        "-print_final_stats=1", "-verbosity=0", "-timeout=20", "-rss_limit_mb=2048", "-max_len=4096", "-len_control=0",
        *([f"-seed={options.seed}"] if options.seed is not None else []),
    ]  # fmt: skip
    check = _bytes_check(target)

    def once(data: bytes) -> None:
        try:
            check(data)
        except Exception:
            print(f"again: python -m tests.fuzz {name} --input {found}/(the file named below)", flush=True)
            raise

    atheris.Setup(arguments, once)
    atheris.Fuzz()
    return 0


def _bytes_check(target: Any) -> Any:
    """The check of a target on bytes: those themselves, or the choices from which Hypothesis draws."""
    if target.raw:
        return target.check

    def told(value: Any) -> None:
        try:
            target.check(value)
        except Exception:
            print(f"input: {value!r}", flush=True)
            raise

    once = dataclasses.replace(target, check=told).property(1).hypothesis.fuzz_one_input
    return lambda data: once(data + bytes(2048))  # where the choices end, the simplest ones follow


def _reproduce(name: str, data: bytes) -> int:
    from tests.fuzz.catalogue import load

    try:
        _bytes_check(load(name))(data)
    except Exception:  # noqa: BLE001  (that is what was asked for)
        traceback.print_exc()
        return 1
    print("nothing: it holds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
