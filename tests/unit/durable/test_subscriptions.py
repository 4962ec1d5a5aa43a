"""Subscriptions: each append is worked on by one worker at a time, none is forgotten, and who was late is refused."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

if importlib.util.find_spec("cryptography") is None:
    pytest.skip("webhooks need the extra `webhooks`", allow_module_level=True)

from tests.unit.durable.kit import JSON, ME, Clock, message, replicas, within
from unspool.durable import DurableStreams
from unspool.durable import subscription as rules
from unspool.durable.subscription import Ack, AlreadyClaimed, Fenced, NothingPending, Subscription, Terms, matches
from unspool.durable.subscriptions import Subscriptions
from unspool.durable.webhooks import Signer, WebhookRejected, checked
from unspool.errors import ConfigurationError, NotFound
from unspool.jobs import Owner

PULL = Terms(type="pull-wake", pattern="events/*", wake_stream="wake/pool", lease_ttl_ms=10_000)


class Receiver:
    """A webhook on this machine: `answer` gets each body, and gives a status and what is answered."""

    def __init__(self, answer: Callable[[dict[str, Any]], tuple[int, Any]]) -> None:
        self.url = ""
        self.got: list[tuple[dict[str, Any], bytes, str]] = []
        self._answer = answer

    @asynccontextmanager
    async def listening(self) -> AsyncGenerator[Receiver]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
        async with server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in head.split("\r\n")[1:-2])}
        body = await reader.readexactly(int(headers["content-length"]))
        told = json.loads(body)
        status, answer = self._answer(told)
        self.got.append((told, body, headers["webhook-signature"]))
        data = json.dumps(answer).encode()
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (status, len(data), data))
        await writer.drain()
        writer.close()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(20):
            while len(self.got) < count:
                await asyncio.sleep(0.005)


@asynccontextmanager
async def pair(clock: Clock | None = None) -> AsyncGenerator[list[tuple[DurableStreams, Subscriptions]]]:
    """Two replicas with subscriptions, and one signing key."""
    async with replicas(2, clock=clock) as both:
        how: dict[str, Any] = {"clock": clock} if clock is not None else {}
        made = [
            (streams, Subscriptions(streams._manager, streams, signing_key=b"k" * 32, local_webhooks=True, **how))
            for streams in both
        ]
        try:
            yield made
        finally:
            for _, subscriptions in made:
                await subscriptions.close()


async def add(streams: DurableStreams, subscriptions: Subscriptions, path: str, body: bytes = b"1") -> int:
    """Append, as the routes do."""
    done = await streams.append(path, ME, message(body))
    await subscriptions.appended(ME, path, done.info.next)
    return done.info.next


async def wakes(streams: DurableStreams) -> list[int]:
    chunk = await streams.read("wake/pool", ME, 0)
    return [json.loads(part)["generation"] for part in chunk.parts]


@pytest.mark.parametrize(
    ("pattern", "paths", "others"),
    [
        ("events/*", ["events/a", "events/a-b"], ["events", "events/a/b", "other/a", "events/"[:-1]]),
        ("events/**", ["events/a", "events/a/b"], ["other/a"]),
        ("**", ["a", "a/b/c"], []),
        ("**/x", ["x", "a/x", "a/b/x"], ["a/y"]),
        ("a/**/z", ["a/z", "a/b/z", "a/b/c/z"], ["a/b"]),
        ("a.c", ["a.c"], ["abc"]),
        (None, [], ["a"]),
    ],
)
def test_patterns(pattern: str | None, paths: list[str], others: list[str]) -> None:
    assert [path for path in [*paths, *others] if matches(pattern, path)] == paths


def subscription(**more: Any) -> Subscription:
    return Subscription(id="s", owner=ME, terms=PULL, base="http://b", secret=b"x" * 32, created_at=0.0, **more)


steps = st.lists(
    st.tuples(st.sampled_from(["append", "claim", "ack", "done", "release", "wait", "stale"]), st.integers(0, 2)),
    max_size=40,
)


@given(steps)
def test_the_rules(todo: list[tuple[str, int]]) -> None:
    """One holder at a time; a token of before never counts; what is acknowledged never goes back; nothing is lost."""
    now, tail = 0.0, {"events/a": 0}
    one = rules.linked(subscription(), tail, explicit=False)
    shown: list[tuple[str, str, int]] = []
    generation = 0
    for step, number in todo:
        before = one.links["events/a"].acked
        if step == "append":
            tail["events/a"] += 1
        elif step == "wait":
            now += number * 6
        elif step == "claim":
            try:
                if rules.idle(one, now) and rules.pending(one, tail):
                    one = rules.woken(one, tail, f"w{len(shown)}", now)
                if one.wake is not None:
                    one = rules.claimed(one, f"worker-{number}", tail, now)
                    shown.append((one.token(), one.wake.id if one.wake else "", one.generation))
            except AlreadyClaimed:
                assert one.wake is not None
                assert one.wake.until > now
        elif shown:
            token, wake, told = shown[-1] if step != "stale" else shown[0]
            current = one.wake is not None and (wake, told) == (one.wake.id, one.generation)
            try:
                rules.check(one, token, wake, told)
            except Fenced:
                assert not current
                continue
            assert current
            acks = [Ack("events/a", tail["events/a"] - number), Ack("elsewhere", 9)]
            if step in ("release", "stale"):
                one = rules.released(one)
            else:
                one = rules.acked(one, acks, now, done=step == "done")
        assert one.links["events/a"].acked >= before
        assert one.generation >= generation
        generation = one.generation
        assert rules.pending(one, tail) == (tail["events/a"] > one.links["events/a"].acked)
        with pytest.raises(Fenced):
            rules.check(one, "forged", one.wake.id if one.wake else "", one.generation)


def test_a_token_says_whose_it_is() -> None:
    one = rules.woken(subscription(), {}, "w", 0.0)
    assert rules.owner_in(one.token()) == ME
    for wrong in ("", "x", "é", ".", base64.urlsafe_b64encode(b"[1]").decode(), one.token()[1:]):
        with pytest.raises(Fenced):
            rules.check(one, wrong, "w", 1)
    with pytest.raises(Fenced):
        rules.owner_in("nonsense")


async def test_workers_take_turns() -> None:
    """Across replicas: one of many who claim at once gets it; a wake at a time; what came meanwhile wakes again."""
    async with pair() as ((one, first), (two, second)):
        for path in ("wake/pool", "events/a", "events/old"):
            await one.create(path, ME, JSON)
        await one.append("events/old", ME, message(b"0"))
        await first.create(ME, "s", PULL, "http://b")
        with pytest.raises(NothingPending):
            await first.claim(ME, "s", "early")  # what was there before is not for it
        number = await add(two, second, "events/a")
        await add(one, first, "events/a")
        assert await wakes(one) == [1]
        claims = await asyncio.gather(
            *((first, second)[n % 2].claim(ME, "s", f"w{n}") for n in range(6)), return_exceptions=True
        )
        won = [claim for claim in claims if not isinstance(claim, BaseException)]
        assert len(won) == 1
        assert sum(isinstance(claim, AlreadyClaimed) for claim in claims) == 5
        claim = won[0].subscription
        assert claim.wake is not None
        shown = (claim.token(), claim.wake.id, claim.generation)
        assert await second.ack(ME, "s", *shown, [Ack("events/a", number)], done=True)  # the other one is left
        assert await wakes(one) == [1, 2]
        with pytest.raises(Fenced):
            await first.ack(ME, "s", *shown, [], done=True)
        again = (await first.claim(ME, "s", "w")).subscription
        assert again.wake is not None
        await first.release(ME, "s", again.token(), again.wake.id, again.generation)
        assert await wakes(one) == [1, 2, 3]
        last = await second.claim(ME, "s", "w")
        held = last.subscription
        assert held.wake is not None
        acks = [Ack(path, tail) for path, tail in last.tails.items()]
        assert not await second.ack(ME, "s", held.token(), held.wake.id, held.generation, acks, done=True)
        with pytest.raises(NothingPending):
            await first.claim(ME, "s", "w")


async def test_a_worker_that_is_gone_loses_its_wake() -> None:
    clock = Clock()
    async with pair(clock) as ((one, first), (_, second)):
        for path in ("wake/pool", "events/a"):
            await one.create(path, ME, JSON)
        await first.create(ME, "s", PULL, "http://b")
        await add(one, first, "events/a")
        lost = (await first.claim(ME, "s", "gone")).subscription
        assert lost.wake is not None
        clock.now += 11
        async with asyncio.timeout(20):  # a replica looks, by itself
            while await wakes(one) != [1, 2]:
                await asyncio.sleep(0.01)
        with pytest.raises(Fenced):
            await second.ack(ME, "s", lost.token(), lost.wake.id, lost.generation, [Ack("events/a", 9)], done=True)
        found = (await second.claim(ME, "s", "next")).subscription
        assert found.links["events/a"].acked < 2


async def test_its_own_wakes_wake_nobody() -> None:
    async with pair() as ((one, first), _):
        await one.create("wake/pool", ME, JSON)
        await first.create(ME, "s", Terms(type="pull-wake", pattern="**", wake_stream="wake/pool"), "http://b")
        await one.create("a", ME, JSON)
        await add(one, first, "a")
        assert await wakes(one) == [1]
        assert set((await first.get(ME, "s")).links) == {"a"}


async def test_they_are_somebodys() -> None:
    async with pair() as ((_, first), _):
        await first.create(ME, "s", PULL, "http://b")
        other = Owner("u-2")
        with pytest.raises(NotFound):
            await first.get(other, "s")
        await first.create(other, "s", Terms(type="pull-wake", streams=("x",), wake_stream="y"), "http://b")
        assert (await first.get(ME, "s")).terms == PULL
        await first.delete(ME, "s")
        with pytest.raises(NotFound):
            await first.claim(ME, "s", "w")
        assert (await first.get(other, "s")).terms.wake_stream == "y"


async def test_a_webhook_is_called_until_it_answers() -> None:
    """Failures are tried again with the same wake; done is done; the signature is that of the key that is told."""
    tries = 0

    def answer(told: dict[str, Any]) -> tuple[int, Any]:
        nonlocal tries
        tries += 1
        return (500, {}) if tries == 1 else (200, {"done": True})

    async with Receiver(answer).listening() as hook, pair() as ((one, first), (two, second)):
        terms = Terms(type="webhook", pattern="events/*", url=hook.url, lease_ttl_ms=60_000)
        await first.create(ME, "s", terms, "http://b")
        await two.create("events/a", ME, JSON)
        number = await add(two, second, "events/a")
        await hook.until(2)
        (failed, _, _), (told, body, signature) = hook.got
        assert (failed["wake_id"], failed["generation"]) == (told["wake_id"], told["generation"])
        assert told["streams"][0]["path"] == "events/a"
        assert told["callback_url"] == "http://b/subscriptions/s/callback"
        async with asyncio.timeout(20):
            while (await first.get(ME, "s")).links["events/a"].acked != number:
                await asyncio.sleep(0.005)
        _check(signature, body, first.signer)
        assert first.signer.kid == second.signer.kid
        await add(one, first, "events/a")
        await hook.until(3)
        assert hook.got[2][0]["generation"] == 2


def _check(signature: str, body: bytes, signer: Signer) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    told = dict(part.split("=", 1) for part in signature.split(","))
    (key,) = signer.jwks()["keys"]
    assert told["kid"] == key["kid"]
    public = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(key["x"] + "=="))
    public.verify(base64.urlsafe_b64decode(told["ed25519"] + "=="), b"%b.%b" % (told["t"].encode(), body))


async def test_a_webhook_may_take_its_time() -> None:
    """It has the wake for its lease, and calls back; meanwhile it is not called again."""
    async with Receiver(lambda told: (200, {})).listening() as hook, pair() as ((one, first), (_, second)):
        await first.create(ME, "s", Terms(type="webhook", pattern="events/*", url=hook.url), "http://b")
        await one.create("events/a", ME, JSON)
        await add(one, first, "events/a")
        await hook.until(1)
        await add(one, first, "events/a")
        told = hook.got[0][0]
        number = rules.Ack("events/a", 2)
        shown = (told["callback_token"], told["wake_id"], told["generation"])
        assert rules.owner_in(told["callback_token"]) == ME
        assert await within(second.ack(ME, "s", *shown, [number], done=True))
        await hook.until(2)
        assert [got["generation"] for got, _, _ in hook.got] == [1, 2]


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/x", "https://10.0.0.1/x", "https://127.0.0.1/x", "https://[::1]/x", "https://169.254.1.1/",
        "https://user@example.com/", "ftp://example.com/", "https://", "https://[/", "http://10.0.0.1/hook",
        "https://[::ffff:127.0.0.1]/", "https://example.com:99999/",
    ],
)  # fmt: skip
def test_addresses_that_are_not_called(url: str) -> None:
    with pytest.raises(WebhookRejected):
        checked(url, local=True)


def test_addresses_that_are_called() -> None:
    checked("https://example.com:8443/x?y=z", local=False)
    checked("http://localhost:1/x", local=True)
    with pytest.raises(WebhookRejected):
        checked("http://localhost:1/x", local=False)
    with pytest.raises(ConfigurationError):
        Signer(b"short")


@given(st.integers(0, 10_000))
@settings(max_examples=8)
def test_every_append_is_worked_on(seed: int) -> None:
    """Two replicas append, two workers claim, work, and sometimes give up: in the end nothing is left."""

    async def go() -> None:
        random = Random(seed)
        async with pair() as both:
            one, first = both[0]
            for path in ("wake/pool", "events/a", "events/b"):
                await one.create(path, ME, JSON)
            await first.create(ME, "s", PULL, "http://b")
            done: dict[str, int] = {}
            writing = True

            async def write() -> None:
                nonlocal writing
                for number in range(20):
                    await add(*both[number % 2], random.choice(["events/a", "events/b"]))
                    await asyncio.sleep(random.random() * 0.002)
                writing = False

            async def work(name: str) -> None:
                while True:
                    _, subscriptions = random.choice(both)
                    try:
                        claim = await subscriptions.claim(ME, "s", name)
                    except AlreadyClaimed:
                        await asyncio.sleep(0.001)
                        continue
                    except NothingPending:
                        if not writing:
                            return
                        await asyncio.sleep(0.001)
                        continue
                    wake = claim.subscription.wake
                    assert wake is not None
                    shown = (claim.subscription.token(), wake.id, claim.subscription.generation)
                    if random.random() < 0.2:
                        await subscriptions.release(ME, "s", *shown)
                        continue
                    for path, tail in claim.tails.items():
                        assert tail >= done.get(path, 0)
                        done[path] = tail
                    acks = [Ack(path, tail) for path, tail in claim.tails.items()]
                    await subscriptions.ack(ME, "s", *shown, acks, done=True)

            await within(asyncio.gather(write(), work("x"), work("y")))
            for path, number in done.items():
                assert number == (await one.head(path, ME)).next

    asyncio.run(go())
