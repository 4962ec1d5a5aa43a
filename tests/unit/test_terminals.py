"""Terminal records: however large or strange what an application says of an end, the log is sealed."""

from __future__ import annotations

import pytest

from unspool.backends.memory import MemoryStore, MemoryTransport
from unspool.errors import InvalidArgument, RunFailed
from unspool.events import EVENT_BYTES
from unspool.jobs import GenerationKey, Status
from unspool.manager import GenerationManager
from unspool.options import Options
from unspool.testing.contract.kit import begin, settled

pytestmark = pytest.mark.virtual_time


async def test_a_stop_with_a_reason_of_any_length_leaves_nothing_open() -> None:
    """It is refused; and where an older replica has let it into the record, whoever seals cuts it."""
    store = MemoryStore()
    async with GenerationManager(store, MemoryTransport(), options=Options(drain=0.0)) as manager:
        await begin(manager, user=None)
        for by, reason in (("user", "x" * 1001), ("x" * 1001, None)):
            with pytest.raises(InvalidArgument, match="1001 characters"):
                await manager.abort("s", by=by, reason=reason)
        assert (await manager.job("s")).abort is None
        await store.request_abort(GenerationKey("s", 1), "user", "x" * 2 * EVENT_BYTES)
        job = await settled(manager, user=None)
        assert job.terminal is not None
        assert job.status is Status.ABORTED
        assert len(job.terminal.payload) < 2000


@pytest.mark.parametrize("kind", ["message", "content", "request"])
async def test_a_terminal_record_is_no_larger_than_an_event_may_be(kind: str) -> None:
    async with GenerationManager(options=Options(drain=0.0)) as manager:
        metadata = {"user_message": {"id": "m", "text": "q" * (2 * EVENT_BYTES if kind == "request" else 1)}}
        run = await begin(manager, user=None, metadata=metadata)
        if kind == "message":
            run.fail(RunFailed("x" * 2 * EVENT_BYTES))
        else:
            words = 2 * EVENT_BYTES // 10_000 if kind == "content" else 1
            await run.say(*["y" * 10_000] * words)
            await manager.abort("s")
        job = await settled(manager, user=None)
        assert job.terminal is not None
        assert len(job.terminal.payload) <= EVENT_BYTES
        told = job.terminal.data
        if kind == "message":
            assert told["message"].startswith("xxx")
        else:
            assert told["response_message"]["unfinished"] is True
            assert told["request_message"]["id"] == "m"
            assert told[{"content": "response_message", "request": "request_message"}[kind]]["truncated"] is True


async def test_an_end_that_cannot_be_written_ends_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no such end")

    monkeypatch.setattr("unspool.settlement.terminal", fail)
    async with GenerationManager(options=Options(drain=0.0)) as manager:
        (await begin(manager, user=None)).finish()
        job = await settled(manager, user=None)
        assert (job.status, job.terminal and job.terminal.data["code"]) == (Status.ERROR, "run_failed")
