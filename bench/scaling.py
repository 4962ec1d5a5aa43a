"""What so many concurrent generations need, computed from measured unit costs.

python -m bench.scaling FILE.json    what `python -m bench.growth --json` wrote, or the unit costs alone
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.report import figure

TARGETS: Final = (10_000, 100_000, 1_000_000)


@dataclass(frozen=True, slots=True)
class Units:
    """Measured. CPU is in µs, an event is a delta of 135 bytes of JSON, kB are 1,000 bytes."""

    emit: float
    """CPU of the server per event that nobody watches, in memory mode."""
    deliver: float
    """CPU of the server on top of it for one viewer."""
    further: float
    """The same for each further viewer of the same generation."""
    redis_emit: float
    """CPU of the owner's replica per event that goes to Redis."""
    redis_deliver: float
    """CPU on top of it for one viewer on the same replica."""
    redis_follow: float
    """CPU of another replica that gets the event from Redis and delivers it to one viewer."""
    redis_cpu: float
    """CPU of Redis per event, the viewer on another replica."""
    redis_commands: float
    """Commands sent to Redis per event, likewise."""
    redis_bytes: float
    """Bytes in and out of Redis per event, likewise."""
    redis_connections: float
    """Connections to Redis of one replica."""
    wire_bytes: float
    """Bytes of a response per delivered event, without packet headers."""
    events: float
    """Of a generation, where its memory was measured."""
    running_kb: float
    """Memory of a running generation in the process, memory mode: all of its log."""
    kept_kb: float
    """The same after its end, packed."""
    redis_running_kb: float
    """Memory of a running generation in its owner's process over Redis: the window of recent records."""
    redis_stored_kb: float
    """Memory of a running generation in Redis."""
    redis_kept_kb: float
    """The same after its end, packed."""
    viewer_kb: float
    """Memory of an idle viewer in the process."""
    base_mb: float
    """Memory of a server that does nothing."""

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Units:
        """From JSON: the unit costs, or a run that has them. Raises SystemExit, naming what is missing."""
        costs: Mapping[str, Any] | None = document.get("units", document) if "curves" in document else document
        if costs is None:
            raise SystemExit("that run has no unit costs: it was started with --only")
        missing = [field.name for field in dataclasses.fields(cls) if field.name not in costs]
        if missing:
            raise SystemExit(f"unit costs are missing: {', '.join(missing)}")
        return cls(**{field.name: float(costs[field.name]) for field in dataclasses.fields(cls)})


@dataclass(frozen=True, slots=True)
class Assumed:
    """What is not measured but chosen."""

    rate: float = 20.0
    """Events of a generation in a second, each an append and a frame of its own."""
    seconds: float = 25.0
    """That an answer takes: as many start and end in this time as run at once."""
    retention: float = 3600.0
    """Seconds for which an ended generation is kept."""
    busy: float = 0.6
    """Share of a core that is used when all is well."""
    viewers_per_replica: int = 10_000
    """Viewers held by one process, as measured in W7."""
    shard_gb: float = 24.0
    """Memory that one Redis may fill."""
    headers: int = 66
    """Bytes of Ethernet, IP and TCP headers around an event, which leaves in a packet of its own."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What it takes. CPU in cores, memory in GB, network in Gbit/s."""

    generations: int
    events: float
    """In a second."""
    cores: float
    """Fully busy, of all replicas."""
    replicas: int
    """Processes, each of which uses one core."""
    viewers_each: float
    replicas_gb: float
    redis_cores: float
    shards: int
    """Redis servers: as many as CPU or memory ask for, whichever is more."""
    kept: float
    """Ended generations within their retention."""
    redis_running_gb: float
    redis_kept_gb: float
    redis_commands: float
    """In a second."""
    redis_network: float
    redis_connections: float
    """At each shard, when each replica belongs to one."""
    viewer_network: float


