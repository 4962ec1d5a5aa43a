"""The next turn, started on another process than the one before it; and the same start, sent many times at once."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest

from tests.integration.redis.conftest import Starting
from tests.integration.redis.processes import Follower, Replica, check_exact, numbers, start, until
from tests.servers.redis import RedisServer
from unspool.errors import GenerationConflict, Gone, NotFound
from unspool.jobs import Status

Pair = tuple[Replica, Replica]


async def test_a_turn_on_another_replica_replaces_the_one_before(shared: Pair, stream: str) -> None:
    """Scenarios 45 to 47: the old run is cancelled, its viewers are told by what, and nothing of it is in the new one,
    however long it speaks on."""
    one, two = shared
    await one.say(stream, count=5, tool=1000, deaf=1.5, usage=["old"])
    old = [Follower(replica, stream, generation=1) for replica in shared]
    for viewer in old:
        await viewer.until(lambda viewer: "tool.call" in viewer.types)
    assert (await two.say(stream, count=30, delay=0.02, usage=["new"])).generation == 2
    new = Follower(one, stream)
    for viewer in old:
        records = await viewer.end()
        check_exact(records, 5)
        assert (records[-1].type, records[-1].data) == ("replaced", {"by_generation": 2})
    assert f"{stream}/1" in (await one.census())["signalled"]
    check_exact(await new.end(), 30)
    for replica in shared:
        async with replica.client() as client:
            state = await client.status(stream)
            assert (state.generation, state.status, state.text) == (2, Status.COMPLETE, numbers(30))
            assert [usage["model"] for usage in state.usage] == ["new"]
            before = await client.status(stream, generation=1)
            assert (before.status, before.text) == (Status.REPLACED, numbers(5))
    await until(one.census, "the old run is over", lambda found: f"{stream}/1" not in found["runs"])
    assert await Follower(two, stream, generation=1).end() == old[0].records


async def test_stop_for_the_old_turn_leaves_the_new_one_alone(shared: Pair, stream: str) -> None:
    """Scenario 49: the button still holds the identity of turn 1."""
    one, two = shared
    await one.say(stream, count=2, tool=1000)
    await two.say(stream, count=2, tool=1000)
    async with one.client() as client:
        late = await client.stop(stream, generation=1)
        assert (late.outcome, late.status) == ("already_settled", Status.REPLACED)
        assert (await client.status(stream)).status is Status.RUNNING
        assert (await client.stop(stream, generation=2)).outcome == "stopped"


async def test_a_continuation_that_expects_an_older_turn_is_refused(shared: Pair, stream: str) -> None:
    """Scenario 50: and nothing has changed."""
    one, two = shared
    await one.say(stream, count=1)
    await two.say(stream, count=2, tool=1000)
    with pytest.raises(GenerationConflict) as refused:
        await start(one.client(), stream, more={"expect_generation": 1})
    assert refused.value.details["generation"] == 2
    async with one.client() as client:
        assert (await client.status(stream)).status is Status.RUNNING
    assert (await start(one.client(), stream, more={"expect_generation": 2}, count=1)).generation == 3


async def test_another_users_stream_id_is_taken(shared: Pair, stream: str) -> None:
    """Scenario 51: refused, and the first user's run and listing are untouched."""
    one, two = shared
    await one.say(stream, user="first", count=2, tool=1000)
    with pytest.raises(NotFound):
        await start(two.client("second"), stream, count=1)
    async with two.client("first") as client:
        assert [found.stream_id for found in await client.list(status=Status.RUNNING)] == [stream]
        assert (await client.stop(stream)).text == numbers(2)


async def test_numbers_rise_whatever_is_deleted(
    replicas: Starting, database: RedisServer, store: str, stream: str
) -> None:
    """Scenario 48: created, deleted and created again on both replicas, no number is given twice; an old identity finds
    nothing to stop or to read."""
    one, two = await replicas("a", "b", retention=0.1)
    given: list[int] = []
    for replica in (one, two, one, two):
        given.append((await replica.say(stream, count=1)).generation)
        async with two.client() as client:
            await until(lambda: _is_gone(client, stream, given[-1]), "retention is over")
    assert given == [1, 2, 3, 4]
    await two.say(stream, count=2, tool=1000)
    async with one.http() as client:
        answer = await client.post(f"/v1/streams/{stream}/abort", json={"generation": 1})
        assert (answer.status_code, answer.json()["code"]) == (410, "gone")
    async with one.client() as client:
        assert (await client.status(stream)).status is Status.RUNNING


async def _is_gone(client: Any, stream: str, generation: int) -> bool:
    try:
        await client.status(stream, generation=generation)
    except Gone:
        return True
    return False


async def test_32_identical_starts_are_one(shared: Pair, stream: str) -> None:
    """Scenario 58: half of them on each replica, at once: one generation, 31 attach; so does a retry after its end,
    and a new id starts anew."""

    async def once(client: httpx2.AsyncClient) -> tuple[int, int]:
        body = {"messages": [{"role": "user", "content": '{"count": 3, "tool": 0.5}'}], "request_id": f"{stream}-1"}
        answer = await client.post(f"/v1/streams/{stream}/generations", json=body)
        return answer.status_code, answer.json()["generation"]

    async with shared[0].http() as one, shared[1].http() as two:
        answers = await asyncio.gather(*(once(client) for client in (one, two) * 16))
        assert sorted(answers) == [(200, 1)] * 31 + [(201, 1)]
        viewers = [Follower(replica, stream) for replica in shared]
        for viewer in viewers:
            check_exact(await viewer.end(), 3)
        assert await once(one) == await once(two) == (200, 1)
    again = await start(shared[1].client(), stream, more={"request_id": f"{stream}-2"}, count=1)
    assert (again.generation, again.attached) == (2, False)


async def test_racing_turns_leave_one_running(shared: Pair, stream: str) -> None:
    """Twenty different starts at once over two replicas: twenty numbers; all but the last are replaced, by the next."""
    starts = [start(shared[number % 2].client(), stream, count=2, tool=1000) for number in range(20)]
    given = sorted(started.generation for started in await asyncio.gather(*starts))
    assert given == list(range(1, 21))
    for number in given[:-1]:
        records = await Follower(shared[number % 2], stream, generation=number).end()
        assert records[-1].type == "replaced"
        assert records[-1].data == {"by_generation": number + 1}
    async with shared[0].client() as client:
        assert (await client.stop(stream)).outcome == "stopped"
    for replica in shared:
        await until(
            replica.census,
            "no run is left",
            lambda found: not any(run.startswith(f"{stream}/") for run in found["runs"]),
        )
