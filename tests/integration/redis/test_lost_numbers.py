"""A number that the store has lost and gives again: what belonged to the lost generation never meets the other one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack

import pytest

from tests.integration.redis.test_emptied import OPTIONS, empty
from tests.servers.redis import RedisServer
from unspool import ANYONE, GenerationManager
from unspool.backends.redis import RedisStore, from_url
from unspool.errors import Fenced, Gone, NotFound, StoreUnavailable
from unspool.events import Record
from unspool.jobs import Job, Owner
from unspool.producer import Generation
from unspool.protocols import Checkpoint, NewJob
from unspool.testing.contract.kit import eventually
from unspool.viewer import Viewer


async def lose(redis: RedisServer, how: str) -> None:
    """Take the stream away, with the database or alone."""
    if how == "deleted":
        with redis.client as client:
            client.delete(*client.keys("unspool:{s}*"))
    else:
        await empty(redis, "restarted")


class Says:
    """A run that says a word whenever it is told to; words of different runs are told apart by their first letter."""

    def __init__(self, letter: str) -> None:
        self.letter = letter
        self.go = asyncio.Event()
        self.said = 0

    async def __call__(self, gen: Generation) -> None:
        while True:
            await self.go.wait()
            await gen.emit("custom", {"name": self.letter, "value": self.said})
            self.said += 1
            await gen.snapshot()
            await asyncio.sleep(0.01)


async def seen(viewer: Viewer) -> str:
    """The letters that a viewer is shown until it is cut off."""
    shown = ""
    try:
        async for record in viewer:
            shown += record.data["name"] if record.type == "custom" else "?"
    except (NotFound, Gone):
        pass
    return shown


async def started(manager: GenerationManager, run: Says, user: str) -> Job:
    async def start() -> Job | None:
        try:
            return await manager.start("s", run, user=user)
        except StoreUnavailable:
            return None

    return await eventually(start)


@pytest.mark.parametrize("how", ["rewound", "deleted"])
@pytest.mark.parametrize("spoken", [False, True], ids=["silent", "spoken"])
async def test_no_text_of_either_reaches_the_readers_of_the_other(redis: RedisServer, how: str, spoken: bool) -> None:
    """The owner of the lost one, viewers of both, and a new owner that has never heard of the first."""
    async with AsyncExitStack() as stack, asyncio.timeout(60):
        one, two, three = [
            await stack.enter_async_context(GenerationManager.from_url(redis.url, options=OPTIONS)) for _ in range(3)
        ]
        redis.ask("SAVE")
        old, new = Says("a"), Says("b")
        await one.start("s", old, user="ann")
        if spoken:
            old.go.set()
        views = [await manager.view("s", user="ann") for manager in (one, two)]
        before = [asyncio.create_task(seen(viewer)) for viewer in views]
        await eventually(lambda: _is(not spoken or old.said > 5))
        await lose(redis, how)
        old.go.set()
        job = await started(three, new, "bob")
        assert job.generation == 1 or how == "rewound"
        views = [await manager.view("s", user="bob") for manager in (one, two, three)]
        after = [asyncio.create_task(seen(viewer)) for viewer in views]
        new.go.set()
        for shown in await asyncio.gather(*before):
            assert set(shown) <= {"a"}
        await eventually(lambda: _is(new.said > 20))
        assert (await three.job("s", user="bob")).status == "running"
        await three.abort("s", user="bob")
        texts = await asyncio.gather(*after)
        assert all(set(shown[:-1]) == {"b"} and shown[-1] == "?" for shown in texts)
        assert len(set(texts)) == 1


async def _is(answer: bool) -> bool:
    return answer


@pytest.fixture
async def store(redis: RedisServer) -> AsyncGenerator[RedisStore]:
    made, _ = from_url(redis.url, retention=3600.0)
    await made.open()
    yield made
    await made.close()


async def test_every_verb_tells_the_two_apart(redis: RedisServer, store: RedisStore) -> None:
    """Both are at the same epoch and at the same offset, and have checkpoints."""

    async def make(text: bytes) -> Job:
        job = (await store.create(NewJob(stream_id="s", owner=Owner("u"), replica="a", lease=60.0))).job
        await store.append(job.key, 1, [Record(1, "text.delta", b'{"id":"p","text":"%b"}' % text)])
        await store.save_checkpoint(job.key, 1, Checkpoint(1, text))
        return await store.get("s")

    old = await make(b"old")
    await lose(redis, "deleted")
    new = await make(b"new")
    assert (old.key, old.lease.epoch, old.last_offset) == (new.key, new.lease.epoch, new.last_offset)
    key = old.key
    for refused in (
        store.append(key, 1, [Record(2, "title", b"{}")]),
        store.update(key, 1, {"title": "old"}),
        store.save_checkpoint(key, 1, Checkpoint(1, b"old")),
        store.trim(key, 1, 1),
        store.seal(key, 1, "completed", b"{}"),
    ):
        with pytest.raises(Fenced):
            await refused
    for gone in (store.read(key, 0, 10), store.request_abort(key, "user", None), store.mark_synced(key, True)):
        with pytest.raises(Gone):
            await gone
    assert [one.held for one in await store.renew("a", [(key, 1)], 60.0)] == [False]
    assert await store.take_over(key, 1, "b", 60.0) is None
    assert await store.checkpoint(key) is None
    assert await store.checkpoint(new.key) == Checkpoint(1, b"new")
    assert [record.data["text"] for record in (await store.read(new.key, 0, 10)).records] == ["new"]
    assert await store.get("s") == new
    assert (await store.seal(new.key, 1, "completed", b"{}")).won
    with pytest.raises(Fenced):
        await store.seal(key, 1, "failed", b"{}")
    assert not await store.delete(key)
    assert await store.delete(new.key)


async def test_what_is_left_of_a_lost_one_is_not_inherited(redis: RedisServer, store: RedisStore) -> None:
    """A database that evicts has taken the stream's own hash, and left the rest."""
    job = (await store.create(NewJob(stream_id="s", owner=Owner("u"), replica="a", lease=60.0))).job
    await store.append(job.key, 1, [Record(1, "text.delta", b'{"id":"p","text":"old"}')])
    await store.request_abort(job.key, "user", None)
    with redis.client as client:
        client.delete("unspool:{s}")
    made = (await store.create(NewJob(stream_id="s", owner=Owner("v"), replica="a", lease=60.0))).job
    assert (made.generation, made.abort, made.user, made.last_offset) == (1, None, "v", 0)
    assert (await store.read(made.key, 0, 10)).records == []


