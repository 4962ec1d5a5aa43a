"""A cluster that moves a slot from one node to another, key by key, under the streams that live in it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Generator

import pytest
from redis.exceptions import AskError

from tests.integration.redis.conftest import Gates, Starting
from tests.integration.redis.processes import Follower, check_exact, numbers, until
from tests.integration.redis.test_indexes import opened
from tests.servers import redis as servers
from tests.servers.redis import Move, RedisServer
from tests.waiting import until as eventually
from unspool.backends.redis import RedisStore
from unspool.backends.redis.topology import Cluster, of_url
from unspool.client import Client
from unspool.errors import StoreUnavailable
from unspool.jobs import Owner, Status
from unspool.protocols import NewJob

Nodes = list[RedisServer]

LEASE = 4.0
"""Once a store is back, an owner has a sixth of this in which a busy machine may keep it from its renewal."""

pytestmark = pytest.mark.skipif(servers.binary() is None, reason="there is no Redis 8 here")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Generator[Nodes]:
    """Three masters."""
    with servers.cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture
def url(nodes: Nodes) -> str:
    return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)


async def move(nodes: Nodes, stream: str, pause: float) -> int:
    """Move all keys of a stream's slot, with pauses in between; how many they were."""
    moved = Move(nodes, stream)
    moved.begin()
    count = 0
    await asyncio.sleep(pause)
    while moved.one_key():
        count += 1
        await asyncio.sleep(pause)
    moved.end()
    return count


async def test_a_slot_that_moves_under_a_stream_changes_nothing(
    replicas: Starting, nodes: Nodes, url: str, gates: Gates, stream: str
) -> None:
    """Moved twice, key by key, while a run speaks and viewers follow, some of them new ones: all get all of it."""
    one, two = await replicas("a", "b", url=url, lease=30.0)
    moved, finish = gates(), gates()
    await one.say(stream, count=600, delay=0.005, gates={300: moved, 590: finish})
    viewers = [Follower(replica, stream) for replica in (one, two)]
    for viewer in viewers:
        await viewer.reach(20)
    assert await move(nodes, stream, 0.15) >= 4
    said = viewers[1].count
    moved.open()
    await viewers[1].reach(said + 20)
    viewers += [Follower(replica, stream) for replica in (one, two)]
    await move(nodes, stream, 0.05)
    viewers += [Follower(replica, stream) for replica in (one, two)]
    finish.open()
    for viewer in viewers:
        check_exact(await viewer.end(), 600)
        assert viewer.types[-1] == "completed"
    for viewer in viewers[:2]:
        assert viewer.connections == 1


async def patiently(client: Client, stream: str) -> Status:
    while True:
        try:
            return (await client.status(stream)).status
        except StoreUnavailable:
            await asyncio.sleep(0.02)


async def test_no_half_of_a_stream_is_ever_taken_for_the_whole(
    replicas: Starting, nodes: Nodes, url: str, gates: Gates, stream: str
) -> None:
    """Between any two keys of a move: status and Stop, lease and end of a run are right, or wait; nothing is lost that
    is merely elsewhere."""
    one, two = await replicas("a", "b", url=url, lease=LEASE, poll=0.05, sweep=0.05)
    finish = gates()
    await one.say(stream, count=20, tool=finish)
    viewer = Follower(two, stream)
    await viewer.until(lambda viewer: "tool.call" in viewer.types)
    moved = Move(nodes, stream)
    moved.begin()
    async with two.client() as client:
        assert moved.one_key()
        finish.open()  # the run ends in the middle of the move, and its lease as well
        await asyncio.sleep(LEASE)
        while moved.one_key():
            asking = asyncio.create_task(patiently(client, stream))
            await asyncio.wait([asking], timeout=0.4)
            if asking.done():
                assert await asking in (Status.RUNNING, Status.COMPLETE)
            else:
                asking.cancel()
        moved.end()
        check_exact(await viewer.end(), 20)
        assert viewer.types[-1] == "completed"
        found = await one.census()
        assert found["totals"].get("lost", 0) == 0
        state = await client.status(stream)
        assert (state.status, state.text) == (Status.COMPLETE, numbers(20))
        assert (await one.say(stream, count=1)).generation == 2
        check_exact(await Follower(two, stream, generation=2).end(), 1)
        await until(lambda: client.list(status=Status.RUNNING), "nothing runs", lambda found: not found)


