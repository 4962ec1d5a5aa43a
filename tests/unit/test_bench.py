"""The bench: its client counts exactly, its tables say what was measured, and two runs are compared row by row."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bench import compare, report
from bench.cases import Case, Metric, Results, ahead, as_in, at_least, at_most, within
from bench.peers import BARE, OURS, RS_NPM, Peer
from bench.peers.worker import LONG, SHORT, STEPS, event_of, stamp

ROOT = Path(__file__).parents[2]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


def stamped(number: int, micros: int = 1) -> bytes:
    return b"@%016d#%07d" % (micros, number)


def frame(number: int, padding: bytes = b"") -> bytes:
    return b'event: text.delta\ndata: {"text":"%b"}\nid: 3-%d\n\n' % (stamped(number) + padding, number)


def chunked(*parts: bytes, ended: bool = False) -> bytes:
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + (b"0\r\n\r\n" if ended else b"")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The load client, built as the Makefile builds it."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc here: the load client is not built and not tested")
    path = tmp_path_factory.mktemp("bench") / "bench-load"
    sources = sorted(str(source) for source in (ROOT / "bench" / "load").glob("*.c"))
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(path), *sources], check=True)
    return str(path)


def parse(client: str, response: bytes, resume: str = "none", split: int = 65536) -> tuple[list[int], dict[str, str]]:
    """The numbers of the events that count, and what the parser says of itself."""
    done = subprocess.run(
        [client, "--parse", resume, "--split", str(split)], input=response, capture_output=True, check=True
    )
    *lines, last = done.stdout.decode().splitlines()
    return [int(line.split()[0]) for line in lines], dict(item.split("=", 1) for item in last.split())


@pytest.mark.parametrize("resume", ["none", "id", "chars"])
@pytest.mark.parametrize("split", [1, 2, 3, 7, 25, 61, 4096])
def test_every_event_counts_once_wherever_the_bytes_are_cut(client: str, resume: str, split: int) -> None:
    """The pieces of a chunk, of a frame and of a stamp come as they like; what looks like a stamp is none."""
    frames = [frame(number) for number in range(1, 41)]
    halves = [frames[4][:30], frames[4][30:]]  # a frame over two chunks, cut in its stamp
    noise = b'data: {"text":"@12 @@0000000000000001#00 me@example.org #0000009"}\nid: 3-5\n\n'
    response = chunked(b": ka\n", b"".join(frames[:4]), *halves, noise, *frames[5:])
    seen, known = parse(client, response, resume, split)
    assert seen == list(range(1, 41))
    assert known["status"] == "200"


@pytest.mark.parametrize("split", [1, 4096])
def test_an_event_of_an_incomplete_frame_does_not_count_and_does_not_move_the_position(client: str, split: int) -> None:
    """A client that resumes by event id would get it again."""
    seen, known = parse(client, chunked(frame(1), frame(2), frame(3)[:-1]), "id", split)
    assert seen == [1, 2]
    assert known["position"] == "3-2"


@pytest.mark.parametrize("split", [1, 4096])
def test_data_counts_with_the_control_event_that_gives_its_offset(client: str, split: int) -> None:
    """Without it a client would ask for the data again."""
    data = [b'event: data\ndata:[{"text":"%b"}]\n\n' % stamped(number) for number in (1, 2, 3)]
    control = b'event: control\ndata:{"streamNextOffset": "0_270","streamCursor":"9","upToDate":true}\n\n'
    seen, known = parse(client, chunked(data[0], data[1] + control, data[2]), "offset", split)
    assert seen == [1, 2]
    assert known["position"] == "0_270"


def test_characters_are_those_of_the_body(client: str) -> None:
    """Neither headers nor the sizes of chunks: it is what a client asks to skip."""
    body = frame(1) + frame(2)[:10]
    seen, known = parse(client, chunked(body), "chars", 5)
    assert seen == [1]
    assert known["position"] == str(len(body))


def test_a_body_with_a_length_ends_there(client: str) -> None:
    """Whatever comes after it is no part of the response."""
    body = frame(1) + frame(2)
    seen, known = parse(client, HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body + frame(3))
    assert seen == [1, 2]
    assert int(known["body"]) == len(body)


def test_what_an_error_says_is_no_event(client: str) -> None:
    """A refusal may quote anything."""
    seen, known = parse(client, b"HTTP/1.1 422 No\r\nContent-Length: 25\r\n\r\n" + stamped(1))
    assert seen == []
    assert known["status"] == "422"


Answering = Callable[[str, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def answering(answer: Answering) -> AsyncGenerator[int, None]:
    """A server that reads a request's head and leaves the rest to `answer`; its port."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            await answer(request.decode(), writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client was cut off, which is its job
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def loaded(client: str, port: int, *arguments: object) -> dict[str, Any]:
    """What the load client reports at the end."""
    process = await asyncio.create_subprocess_exec(
        client, "--port", str(port), "--path", "/s-{n}", *(str(argument) for argument in arguments),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await process.communicate()
    ready, found = (json.loads(line) for line in output.splitlines())
    assert ready["ready"] > 0
    return found


async def test_lost_repeated_and_misordered_events_are_told_apart(client: str) -> None:
    """Each viewer checks for itself: 5 comes twice, 7 never, 9 after 10."""

    async def answer(request: str, writer: asyncio.StreamWriter) -> None:
        writer.write(chunked(*(frame(number) for number in (1, 2, 3, 4, 5, 5, 6, 8, 10, 9)), ended=True))
        await writer.drain()

    async with answering(answer) as port:
        found = await loaded(client, port, "--viewers", 3, "--events", 10)
    assert {name: found[name] for name in ("events", "missing", "lost", "repeated", "misordered", "complete")} == {
        "events": 27, "missing": 3, "lost": 3, "repeated": 3, "misordered": 3, "complete": 0,
    }  # fmt: skip


async def test_a_viewer_that_is_cut_off_goes_on_where_its_last_frame_ended(client: str) -> None:
    """Up to sixty cuts anywhere in a frame (each read is cut once at most), and a server that sends what is asked for:
    nothing is lost or repeated. A frame is so large that one read of the client's 256 KiB has thirteen at most: it is
    cut often enough however the machine lets it read."""
    asked: list[int] = []
    over = asyncio.Event()

    async def answer(request: str, writer: asyncio.StreamWriter) -> None:
        _, found, rest = request.partition("Last-Event-ID: 3-")
        after = int(rest.split("\r\n")[0]) if found else 0
        asked.append(after)
        writer.write(chunked())
        for number in range(after + 1, 501):
            part = frame(number, b" " * 20_000)
            writer.write(b"%x\r\n%b\r\n" % (len(part), part))
            await writer.drain()
            await asyncio.sleep(0)
        await over.wait()

    async with answering(answer) as port:
        found = await loaded(
            client, port, "--viewers", 4, "--events", 500, "--resume", "id", "--resume-header", "Last-Event-ID: {p}",
            "--cuts", 60, "--cut-every", 12,
        )  # fmt: skip
        over.set()
    assert (found["missing"], found["repeated"], found["misordered"]) == (0, 0, 0)
    assert 10 <= found["reconnects"] <= 60
    assert len(asked) == 4 + found["reconnects"]


async def test_viewers_who_are_refused_are_told(client: str) -> None:
    """They must not look like a fast server."""

    async def answer(request: str, writer: asyncio.StreamWriter) -> None:
        status = b"200 OK" if "/s-1 " in request else b"404 Not Found"
        writer.write(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(frame(1)), frame(1)))
        await writer.drain()

    async with answering(answer) as port:
        found = await loaded(client, port, "--viewers", 2, "--streams", 2, "--events", 1)
    assert (found["complete"], found["refused"], found["missing"]) == (1, 1, 1)