@pytest.mark.parametrize("evicted", ["unspool:{s}:1:fence", "unspool:{s}:1"], ids=["fence", "job"])
async def test_a_generation_of_which_half_is_lost_is_not_there(
    redis: RedisServer, store: RedisStore, evicted: str
) -> None:
    """A database that evicts has taken one of its keys: it takes nothing more, and the next one comes in its place."""
    old = (await store.create(NewJob(stream_id="s", owner=Owner("u"), replica="a", lease=60.0))).job
    redis.ask("DEL", evicted)
    with pytest.raises(Fenced):
        await store.update(old.key, 1, {"title": "old"})
    with pytest.raises(Gone):
        await store.seal(old.key, 1, "completed", b"{}")
    assert await store.take_over(old.key, 1, "b", 60.0) is None
    assert [one.held for one in await store.renew("a", [(old.key, 1)], 60.0)] == [False]
    with pytest.raises(Gone):
        await store.get("s")
    made = await store.create(NewJob(stream_id="s", owner=Owner("u"), replica="a", lease=60.0))
    assert (made.job.generation, made.replaced) == (2, None)
    assert [job.key for job in await store.jobs(Owner("u"), None, 10)] == [made.job.key]


async def test_a_replica_whose_run_is_lost_may_run_the_other_one(redis: RedisServer) -> None:
    """Both under one number in one process: only the lost one is stopped."""
    async with GenerationManager.from_url(redis.url, options=OPTIONS) as manager, asyncio.timeout(60):
        old, new = Says("a"), Says("b")
        old.go.set()
        await manager.start("s", old, user="ann")
        manager.replica._numbers.clear()
        await lose(redis, "deleted")
        job = await started(manager, new, "bob")
        assert job.generation == 1
        viewer = asyncio.create_task(seen(await manager.view("s", user="bob")))
        new.go.set()
        await eventually(lambda: _is(new.said > 5))
        count = old.said
        await manager.abort("s", user="bob")
        assert set((await viewer)[:-1]) == {"b"}
        assert old.said == count
        assert (await manager.job("s", user=ANYONE)).status == "aborted"
