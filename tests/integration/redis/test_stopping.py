"""Stop, asked of one process while another one runs: answered with the content, and within its bound in every case."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress

from tests.integration.redis.conftest import SHARED_GRACE, SHARED_LEASE, Gates, Starting
from tests.integration.redis.processes import (
    PATIENCE,
    SLACK,
    TIMES,
    Follower,
    Gate,
    Replica,
    check_exact,
    numbers,
    until,
)
from tests.servers.redis import RedisServer
from unspool.client import Outcome
from unspool.jobs import Status
from unspool.testing.proxy import Proxy

Pair = tuple[Replica, Replica]
Tell = Callable[[str], None]

BOUND = SHARED_GRACE + min(1.0, SHARED_LEASE / 3)
"""Seconds after which a replica that was asked stops waiting for the owner, and seals itself."""


async def stop(replica: Replica, stream: str) -> tuple[Outcome, float]:
    """Stop it; the answer, and after how many seconds it came."""
    begun = time.monotonic()
    async with replica.client() as client:
        return await client.stop(stream, generation=1), time.monotonic() - begun


async def test_stop_reaches_the_owner_on_another_replica(shared: Pair, stream: str, tell: Tell) -> None:
    """Scenario 37: the run is cancelled, the viewers of both get one terminal record, all usage is there."""
    one, two = shared
    await one.say(stream, count=10_000, delay=0.01, usage=["small", "large"])
    viewers = [Follower(replica, stream) for replica in shared]
    for viewer in viewers:
        await viewer.reach(5)
    asked = time.monotonic()
    outcome, seconds = await stop(two, stream)
    answered = time.monotonic()
    tell(f"Stop of a run on another replica: answered in {seconds * 1000:.0f} ms")
    assert seconds < BOUND + SLACK
    assert (outcome.outcome, outcome.status) == ("stopped", Status.ABORTED)
    assert {usage["model"] for usage in outcome.usage} == {"small", "large"}
    assert outcome.final is not None
    assert outcome.final["response_message"]["unfinished"] is True
    for viewer in viewers:
        records = await viewer.end()
        check_exact(records)
        assert records[-1].type == "aborted"
        assert viewer.text == outcome.text == numbers(len(outcome.text.split()))
    assert asked < (await one.census())["signalled"][f"{stream}/1"] < answered


async def test_stop_reaches_into_a_tool_that_is_waited_for(shared: Pair, stream: str) -> None:
    """The await inside the tool is cancelled; nobody waits for it."""
    one, two = shared
    await one.say(stream, count=3, tool=1000)
    await Follower(two, stream).until(lambda viewer: "tool.call" in viewer.types)
    outcome, seconds = await stop(two, stream)
    assert (outcome.outcome, outcome.text) == ("stopped", numbers(3))
    assert seconds < BOUND + SLACK
    assert f"{stream}/1" in (await one.census())["signalled"]


async def test_stop_needs_no_viewer(shared: Pair, stream: str) -> None:
    """Scenario 38: nobody follows any more, on either replica."""
    one, two = shared
    await one.say(stream, count=3, tool=1000)
    viewer = Follower(two, stream)
    await viewer.reach(3)
    await viewer.leave()
    outcome, _ = await stop(two, stream)
    assert (outcome.outcome, outcome.text) == ("stopped", numbers(3))
    assert f"{stream}/1" in (await one.census())["signalled"]


class Stepwise(Proxy):
    """Passes what the server answers on, or, while `holding`, keeps it until `let_one_pass`."""

    def __init__(self, upstream_port: int) -> None:
        super().__init__(upstream_port)
        self.holding = False
        self._held: deque[asyncio.Event] = deque()

    @property
    def held(self) -> int:
        """How many pieces wait to be passed on."""
        return len(self._held)

    def let_one_pass(self) -> None:
        self._held.popleft().set()

    def let_all_pass(self) -> None:
        self.holding = False
        while self._held:
            self.let_one_pass()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, RuntimeError):  # uvloop's word for a transport that has been closed
            while data := await reader.read(65_536):
                if self.holding:
                    self._held.append(passing := asyncio.Event())
                    await passing.wait()
                writer.write(data)
                await writer.drain()


async def test_stop_comes_before_the_run_has_begun(
    replicas: Starting, database: RedisServer, store: str, stream: str
) -> None:
    """The owner has not even heard that its generation exists: it is stopped with nothing in it, and stays so."""
    cable = Stepwise(database.port)
    async with cable:
        url = f"redis://127.0.0.1:{cable.port}?{store.partition('?')[2]}&timeout={PATIENCE}"
        (one,) = await replicas("a", url=url, lease=30.0)
        (two,) = await replicas("b", lease=30.0)
        cable.holding = True
        starting = asyncio.create_task(one.say(stream, count=1000, delay=0.01))
        async with two.client() as client:
            while True:
                await until(lambda: cable.held, "an answer is held up")
                if await client.list():
                    break  # created, and the answer that says so is still held up
                cable.let_one_pass()
        outcome, seconds = await stop(two, stream)
        cable.let_all_pass()
        assert (outcome.outcome, outcome.text) == ("stopped", "")
        assert outcome.final is not None
        assert outcome.final["early"] is True
        assert seconds < TIMES["abort_grace"] + 1.0 + SLACK
        assert (await starting).generation == 1
        await until(one.census, "the owner holds no run", lambda found: not found["runs"])
        check_exact(await Follower(two, stream).end(), 0)


async def test_a_run_that_does_not_heed_it_is_cut_off(shared: Pair, stream: str, tell: Tell) -> None:
    """Scenario 42: the run speaks on for seconds, and none of it is delivered or stored."""
    one, two = shared
    await one.say(stream, count=5, tool=1000, deaf=SHARED_GRACE + 5.0)
    viewer = Follower(two, stream)
    await viewer.until(lambda viewer: "tool.call" in viewer.types)
    outcome, seconds = await stop(two, stream)
    tell(f"Stop of a run that does not heed it, grace {SHARED_GRACE} s: answered in {seconds * 1000:.0f} ms")
    assert seconds < BOUND + SLACK
    assert (outcome.outcome, outcome.text) == ("stopped", numbers(5))
    await until(one.census, "it speaks on", lambda found: found["late"].get(f"{stream}/1", 0) > 20)
    assert await Follower(one, stream).end() == await viewer.end()
    assert "late" not in viewer.text


@asynccontextmanager
async def deafened(database: RedisServer) -> AsyncGenerator[None]:
    """While this is entered, whoever listens for hints is thrown out again and again, from the beginning on."""
    thrown_out = asyncio.Event()

    async def throw_out() -> None:
        while True:
            database.ask("CLIENT", "KILL", "TYPE", "pubsub")
            thrown_out.set()
            await asyncio.sleep(0.02)

    task = asyncio.create_task(throw_out())
    try:
        await thrown_out.wait()
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_without_any_hint_the_owner_stops_within_a_lease(
    replicas: Starting, database: RedisServer, stream: str, tell: Tell
) -> None:
    """Scenario 39: it hears of the Stop when it renews; the replica that was asked does not claim to have stopped it
    before."""
    lease = 3.0
    one, two = await replicas("a", "b", lease=lease, abort_grace=PATIENCE)
    await one.say(stream, count=10_000, delay=0.01)
    viewer = Follower(two, stream)
    await viewer.reach(5)
    async with deafened(database):
        asked = time.monotonic()
        outcome, seconds = await stop(two, stream)
        records = await viewer.end()
    signalled = (await one.census())["signalled"][f"{stream}/1"]
    tell(f"Stop with every hint lost, lease {lease} s: heard in {signalled - asked:.2f} s, answered in {seconds:.2f} s")
    assert outcome.outcome == "stopped"
    assert signalled - asked < lease + SLACK
    assert signalled < asked + seconds
    check_exact(records)
    assert viewer.text == outcome.text


async def test_a_frozen_owner_is_overruled_and_fenced_when_it_wakes(
    replicas: Starting, stream: str, tell: Tell
) -> None:
    """Stop is answered within its bound; what the owner says afterwards is refused, and its run ends."""
    grace = TIMES["abort_grace"]
    one, two = await replicas("a", "b", lease=30.0)
    await one.say(stream, count=100_000, delay=0.001)
    viewer = Follower(two, stream)
    await viewer.reach(50)
    one.freeze()
    try:
        outcome, seconds = await stop(two, stream)
    finally:
        one.thaw()
    tell(f"Stop of a frozen owner, grace {grace} s: answered in {seconds:.2f} s")
    assert (outcome.outcome, outcome.status) == ("stopped", Status.ABORTED)
    assert seconds < grace + 1.0 + SLACK
    check_exact(await viewer.end())
    found = await until(one.census, "the owner gives up", lambda found: not found["runs"])
    assert found["totals"]["lost"] == 1
    check_exact(await Follower(one, stream).end(), len(outcome.text.split()))
    assert viewer.text == outcome.text


class Lead:
    """How many seconds before the Stop a run may end. It moves towards the tie, however fast this machine is."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def draw(self) -> float:
        return self._seconds + random.uniform(-0.01, 0.01)

    def learn(self, outcome: str) -> None:
        self._seconds += 0.01 if outcome == "stopped" else -0.01