def test_an_event_is_135_bytes_of_json() -> None:
    """Both kinds, and both are JSON."""
    for event in (event_of(7), SHORT % (stamp(7), STEPS[1]), LONG % (stamp(7) + "x" * 84)):
        assert len(event) == 135
        assert json.loads(event)["text"].startswith("@")


LESS = Metric("cpu", "s")
MORE = Metric("rate", "events/s", "more")


def a_case(*budgets: Any, key: str = "W9", peers: Sequence[Peer] = (BARE, OURS, RS_NPM)) -> Case:
    return Case(key, "a workload", peers, (LESS, MORE), lambda peer, quick: {}, budgets)


def measured(**rounds: Sequence[float]) -> Results:
    """Results of W9's `cpu` (and of `rate`, its inverse), by participant: bare, ours, rs."""
    results = Results()
    for name, values in rounds.items():
        peer = {"bare": BARE, "ours": OURS, "rs": RS_NPM}[name]
        results.rounds["W9", peer.name] = [{"cpu": value, "rate": 1 / value} for value in values]
    return results


def test_a_ratio_is_the_median_of_the_ratios_within_the_rounds() -> None:
    """The machine is half as fast in the second round, and the ratio does not see it."""
    results = measured(ours=[1.0, 10.0, 3.0], rs=[2.0, 20.0, 6.0])
    found = report.rows([a_case()], results)
    row = next(row for row in found if row["who"] == RS_NPM.name and row["metric"] == "cpu")
    assert (row["median"], row["best"], row["ratio"]) == (6.0, 2.0, 2.0)
    rate = next(row for row in found if row["who"] == RS_NPM.name and row["metric"] == "rate")
    assert (rate["best"], rate["ratio"]) == (0.5, 0.5)


def test_a_round_that_failed_takes_no_part_in_ratios() -> None:
    """The rounds stay side by side."""
    results = measured(ours=[1.0, 4.0], rs=[2.0, 2.0])
    results.rounds["W9", RS_NPM.name][0] = None
    assert results.ratio("W9", RS_NPM.name, OURS.name, "cpu") == 0.5


