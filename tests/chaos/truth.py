"""What must be so when a generation has ended: the log itself, and what every viewer, Stop and status made of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

from tests.chaos import owners
from tests.chaos.report import Fault
from tests.chaos.turns import Stopped, Turn
from tests.chaos.world import World
from unspool.client import Received
from unspool.content import Fold
from unspool.errors import Gone, NotFound, StoreUnavailable
from unspool.events import Record
from unspool.jobs import GenerationKey, Job, Status

T = TypeVar("T")

_STATUS = {
    "completed": Status.COMPLETE, "failed": Status.ERROR, "aborted": Status.ABORTED, "replaced": Status.REPLACED,
}  # fmt: skip
_CODES = ("owner_lost", "interrupted")


async def check(world: World, turn: Turn) -> None:
    """Wait for the end of a generation and look at all of it. Raises Fault."""
    await _ended(world, turn)
    if any(viewer.lost for viewer in turn.viewers):
        await _check_lost(world, turn)
        return
    try:
        job, log = await read_log(world, turn)
    except (Gone, NotFound) as error:
        if not world.emptied_since(turn.begun):
            raise Fault(f"{turn} is gone") from error
        await _check_lost(world, turn)
        return
    _check_log(turn, job, log)
    for number, viewer in enumerate(turn.viewers):
        if viewer.rewound:
            _check_rewound(turn, viewer.records, log)
            world.report.counts["viewers rewound"] += 1
            continue
        got = [(record.offset, record.type, record.payload) for record in viewer.records]
        if got != [(record.offset, record.type, record.payload) for record in log]:
            raise Fault(f"viewer {number} of {turn} did not read the log: {_difference(got, log)}; {viewer.visits}")
    stop = None if turn.stopping is None else await turn.stopping
    if stop is not None:
        _check_stop(turn, stop, job, log)
    turn.digest = _digest(log)
    await owners.check(world, turn, log)
    if turn.paid and world.books is not None:
        world.books.ended(turn, log)
    _measure(world, turn, log)


async def _check_lost(world: World, turn: Turn) -> None:
    """The store has lost it: each viewer was told, or has its end; and all have read the same answer so far."""
    if turn.stopping is not None:
        await turn.stopping
    try:
        job = await available(lambda: world.truth.get(turn.stream, turn.generation))
    except (Gone, NotFound):
        pass
    else:
        told = [viewer.lost for viewer in turn.viewers]
        raise Fault(f"viewers of {turn} were told {told}, and it is there: {job!r}")
    whole = max((viewer.records for viewer in turn.viewers), key=len)
    log = [(record.offset, record.type, record.payload) for record in whole]
    for viewer in turn.viewers:
        got = [(record.offset, record.type, record.payload) for record in viewer.records]
        if not viewer.rewound and got != log[: len(got)]:
            raise Fault(f"a viewer of {turn}, which was lost, has read another answer: {got}; another one has {log}")
    said = text_of([Record(*entry) for entry in log]).split()
    if said != [str(number) for number in range(1, len(said) + 1)]:
        raise Fault(f"{turn}, which was lost, does not count: {said}")
    if turn.paid and world.books is not None:
        world.books.lost.append(GenerationKey(turn.stream, turn.generation))
    world.report.counts["ended: lost with the store"] += 1


def _check_rewound(turn: Turn, records: Sequence[Received], log: Sequence[Record]) -> None:
    """After the snapshot that says so, it is the log again."""
    first, *rest = records
    got = [(record.offset, record.type, record.payload) for record in rest]
    expected = [(record.offset, record.type, record.payload) for record in log if record.offset > first.offset]
    if got != expected or first.data["text"] != text_of(log[: first.offset]):
        raise Fault(f"a viewer of {turn} was rewound to {first.offset}, and then did not read the log")


async def _ended(world: World, turn: Turn) -> None:
    expected = turn.script.count * (turn.script.delay + 0.02) + float(turn.script.tool)
    while not turn.over:
        await asyncio.wait(turn.reading, timeout=1.0)
        now = time.monotonic()
        if not turn.over and now - turn.begun > expected + world.settings.stuck + world.troubled(turn.begun, now):
            stuck = [viewer for viewer, task in zip(turn.viewers, turn.reading, strict=True) if not task.done()]
            job = await available(lambda: world.truth.get(turn.stream, turn.generation))
            raise Fault(
                f"{turn} has not ended for {len(stuck)} viewers after {now - turn.begun:.0f} s: {turn.script}, {job!r} "
                f"of {job.lease.replica}; {stuck[0].position}; {stuck[0].visits}"
            )
    for viewer, task in zip(turn.viewers, turn.reading, strict=True):
        error = task.exception()
        if error is not None:
            raise Fault(f"{turn}: {error!r}; {viewer.visits}") from error


async def available(call: Callable[[], Awaitable[T]]) -> T:
    """Ask until the store is there."""
    while True:
        try:
            return await call()
        except StoreUnavailable:
            await asyncio.sleep(0.1)


async def read_log(world: World, turn: Turn) -> tuple[Job, list[Record]]:
    """The job and all of its records, past every replica."""
    key = GenerationKey(turn.stream, turn.generation)
    job = await available(lambda: world.truth.get(*key))
    log: list[Record] = []
    while not log or log[-1].offset < job.last_offset:
        at = log[-1].offset if log else 0
        page = await available(partial(world.truth.read, key, at, 1000))
        if not page.records:
            raise Fault(f"the log of {turn} ends at {at}, and the job says {job.last_offset}")
        log += page.records
    return job, log


def _check_log(turn: Turn, job: Job, log: Sequence[Record]) -> None:
    if [record.offset for record in log] != list(range(1, len(log) + 1)):
        raise Fault(f"the log of {turn} has offsets {[record.offset for record in log]}")
    if [record.terminal for record in log] != [False] * (len(log) - 1) + [True]:
        raise Fault(f"the log of {turn} does not have one terminal record, at its end: {[r.type for r in log]}")
    end = log[-1]
    if job.status is not _STATUS[end.type] or job.terminal != end:
        raise Fault(f"{turn} is {job.status}, and its log ends with {end}")
    if end.type == "failed" and end.data["code"] not in _CODES:
        raise Fault(f"{turn} failed with {end.data}")
    if end.type == "replaced" and (not turn.followed_up or end.data != {"by_generation": turn.generation + 1}):
        raise Fault(f"{turn} was replaced: {end.data}")
    if end.type == "aborted" and turn.stopping is None:
        raise Fault(f"{turn} was aborted, and nobody had asked for it")
    said = text_of(log).split()
    if said != [str(number) for number in range(1, len(said) + 1)]:
        raise Fault(f"the log of {turn} does not count: {said}")
    if end.type == "completed" and len(said) != turn.script.count:
        raise Fault(f"{turn} completed after {len(said)} of {turn.script.count}")
    resumed = sum(record.type == "resumed" for record in log)
    if resumed and not turn.resumable:
        raise Fault(f"{turn} was gone on with, and must not be")


def text_of(log: Sequence[Record]) -> str:
    folded = Fold()
    folded.apply_all(log)
    return folded.snapshot().text


def _check_stop(turn: Turn, stop: Stopped, job: Job, log: Sequence[Record]) -> None:
    expected = "stopped" if job.status is Status.ABORTED else "already_settled"
    # Stopped by the first of two requests, of which the second was answered, it is settled already.
    if stop.outcome not in (expected, "already_settled") or stop.status != job.status:
        raise Fault(f"Stop of {turn} was answered {stop.outcome} {stop.status}, and it is {job.status}")
    if stop.text != text_of(log):
        raise Fault(f"Stop of {turn} was answered with {stop.text!r}, and the log has {text_of(log)!r}")
    if stop.final is None or stop.final["type"] != log[-1].type:
        raise Fault(f"Stop of {turn} was answered with {stop.final}, and its log ends with {log[-1]}")


def _difference(got: Sequence[tuple[int, str, bytes]], log: Sequence[Record]) -> str:
    for index, record in enumerate(log):
        if index >= len(got):
            return f"it ends after {len(got)} of {len(log)} records"
        if got[index] != (record.offset, record.type, record.payload):
            return f"record {index + 1} is {got[index]}, and should be {record}"
    return f"it has {len(got)} records, and the log {len(log)}: {got[len(log) :][:3]}"


def _digest(log: Sequence[Record]) -> int:
    return hash(tuple((record.offset, record.type, record.payload) for record in log))


def _measure(world: World, turn: Turn, log: Sequence[Record]) -> None:
    counts, times, settings = world.report.counts, world.report.times, world.settings
    end = log[-1]
    counts[f"ended: {end.type}" + (f", {end.data['code']}" if end.type == "failed" else "")] += 1
    counts["records in logs"] += len(log)
    for viewer in turn.viewers:
        counts["viewers"] += 1
        counts["reconnects"] += viewer.connections - 1
        counts["records read"] += len(viewer.records)
    lost = end.type == "failed" and end.data["code"] == "owner_lost"
    if not turn.kills or not (lost or turn.resumable):
        return
    killed, name = turn.kills[-1], "failed" if lost else "resumed"
    for viewer in turn.viewers:
        came = viewer.seen.get(name, 0.0)
        if came < killed:
            continue  # that was before, or is not how it ended
        quiet = not world.troubled(killed, came)
        label = "kill → terminal" if name == "failed" else "kill → resumed"
        times[label + ("" if quiet else ", in trouble")].append(came - killed)
        # A trouble takes its time, and suspends every judgement for a lease after it.
        if came - killed > settings.told + settings.slack + world.troubled(killed, came):
            raise Fault(f"{turn}: a viewer was told {came - killed:.2f} s after the kill; {viewer.visits}")


async def check_unchanged(world: World, turns: Sequence[Turn]) -> None:
    """What was sealed is still as it was then, wherever it is still kept."""
    for turn in turns:
        if turn.digest is None:
            continue
        try:
            _, log = await read_log(world, turn)
        except Gone:
            continue
        except NotFound:
            if world.emptied_since(turn.begun):
                continue
            raise
        if _digest(log) != turn.digest:
            raise Fault(f"the log of {turn} has changed after its end: {[record.type for record in log][-5:]}")
        world.report.counts["logs read twice"] += 1
