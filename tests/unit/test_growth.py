"""The curves: what grows is named, pictures are pictures, and the pages of the documentation are refreshed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bench.growth import pages
from bench.growth.curves import CURVES, OURS_PACED, OURS_UNPACED
from bench.growth.model import Measured, steps
from bench.growth.plot import Series, draw, short, ticks
from bench.growth.running import chosen
from bench.peers.worker import Plan, Source, stamp
from bench.scaling import Assumed, Units

ROOT = Path(__file__).parents[2]
COSTS = dict.fromkeys(Units.__dataclass_fields__, 10.0)


def test_slopes_are_those_of_logarithmic_axes() -> None:
    """Flat is 0, in proportion 1, quadratic 2; falling is below 0."""
    flat, line, square, falling = (steps([(10, a), (1000, b)])[0] for a, b in ((7, 7), (1, 100), (1, 1e4), (10, 1)))
    assert [round(step.slope, 6) for step in (flat, line, square, falling)] == [0, 1, 2, -0.5]
    assert [step.grows for step in (flat, line, square, falling)] == [False, True, True, False]


@pytest.mark.parametrize(
    ("start", "end", "growth", "grows"),
    [
        (1, 10, 1.49, False),
        (1, 10, 1.51, True),
        (1, 100, 1.49**2, False),  # over two decades it may be as much again
        (1, 100, 1.51**2, True),
        (1, 2, 1.49, False),  # less than a decade is not made out to be one
        (1, 2, 1.51, True),
    ],
)
def test_what_grows_by_more_than_half_in_a_decade_grows(start: int, end: int, growth: float, grows: bool) -> None:
    """However far apart the points are."""
    (step,) = steps([(start, 10.0), (end, 10.0 * growth)])
    assert step.grows is grows


def test_what_is_little_enough_does_not_grow() -> None:
    """Noise of a small figure is no growth; what passes the threshold is judged from there."""
    values = [(1, 0.3), (10, 1.2), (100, 2.9), (1000, 4.4), (10_000, 9.0)]
    assert [step.end for step in steps(values) if step.grows] == [10, 100, 1000, 10_000]
    assert [step.end for step in steps(values, least=3.0) if step.grows] == [10_000]


def test_nothing_has_no_slope() -> None:
    """What costs nothing, or less, is left out; the points beside it are neighbours then."""
    assert steps([]) == steps([(1, 5.0)]) == []
    assert [(step.start, step.end) for step in steps([(1, 5.0), (10, 0.0), (100, 6.0)])] == [(1, 100)]


def a_document(**figures: Any) -> dict[str, Any]:
    """A run of one curve, `viewers`: line → point → server CPU."""
    measured = Measured()
    for line, points in figures.items():
        name = {"ours": OURS_UNPACED, "paced": OURS_PACED, "bare": "bare socket loop, unpaced"}[line]
        for point, value in points.items():
            measured.add(name, point, {"server CPU": value})
    return {
        "machine": {"cores": 2, "system": "Linux", "python": "3.11"}, "quick": True, "rounds": 1, "seconds": 12.0,
        "curves": {"viewers": measured.document()}, "units": COSTS,
    }  # fmt: skip


def test_growth_is_named_with_its_factor_and_the_floor_is_not_judged() -> None:
    """From where to where, and how steep."""
    document = a_document(ours={1: 10.0, 10: 10.0, 100: 20.0}, bare={1: 1.0, 10: 9.0})
    told = "unspool, unpaced, server CPU: × 2.0 from 10 to 100 viewers (slope 0.30)"
    assert told in pages.text(document)
    block = pages.blocks(document)["viewers"]
    assert f"- {told}" in block
    assert "× 9" not in block
    assert "No cost per unit grows" in pages.blocks(a_document(ours={1: 10.0, 10: 11.0}))["viewers"]


def test_a_run_is_the_same_after_it_was_written() -> None:
    """As JSON, whose keys are texts; with the points that failed, and the reason."""
    document = a_document(ours={1: 10.0, 10_000: 12.0})
    document["curves"]["viewers"]["notes"] = {OURS_UNPACED: {"1000": "over 90 s"}}
    again = json.loads(json.dumps(document))
    assert pages.blocks(again) == pages.blocks(document)
    ((_, found),) = pages.measured(again)
    assert found.values(OURS_UNPACED, "server CPU") == [(1, 10.0), (10_000, 12.0)]
    assert "| 1,000 | unspool,&nbsp;unpaced | failed: over 90 s |" in pages.blocks(again)["viewers"]


def test_of_several_rounds_the_least_is_kept() -> None:
    """Whatever else a machine does only adds."""
    measured = Measured()
    for value in (12.0, 10.0, 11.0):
        measured.add("line", 1, {"server CPU": value})
    assert measured.values("line", "server CPU") == [(1, 10.0)]


def test_a_picture_has_every_point_at_its_place() -> None:
    """Well-formed, labelled; a decade is as wide anywhere, and what is more is higher up."""
    svg = draw("Cost & growth", "viewers", "µs", [Series("a < b", [(1, 10), (10, 100), (100, 1000)], "teal")])
    root = ElementTree.fromstring(svg)
    label = root.get("aria-label")
    assert label == "Cost & growth, µs, over viewers"
    circles = [node for node in root.iter() if node.tag.endswith("circle")]
    lefts, tops = ([float(node.get(name, "")) for node in circles] for name in ("cx", "cy"))
    assert lefts[1] - lefts[0] == pytest.approx(lefts[2] - lefts[1], abs=0.2)
    assert tops[0] - tops[1] == pytest.approx(tops[1] - tops[2], abs=0.2)
    assert tops[0] > tops[1]
    assert "\n\n" not in svg  # an empty line would end it inside a page


@pytest.mark.parametrize("values", [[(1, 5.0)], [(1, 5.0), (10, 5.0)], [(1, 1e-3), (1e6, 1e6)]])
def test_any_values_make_a_picture(values: list[tuple[float, float]]) -> None:
    """A single point, a flat line, nine decades: no place is infinite or outside."""
    root = ElementTree.fromstring(draw("t", "x", "y", [Series("s", values, "grey", dashed=True)]))
    _, _, width, height = (float(number) for number in root.get("viewBox", "").split())
    for node in root.iter():
        for name, most in (("x", width), ("y", height), ("cx", width), ("cy", height)):
            assert 0 <= float(node.get(name, 0)) <= most
    with pytest.raises(ValueError, match="nothing to draw"):
        draw("t", "x", "y", [Series("s", [], "grey")])


def test_axes_have_names_that_can_be_read() -> None:
    """A few, whatever the range; thousands and millions are short."""
    for low, high in ((3.0, 95.0), (0.02, 40.0), (1.0, 1e6)):
        assert 3 <= sum(named for _, named in ticks(low, high)) <= 8
    assert [short(value) for value in (0.5, 20, 1_000, 20_000, 1e6)] == ["0.5", "20", "1k", "20k", "1M"]


def test_only_the_blocks_that_a_run_has_are_rewritten() -> None:
    """The prose around them stays, and so does what was not measured; twice is as once."""
    page = "# A\n\n<!-- growth:begin viewers -->\nold\n<!-- growth:end -->\n\nprose\n\n<!-- growth:begin streams -->\nkept\n<!-- growth:end -->\n"  # noqa: E501
    found = pages.blocks(a_document(ours={1: 10.0}))
    once = pages.rewritten(page, found)
    assert "old" not in once
    assert once.startswith("# A\n\n<!-- growth:begin viewers -->\n![")
    assert once.endswith("\n<!-- growth:end -->\n\nprose\n\n<!-- growth:begin streams -->\nkept\n<!-- growth:end -->\n")
    assert pages.rewritten(once, found) == once


def test_pages_have_a_block_for_everything_that_is_measured() -> None:
    """And every picture that they show is there."""
    growth, scaling = pages.GROWTH.read_text(), pages.SCALING.read_text()
    for name in ("run", *(curve.key for curve in CURVES)):
        assert growth.count(f"<!-- growth:begin {name} -->\n") == 1
    assert scaling.count("<!-- growth:begin scaling -->\n") == 1
    for curve in CURVES:
        for plot in curve.plots:
            assert f"](growth/{plot.name}.svg)" in growth
            ElementTree.parse(pages.PICTURES / f"{plot.name}.svg")
    assumed = Assumed()
    for chosen_figure in (f"{assumed.rate:g} events/s", f"{assumed.seconds:g} seconds", f"{assumed.headers} bytes"):
        assert chosen_figure in scaling
    for chosen_figure in (
        f"{assumed.busy:.0%}".replace("%", " %"),
        f"{assumed.shard_gb:g} GB",
        f"{assumed.retention:,g}",
    ):
        assert chosen_figure in scaling


def test_curves_are_chosen_by_name() -> None:
    """Whoever misspells one learns what there is."""
    curves, units = chosen("streams, units")
    assert ([curve.key for curve in curves], units) == (["streams"], True)
    assert chosen("viewers")[1] is False
    assert chosen(None) == (CURVES, True)
    with pytest.raises(SystemExit, match="'viewer': there are viewers, streams"):
        chosen("viewer")


@pytest.mark.parametrize("size", [0, 25, 1000, 250_000])
async def test_a_text_is_as_long_as_the_plan_says(size: int) -> None:
    """The stamp first, and nothing after it that looks like one."""
    source = Source(Plan(streams=1, events=2, size=size))
    source.go()
    texts = [text async for _, text in source.texts(1)]
    assert [len(text) for text in texts] == [size or len(stamp(1)) + 84] * 2
    assert all(text.startswith("@") and text.count("@") == 1 for text in texts)


def test_a_curve_is_measured(tmp_path: Path) -> None:
    """The quickest, as a command: figures at every point, a picture, and a document that can be read again."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc here: the load client cannot be built")
    client = tmp_path / "bench-load"
    sources = sorted(str(source) for source in (ROOT / "bench" / "load").glob("*.c"))
    subprocess.run(["gcc", "-O2", "-o", str(client), *sources], check=True)
    file, plots = tmp_path / "run.json", tmp_path / "plots"
    command = [sys.executable, "-m", "bench.growth", "--quick", "--only", "events"]
    done = subprocess.run(
        [*command, "--json", str(file), "--plots", str(plots)],
        cwd=ROOT, env={**os.environ, "BENCH_LOAD": str(client)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    ((curve, found),) = pages.measured(json.loads(file.read_text()))
    assert found.notes == {}
    for metric in curve.metrics:
        assert [point for point, value in found.values("unspool", metric.name) if value > 0] == list(curve.quick)
    assert sorted(path.stem for path in plots.iterdir()) == sorted(plot.name for plot in curve.plots)
    assert "events 10,000: unspool: server CPU" in done.stderr
