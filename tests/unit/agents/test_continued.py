"""A model call that another process began: what is made of it, and when the provider is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Final, cast

import pytest

from tests.interop.dialects.owner import made
from tests.unit.providers.test_responses_model import upstream
from unspool import Generation, GenerationManager
from unspool.agents import continued_call
from unspool.backends.memory import MemoryStore, MemoryTransport
from unspool.events import Event, Record
from unspool.jobs import GenerationKey, Limits, Status
from unspool.providers.call import ModelCall
from unspool.providers.failures import failure
from unspool.providers.responses_stream import Begun, ResponseStream
from unspool.testing.contract.kit import Cluster, eventually

pytestmark = pytest.mark.virtual_time

WORDS: Final = ["The ", "river ", "says ", "nothing."]
SENT: Final = upstream(
    [
        *[("text.delta", {"text": word, "part_id": "p"}) for word in WORDS],
        ("usage", {"call_id": "u", "model": "m", "input_tokens": 5, "output_tokens": 7}),
    ],
    ("completed", {"finish_reason": "length"}),
)
Until = Callable[[Event], bool]


class Provider:
    """Sends one answer. `until`: of the first to ask, it is held up before the event that this is true of; `gone`:
    nobody gets any more of it. `asked`: where it was taken up each time; `cancelled`: what was stopped."""

    name, provider = "m", "openai"

    def __init__(self, until: Until = lambda _: False) -> None:
        self.asked: list[int] = []
        self.cancelled: list[str] = []
        self.gone = False
        self._until = until

    async def follow(
        self, messages: Sequence[Any], *, call_id: str, agent: str | None, tools: Sequence[Any],
        begun: Begun | None = None,
    ) -> AsyncGenerator[Event, None]:  # fmt: skip
        answer = ResponseStream(ModelCall(self.name, self.provider, call_id, agent), begun)
        self.asked.append(answer.number)
        if self.gone:
            raise failure("provider_unavailable")
        if begun is None:
            yield answer.call.started()
        for chunk in SENT[answer.number + 1 :]:
            for event in answer.feed(chunk):
                if len(self.asked) == 1 and self._until(event):
                    await asyncio.Event().wait()
                yield event
            if answer.due(1):
                yield answer.position_event()

    async def cancel(self, response_id: str) -> None:
        self.cancelled.append(response_id)


class Memory:
    name = "memory"

    def __init__(self) -> None:
        self._made = MemoryStore(), MemoryTransport()

    async def make(self) -> Any:
        return self._made

    async def close(self) -> None: ...


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    cluster = Cluster(Memory(), hostile=False)
    yield cluster
    await cluster.close()


async def owner(cluster: Cluster, provider: Provider, held: bool = False) -> GenerationManager:
    """A replica whose run `answer` is one call; `held`: of the first to run it, it does not end."""
    manager = await cluster.replica(lease=0.3)

    async def answer(gen: Generation, args: dict[str, Any]) -> None:
        await continued_call(manager, gen, cast(Any, provider), [])
        if held:
            await asyncio.Event().wait()

    manager.register("answer", answer)
    return manager


async def start(manager: GenerationManager, **more: Any) -> None:
    await manager.start("s", "answer", args={}, on_owner_lost="resume", **more)


async def has(manager: GenerationManager, kind: str) -> None:
    """Wait until the log has a record of this type."""

    async def there() -> bool:
        return any(record.type == kind for record in await log(manager))

    await eventually(there)


async def log(manager: GenerationManager) -> Sequence[Record]:
    return (await manager.store.read(("s", 1), 0, 1000)).records  # pyright: ignore[reportArgumentType]


async def ended(manager: GenerationManager) -> list[Record]:
    return [record async for record in manager.follow("s")]


@pytest.mark.parametrize("kind", ["text.delta", "step.finished", "usage"])
async def test_what_the_log_has_is_not_asked_for_again(cluster: Cluster, kind: str) -> None:
    """Cut in the text, before its end, or before the usage: the rest comes from the provider, and all of it is there
    once, with the reason why it finished."""
    provider = Provider(lambda event: event.type == kind and event.data.get("text") != WORDS[0])
    first, second = await owner(cluster, provider), await owner(cluster, provider)
    await start(first)
    await has(first, "text.delta")
    await cluster.kill(first)
    told = await ended(second)
    assert (await second.snapshot("s")).text == "".join(WORDS)
    assert told[-1].data["finish_reason"] == "length"
    [usage] = [record.data for record in told if record.type == "usage"]
    assert (usage["call_id"], usage["output_tokens"]) == ("s/1/main/0/1", 7)
    assert provider.asked[0] == -1 < provider.asked[1]
    assert provider.cancelled == []


async def test_a_call_that_is_whole_is_not_made_again(cluster: Cluster) -> None:
    """What it said and why it finished stand, and the provider hears nothing."""
    provider = Provider()
    first, second = await owner(cluster, provider, held=True), await owner(cluster, provider)
    await start(first)
    await has(first, "usage")
    await cluster.kill(first)
    told = await ended(second)
    assert (told[-1].type, told[-1].data["finish_reason"]) == ("completed", "length")
    assert [record.type for record in told].count("usage") == 1
    assert provider.asked == [-1]


async def test_a_whole_answer_without_its_usage(cluster: Cluster) -> None:
    """Where the provider does not have it any more, the answer stands all the same."""
    provider = Provider()
    first, second = await cluster.replica(lease=0.3), await owner(cluster, provider)

    async def cut(gen: Generation, args: dict[str, Any]) -> None:
        call_id = gen.call_id()
        async for event in provider.follow([], call_id=call_id, agent=None, tools=()):
            if event.type != "usage":
                await gen.emit_event(event)
        await asyncio.Event().wait()

    first.register("answer", cut)
    await start(first)
    await has(first, "step.finished")
    provider.gone = True
    await cluster.kill(first)
    told = await ended(second)
    assert (told[-1].type, told[-1].data["finish_reason"]) == ("completed", "length")
    assert len(provider.asked) == 2


async def test_a_stop_stops_the_provider(cluster: Cluster) -> None:
    """The response is cancelled, once."""
    provider = Provider(lambda event: event.data.get("text") == WORDS[2])
    manager = await owner(cluster, provider)
    await start(manager)
    await has(manager, "text.delta")
    await manager.abort("s")
    assert (await manager.job("s")).status is Status.ABORTED
    assert provider.cancelled == ["resp_1"]


async def test_a_stop_of_what_another_began(cluster: Cluster) -> None:
    """Who goes on with a call knows from the log what to stop."""
    provider = Provider(lambda event: event.data.get("text") == WORDS[1])
    first, second = await owner(cluster, provider), await owner(cluster, provider)
    await start(first)
    await has(first, "text.delta")
    held = asyncio.Event()

    async def wait(*_: Any, **__: Any) -> AsyncGenerator[Event, None]:
        held.set()
        await asyncio.Event().wait()
        yield Event("never")

    provider.follow = wait
    await cluster.kill(first)
    await held.wait()
    assert provider.cancelled == []
    await second.abort("s")
    assert provider.cancelled == ["resp_1"]


async def test_a_log_that_is_full_stops_the_provider(cluster: Cluster) -> None:
    """A run that fails by itself leaves nothing running for nobody."""
    provider = Provider()
    manager = await owner(cluster, provider)
    await start(manager, limits=Limits(log_bytes=400))
    told = await ended(manager)
    assert (told[-1].type, told[-1].data["code"]) == ("failed", "limit_exceeded")
    assert provider.cancelled == ["resp_1"]


async def test_it_is_charged_for_once(cluster: Cluster, tmp_path: Path) -> None:
    """By what the provider told to whoever went on with it, under the id that its first owner gave it."""
    provider = Provider(lambda event: event.data.get("text") == WORDS[2])
    store, transport = await cluster.backend.make()
    first, second = (
        made(store, cast(Any, provider), f"sqlite:///{tmp_path}/ledger.db", transport, lease=0.3) for _ in range(2)
    )
    for manager in (first, second):
        await manager.start_up()
        cluster._managers.append(manager)
    ledger = second.billing.ledger
    assert ledger is not None
    await ledger.grant("team", 10**9, id="one")
    await first.start("s", "answer", args={"question": "?"}, on_owner_lost="resume", account="team")
    await has(first, "text.delta")
    await cluster.kill(first)
    await first.billing.close()
    [usage] = [record.data for record in await ended(second) if record.type == "usage"]
    [call] = (await ledger.usage(GenerationKey("s", 1))).calls
    assert (call.call_id, call.state, usage["call_id"]) == ("s/1/main/0/1", "settled", call.call_id)
    assert (call.source, call.cost) == ("provider", usage["cost_nano"])
    assert (await ledger.balance("team")).posted == 10**9 - (5 * 1000 + 7 * 2000)
    assert (await ledger.audit()).faults == []