@pytest.mark.parametrize(
    ("budget", "ours", "holds"),
    [
        (at_most("cpu", 2), 2.0, True),
        (at_most("cpu", 2), 2.1, False),
        (at_least("rate", 0.5), 2.0, True),
        (at_least("rate", 0.5), 2.1, False),
        (ahead("cpu"), 3.9, True),
        (ahead("cpu"), 4.1, False),
        (ahead("rate"), 3.9, True),
        (ahead("rate"), 4.1, False),
        (within("cpu", 1.5, BARE), 1.5, True),
        (within("cpu", 1.5, BARE), 1.6, False),
        (as_in("cpu", "W9", "as there"), 2.0, True),
    ],
)
def test_budgets_are_judged(budget: Any, ours: float, holds: bool) -> None:
    """Against a limit, against the peers (4 s) and against the floor (1 s), which nobody is expected to beat."""
    assert budget.holds(measured(bare=[1.0], ours=[ours], rs=[4.0]), a_case(budget)) is holds


def test_a_budget_without_figures_is_not_judged() -> None:
    """Nothing measured is neither kept nor missed."""
    budgets = [at_most("cpu", 2), at_least("rate", 1), ahead("cpu"), within("cpu", 2, BARE), as_in("cpu", "W9", "")]
    assert [budget.holds(Results(), a_case()) for budget in budgets] == [None] * 5


def a_report(results: Results, *cases: Case, quick: bool = False) -> report.Row:
    return report.document(cases, results, rounds=2, quick=quick, seconds=12.0)


@pytest.mark.parametrize("render", [report.text, report.markdown])
def test_a_table_names_everybody_also_who_could_not_take_part(render: Callable[[report.Row], str]) -> None:
    """With the median, the best, the ratio, the reason and the verdict."""
    results = measured(bare=[1.0, 1.2], ours=[2.0, 2.4])
    results.notes["W9", RS_NPM.name] = "absent: node is not installed"
    table = render(a_report(results, a_case(at_most("cpu", 2))))
    ours = next(line for line in table.splitlines() if "unspool" in line and "2.2 (2)" in line)
    assert "1.00×" in ours
    assert "1.1 (1) 0.50×" in next(line for line in table.splitlines() if BARE.name in line)
    assert "absent: node is not installed" in next(line for line in table.splitlines() if RS_NPM.name in line)
    assert "cpu ≤ 2: 2.2, MISSED" in table


def test_a_comparison_marks_what_changed_by_more_than_a_tenth() -> None:
    """In either direction, which is good or bad by the metric."""
    old = a_report(measured(bare=[1.0], ours=[2.0], rs=[4.0]), a_case())
    new = a_report(measured(bare=[1.05], ours=[1.0], rs=[5.0]), a_case())
    found = {(row["who"], row["metric"]): (round(row["ratio"], 2), row["mark"]) for row in compare.compare(old, new)}
    assert found == {
        (BARE.name, "cpu"): (1.05, ""),
        (BARE.name, "rate"): (0.95, ""),
        (OURS.name, "cpu"): (0.5, "better"),
        (OURS.name, "rate"): (2.0, "better"),
        (RS_NPM.name, "cpu"): (1.25, "worse"),
        (RS_NPM.name, "rate"): (0.8, "worse"),
    }
    assert "4 of 6 figures changed by more than 10%" in compare.text(compare.compare(old, new), old, new)


def test_a_comparison_leaves_out_what_only_one_run_has() -> None:
    """And refuses runs of different size."""
    old = a_report(measured(ours=[2.0]), a_case())
    new = a_report(measured(ours=[2.0], rs=[4.0]), a_case())
    assert {row["who"] for row in compare.compare(old, new)} == {OURS.name}
    assert "cannot be compared" in compare.text([], old, a_report(measured(), a_case(), quick=True))


def test_the_bench_runs(client: str, tmp_path: Path) -> None:
    """Its quickest part, as a command; a peer without its package is named with the reason, and stops nobody."""
    file = tmp_path / "run.json"
    command = [sys.executable, "-m", "bench", "--quick", "--only", "W1", "--json", str(file)]
    environment = {**os.environ, "BENCH_LOAD": client}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    found = json.loads(file.read_text())
    assert len({row["who"] for row in found["rows"]}) == 7
    for row in found["rows"]:
        assert row["who"] in done.stdout
        if row["who"].startswith(("unspool", "floor")):
            assert row["median"] > 0
        else:
            assert (row["median"] is None) is (row["note"] is not None)
    again = subprocess.run(
        [sys.executable, "-m", "bench", "compare", str(file), str(file)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "0 of" in again.stdout


def test_the_bench_measures_over_sockets(client: str) -> None:
    """Its own server and a floor, with the load client between: every event arrives, and ours is judged."""
    command = [sys.executable, "-m", "bench", "--quick", "--only", "W2,W8", "--who", "bare"]
    environment = {**os.environ, "BENCH_LOAD": client}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert "failed" not in done.stdout
    assert "lost, repeated, out of order ≤ 0: 0, holds" in done.stdout