async def test_a_move_that_takes_longer_than_a_lease_holds_up_its_own_streams_alone(
    replicas: Starting, nodes: Nodes, url: str, gates: Gates, stream: str
) -> None:
    """Meanwhile runs in other slots go on and are stopped, and a dead owner is noticed in time; afterwards the streams
    of the slot go on as well: their owner could not renew, and is not taken for dead."""
    one, two, three = await replicas("a", "b", "c", url=url, lease=LEASE, poll=0.1, sweep=0.1)
    finish = gates()
    other, orphan = await asyncio.to_thread(elsewhere, nodes, stream)
    await one.say(stream, count=400, delay=0.005, gates={50: finish})
    await one.say(other, count=10_000, delay=0.01)
    await two.say(orphan, count=10_000, delay=0.01)
    held, lost = Follower(three, stream), Follower(three, orphan)
    await held.reach(10)
    await lost.reach(10)
    moved = Move(nodes, stream)
    moved.begin()
    finish.open()
    two.kill()
    records = await lost.end()
    assert records[-1].data["code"] == "owner_lost"
    await asyncio.sleep(LEASE / 3)  # the other owner may have renewed a third of a lease later than the dead one
    async with three.client() as client:
        outcome = await client.stop(other)
        assert (outcome.outcome, outcome.text) == ("stopped", numbers(len(outcome.text.split())))
    while moved.one_key():
        pass
    moved.end()
    check_exact(await held.end(), 400)
    assert (held.types[-1], held.connections) == ("completed", 1)


async def test_processes_start_while_the_slot_of_what_they_all_share_is_moved(nodes: Nodes, url: str) -> None:
    """Between any two keys of the move: a new process opens its store and creates, and so does one from before."""

    async def create(store: RedisStore, name: str) -> None:
        new = NewJob(stream_id=f"shared-{name}", owner=Owner("u"), replica="a", lease=60.0)
        assert (await store.create(new)).job.generation == 1

    async with opened(url) as old:
        await create(old, "first")
        moved = Move(nodes, "0")
        moved.begin()
        for step in range(100):
            async with opened(url) as fresh:
                await create(fresh, f"fresh-{step}")
                await create(old, f"old-{step}")
            if not moved.one_key():
                break
        moved.end()


async def test_commands_to_a_node_that_leaves_the_cluster_fail_as_in_any_outage(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under way or queued: their callers are told that the store is away. A cancellation would end their tasks."""
    cluster, _ = of_url(url)
    assert isinstance(cluster, Cluster)
    await cluster.open()
    key = b"{leaves}"
    callers: list[asyncio.Task[None]] = []
    for sent in (1, 1):
        callers.append(asyncio.create_task(cluster.call(key, b"BLPOP", key, 0)))
        await eventually(lambda: cluster._pipes)
        await eventually(lambda sent=sent: cluster.pipe(key).commands == sent)
    with monkeypatch.context() as patched:
        patched.setattr(cluster._client, "get_nodes", list)
        cluster._refresh()
        await asyncio.wait(callers)
    assert [type(caller.exception()) for caller in callers if not caller.cancelled()] == [StoreUnavailable] * 2
    await cluster.call(key, b"SET", key, "back", b"PX", 60_000)
    await cluster.close()


async def test_a_node_that_is_away_as_a_slot_moves_to_it_leaves_no_error_unheard(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two commands are sent to it, and both fail: the caller is told, and the event loop has nothing to report."""
    cluster, _ = of_url(url)
    assert isinstance(cluster, Cluster)
    await cluster.open()
    loop, key, reported = asyncio.get_running_loop(), b"{asked}", list[str]()
    loop.set_exception_handler(lambda _, context: reported.append(context["message"]))
    pipe, node = cluster.pipe(key), cluster.node(key)

    async def call(*_: object, **__: object) -> None:
        raise AskError(f"1 {node}")

    def ask(*commands: object, **_: object) -> list[asyncio.Future[None]]:
        futures: list[asyncio.Future[None]] = [loop.create_future() for _ in commands]
        for future in futures:
            future.set_exception(StoreUnavailable("away"))
        return futures

    monkeypatch.setattr(pipe, "call", call)
    monkeypatch.setattr(pipe, "ask", ask)
    with pytest.raises(StoreUnavailable):
        await cluster.call(key, b"GET", key)
    await cluster.close()
    gc.collect()
    assert reported == []


def elsewhere(nodes: Nodes, stream: str) -> tuple[str, str]:
    """Names of two streams in other slots than this one's."""
    slots = {name: int(nodes[0].ask("CLUSTER", "KEYSLOT", name)) for name in (stream, f"{stream}-o", f"{stream}-p")}
    assert len(set(slots.values())) == 3
    return f"{stream}-o", f"{stream}-p"
