"""What one seed's world is like. Every seed draws its own: a fault that is rare everywhere is never met in company."""

from __future__ import annotations

from random import Random

import msgspec

from unspool.jobs import Limits
from unspool.options import Options


class Hostility(msgspec.Struct, frozen=True):
    """How hints are treated: shares that are dropped, doubled, reordered; seconds that they are late, at most."""

    drop: float = 0.0
    double: float = 0.0
    reorder: float = 0.0
    delay: float = 0.0


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """A world. Times are virtual seconds, the others counts and shares.

    `page`: records that one read of the store asks for. `slow_calls`: the share of calls to the store that take up to
    `latency`; the others are done at once. `shuffle`: of steps that break the order of their replica's callbacks.
    `pace`: mean seconds between two actions of users, `trouble`: between two faults (0: there are none), `impatience`:
    between two moves of one viewer. `drop`: the share of records at which a viewer drops. `chunk`: mean seconds between
    two pieces of a model's answer. `saves`: a hook saves partial answers, slowly, and sometimes fails; `hooks`: another
    one hears of each seal. `disabled`: faults that this world is spared.
    """

    replicas: int
    page: int
    streams: int
    followers: int
    options: Options
    hints: Hostility
    slow_calls: float
    latency: float
    shuffle: float
    pace: float
    trouble: float
    impatience: float
    drop: float
    chunk: float
    saves: bool
    hooks: bool
    disabled: frozenset[str]


_HOSTILITY = (
    Hostility(),
    Hostility(drop=0.1, double=0.1, reorder=0.1, delay=0.005),
    Hostility(drop=0.4, double=0.3, reorder=0.3, delay=0.05),
    Hostility(drop=0.0, double=0.5, reorder=0.5, delay=0.5),
    Hostility(drop=1.0),
)


def draw(random: Random, faults: tuple[str, ...]) -> Profile:
    """The world of this seed: a crowd of viewers, or a storm of faults. `faults`: their names; some are left out."""
    crowd = random.random() < 0.35
    log_records = random.choice((64, 400, 200_000))
    options = Options(
        lease=random.choice((2.0, 2.0, 5.0, 10.0)),
        abort_grace=random.choice((0.2, 2.0)),
        retention=random.choice((20.0, 60.0, 3600.0)),
        max_jobs=random.choice((6, 40, 10_000)),
        backlog=random.choice((4, 256)),
        window=random.choice((4, 32, 256)),
        window_bytes=random.choice((2_000, 1024 * 1024)),
        log_records=log_records,
        checkpoint_every=random.choice((16, 64)) if log_records < 1000 else 1000,
        drain=random.choice((0.0, 2.0)),
        hook_timeout=2.0,
        limits=Limits(stall=30.0, duration=random.choice((0.0, 60.0)), log_bytes=random.choice((20_000, 1 << 26))),
    )
    return Profile(
        replicas=random.choice((1, 2, 2, 3, 3, 4)),
        page=random.choice((7, 32, 128)),
        streams=random.randint(2, 6),
        followers=random.choice((20, 40) if crowd else (2, 6)),
        options=options,
        hints=random.choice(_HOSTILITY),
        slow_calls=random.choice((0.02, 0.1, 0.5)),
        latency=random.choice((0.0, 0.002, 0.02)),
        shuffle=random.choice((0.0, 0.2)),
        pace=random.choice((0.2, 1.0) if crowd else (0.5, 2.0)),
        trouble=random.choice((0.0, 1.0, 5.0) if crowd else (0.5, 2.0, 8.0)),
        impatience=random.choice((0.02, 0.1) if crowd else (0.2, 1.0)),
        drop=random.choice((0.2, 0.6)),
        chunk=random.choice((0.002, 0.02, 0.1) if crowd else (0.02, 0.1, 0.3)),
        saves=random.random() < 0.3,
        hooks=random.random() < 0.6,
        disabled=frozenset(fault for fault in faults if random.random() < 0.3),
    )