async def test_completion_and_stop_at_the_same_moment_have_one_outcome(
    shared: Pair, gates: Gates, stream: str, tell: Tell
) -> None:
    """Scenario 40: the second of them is told what was sealed, and the viewers see just that."""
    one, two = shared
    outcomes: Counter[str] = Counter()
    lead = Lead()

    async def finish(gate: Gate, seconds: float) -> None:
        await asyncio.sleep(seconds)
        gate.open()

    async def race(name: str) -> None:
        gate, seconds = gates(), lead.draw()
        await one.say(name, count=4, gates={4: gate})
        finishing = asyncio.create_task(finish(gate, max(0.0, -seconds)))
        await asyncio.sleep(max(0.0, seconds))
        outcome, _ = await stop(two, name)
        await finishing
        records = await Follower(two, name).end()
        check_exact(records)
        expected = {"stopped": "aborted", "already_settled": "completed"}[outcome.outcome]
        assert outcome.final is not None
        assert records[-1].type == outcome.final["type"] == expected
        outcomes[outcome.outcome] += 1
        lead.learn(outcome.outcome)

    for number in range(20):
        await asyncio.gather(*(race(f"{stream}-{number}-{more}") for more in range(4)))
    tell(f"Stop against completion: {dict(outcomes)}")
    assert set(outcomes) == {"stopped", "already_settled"}


async def test_a_second_stop_is_told_that_it_is_settled(shared: Pair, stream: str) -> None:
    """Scenario 41, on either replica."""
    one, two = shared
    await one.say(stream, count=2, tool=1000)
    first, _ = await stop(two, stream)
    for replica in shared:
        again, _ = await stop(replica, stream)
        assert (again.outcome, again.status, again.final) == ("already_settled", Status.ABORTED, first.final)
