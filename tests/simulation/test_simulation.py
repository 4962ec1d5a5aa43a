"""Whole worlds: they hold, they take the same course again, and what is planted in them is found."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from unspool.testing.simulation import PLANTS, explain, simulate, simulate_many
from unspool.testing.simulation.__main__ import main

STEPS = 12_000


def test_every_invariant_holds_in_ten_worlds() -> None:
    reports = list(simulate_many(range(1, 11), steps=STEPS))
    for report in reports:
        assert report.violation is None, explain(report)
    assert len(reports) == 10

    def total(name: str) -> int:
        return sum(report.counts[name] for report in reports)

    assert (total("lost"), total("repeated"), total("disordered")) == (0, 0, 0)
    # What was meant to happen has happened.
    assert total("reconnects") > 3_000
    assert total("delivered") > 6_000
    for name in ("syncs", "compared", "gone", "stops", "probes", "crashes", "refused", "take_overs"):
        assert total(name) > 0, name
    assert total("seals") == total("generations") > 100


@pytest.mark.parametrize("seed", [2, 3])
def test_the_same_seed_takes_the_same_course(seed: int) -> None:
    first, second = (simulate(seed, steps=5_000, trace=None) for _ in range(2))
    assert first.trace == second.trace
    assert (first.digest, first.counts, first.steps) == (second.digest, second.counts, second.steps)
    assert simulate(seed + 10, steps=5_000, trace=None).digest != first.digest


def test_the_same_seed_takes_the_same_course_in_another_process() -> None:
    """Nothing depends on addresses, or on the seed of Python's hashes."""
    code = "from unspool.testing.simulation import simulate; print([simulate(n, steps=3_000).digest for n in (1, 2)])"
    courses = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "4711")
    }
    assert courses == {f"{[simulate(n, steps=3_000).digest for n in (1, 2)]}\n"}


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_fault_is_found_in_few_worlds_and_found_again(name: str) -> None:
    """Sixty worlds are a few seconds of work; most faults show in the first two."""
    plant = PLANTS[name]
    *_, report = simulate_many(range(1, 61), steps=STEPS, plant=plant)
    assert report.violation is not None
    assert report.violation.invariant in plant.breaks, explain(report)
    again = simulate(report.seed, steps=STEPS, plant=plant)
    assert again.violation == report.violation
    assert again.trace == report.trace
    assert "VIOLATION" in report.trace[-1]


def test_what_was_planted_is_gone_afterwards() -> None:
    assert simulate(1, steps=500, plant=PLANTS["late-start"]).violation is not None
    report = simulate(1, steps=500)
    assert report.violation is None, explain(report)


def test_a_failure_says_what_led_there_and_how_to_see_it_again(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--seed", "1", "--steps", "5000", "--plant", "late-start"]
    assert main(arguments) == 1
    text = capsys.readouterr().out
    assert "Broken: viewers" in text
    assert "asks on " in text
    again = text.rsplit("See it again:", 1)[1].split()
    assert again[:3] == ["python", "-m", "unspool.testing.simulation"]
    assert main(again[3:]) == 1
    assert capsys.readouterr().out.split("World:")[1].split("See")[0] == text.split("World:")[1].split("See")[0]


def test_the_command_counts_and_ends_with_0_when_everything_held(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "5", "--steps", "3000", "--reconnects", "1500", "--json"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found["counts"]["reconnects"] >= 1500
    assert (found["counts"]["lost"], found["failure"]) == (0, None)
    assert found["worlds"] >= 2
    assert main(["--seed", "5", "--seeds", "2", "--steps", "1000"]) == 0
    assert "Every invariant held." in capsys.readouterr().out


def test_the_command_prints_a_failure_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--steps", "3000", "--seeds", "9", "--plant", "silent-gap", "--json"]) == 1
    failure = json.loads(capsys.readouterr().out)["failure"]
    assert failure["violation"]["invariant"] == "viewers"
    assert failure["plant"] == "silent-gap"
    assert failure["trace"]