def needs(units: Units, assumed: Assumed, generations: int) -> Needs:
    """Of so many concurrent generations with one viewer each, none of which is where its run is."""
    events = generations * assumed.rate
    cores = events * (units.redis_emit + units.redis_follow) / 1e6
    replicas = max(math.ceil(cores / assumed.busy), math.ceil(generations / assumed.viewers_per_replica))
    redis_cores = events * units.redis_cpu / 1e6
    kept = generations * assumed.retention / assumed.seconds
    running_gb, kept_gb = generations * units.redis_stored_kb / 1e6, kept * units.redis_kept_kb / 1e6
    shards = max(math.ceil(redis_cores / assumed.busy), math.ceil((running_gb + kept_gb) / assumed.shard_gb), 1)
    held = generations * (units.redis_running_kb + units.viewer_kb) / 1e6
    return Needs(
        generations=generations, events=events, cores=cores, replicas=replicas, viewers_each=generations / replicas,
        replicas_gb=held + replicas * units.base_mb / 1e3, redis_cores=redis_cores, shards=shards, kept=kept,
        redis_running_gb=running_gb, redis_kept_gb=kept_gb, redis_commands=events * units.redis_commands,
        redis_network=events * units.redis_bytes * 8 / 1e9,
        redis_connections=math.ceil(replicas / shards) * units.redis_connections,
        viewer_network=events * (units.wire_bytes + assumed.headers) * 8 / 1e9,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Alone:
    """What one process holds in memory mode."""

    by_cpu: int
    """Concurrent generations with one viewer each."""
    by_viewers: int
    """Viewers of one generation."""
    gigabytes: float
    """Of memory at `by_cpu`, with what is kept."""


def alone(units: Units, assumed: Assumed) -> Alone:
    generations = int(assumed.busy * 1e6 / (assumed.rate * (units.emit + units.deliver)))
    kept = generations * assumed.retention / assumed.seconds
    memory = generations * (units.running_kb + units.viewer_kb) + kept * units.kept_kb
    return Alone(
        by_cpu=generations,
        by_viewers=int((assumed.busy * 1e6 / assumed.rate - units.emit - units.deliver) / units.further) + 1,
        gigabytes=memory / 1e6 + units.base_mb / 1e3,
    )


_MEASURED: Final = (
    ("one event, memory mode, nobody watching", "emit", "µs of CPU"),
    ("… its delivery to one viewer", "deliver", "µs of CPU"),
    ("… to each further viewer of the same generation", "further", "µs of CPU"),
    ("one event, over Redis: its owner", "redis_emit", "µs of CPU"),
    ("… its delivery on the same replica", "redis_deliver", "µs of CPU"),
    ("… its delivery on another replica", "redis_follow", "µs of CPU"),
    ("… Redis", "redis_cpu", "µs of CPU"),
    ("… Redis", "redis_commands", "commands sent"),
    ("… Redis", "redis_bytes", "bytes in and out"),
    ("… the response to its viewer", "wire_bytes", "bytes"),
    ("a replica", "redis_connections", "connections to Redis"),
    ("a server that does nothing", "base_mb", "MB"),
    ("an idle viewer", "viewer_kb", "kB"),
    ("a running generation of {events} events, memory mode", "running_kb", "kB"),
    ("… ended and kept", "kept_kb", "kB"),
    ("the same over Redis: in its owner's process", "redis_running_kb", "kB"),
    ("… in Redis while it runs", "redis_stored_kb", "kB"),
    ("… in Redis, ended and kept", "redis_kept_kb", "kB"),
)

_NEEDED: Final = (
    ("events/s", "events"),
    ("cores, fully busy", "cores"),
    ("**replicas**, of one core each", "replicas"),
    ("generations and viewers on each", "viewers_each"),
    ("memory of all replicas, GB", "replicas_gb"),
    ("cores of Redis, fully busy", "redis_cores"),
    ("ended generations that are kept", "kept"),
    ("memory of Redis: running, GB", "redis_running_gb"),
    ("memory of Redis: kept, GB", "redis_kept_gb"),
    ("**Redis servers**", "shards"),
    ("connections to each of them", "redis_connections"),
    ("commands/s, all of them", "redis_commands"),
    ("network at Redis, Gbit/s, all of them", "redis_network"),
    ("network to viewers, Gbit/s", "viewer_network"),
)

_OF_RETENTION: Final = ("kept", "redis_kept_gb", "shards")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", f"|---{'|---:' * (len(head) - 1)}|", *(f"| {' | '.join(row)} |" for row in rows)]


def costs_table(units: Units) -> list[str]:
    """What was measured."""
    return _table(
        ["measured", ""],
        [
            [what.format(events=figure(units.events)), f"{figure(getattr(units, name))} {unit}"]
            for what, name, unit in _MEASURED
        ],
    )


def needs_table(units: Units, assumed: Assumed, rows: Sequence[tuple[str, str]]) -> list[str]:
    """What the targets need: for each row its words and the name of a figure."""
    found = [needs(units, assumed, target) for target in TARGETS]
    head = ["concurrent generations", *(f"{one.generations:,}" for one in found)]
    return _table(head, [[what, *(_number(getattr(one, name)) for one in found)] for what, name in rows])


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else figure(value)


def markdown(units: Units) -> str:
    """The measured costs and the tables made of them."""
    usual = Assumed()
    joined = dataclasses.replace(usual, rate=usual.rate / 4)
    short = dataclasses.replace(joined, retention=300.0)
    one, slow = alone(units, usual), alone(units, joined)
    lines = [*costs_table(units), ""]
    lines += [f"At {usual.rate:g} events/s, each an append of its own, {usual.retention:,g} seconds of retention:", ""]
    lines += [*needs_table(units, usual, _NEEDED), ""]
    lines += [f"The same answers at {joined.rate:g} events/s, four tokens joined before they are emitted:", ""]
    lines += [*needs_table(units, joined, _NEEDED), ""]
    lines += [f"Of that, what changes with {short.retention:,g} seconds of retention:", ""]
    lines += [*needs_table(units, short, [row for row in _NEEDED if row[1] in _OF_RETENTION]), ""]
    lines.append(
        f"One process in memory mode, {usual.busy:.0%} of its core busy: {one.by_cpu:,} generations at "
        f"{usual.rate:g} events/s with a viewer each, in {figure(one.gigabytes)} GB with what is kept; "
        f"{slow.by_cpu:,} at {joined.rate:g} events/s, in {figure(slow.gigabytes)} GB; or one generation at "
        f"{usual.rate:g} events/s with {one.by_viewers:,} viewers."
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.scaling", description=__doc__)
    parser.add_argument("file", type=Path, help="unit costs as JSON")
    options = parser.parse_args()
    try:
        document = json.loads(options.file.read_text())
    except (OSError, ValueError) as error:
        raise SystemExit(f"{options.file} cannot be read: {error}") from error
    print(markdown(Units.of(document)))


if __name__ == "__main__":
    main()
