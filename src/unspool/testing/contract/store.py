"""The verbs of a JobStore, one by one: creating, writing, sealing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from unspool.errors import Fenced, GenerationConflict, Gone, NotFound
from unspool.events import Record
from unspool.jobs import GenerationKey, Job, Metadata, Owner, Status, Task, Whole
from unspool.protocols import JobStore, NewJob

ALICE = Owner("alice")
BOB = Owner("bob")


def new(stream_id: str = "s", owner: Owner = ALICE, **more: Any) -> NewJob:
    fields: dict[str, Any] = {"stream_id": stream_id, "owner": owner, "replica": "a", "lease": 10.0, **more}
    return NewJob(**fields)


def records(first: int, *texts: str) -> list[Record]:
    return [Record(first + index, "text.delta", f'{{"text":"{text}"}}'.encode()) for index, text in enumerate(texts)]


async def made(store: JobStore, stream_id: str = "s", **more: Any) -> Job:
    return (await store.create(new(stream_id, **more))).job


async def sealed(store: JobStore, job: Job, type: str = "completed") -> Job:
    return (await store.seal(job.key, job.lease.epoch, type, b"{}")).job


class TestStoreCreate:
    """Creating."""

    async def test_a_first_generation_is_number_one_and_running(self, store: JobStore) -> None:
        """A new stream's first generation is number 1, running, owned, leased, with an empty log."""
        created = await store.create(new(metadata=Metadata(model="m")))
        job = created.job
        assert (job.generation, job.status, job.owner, job.metadata.model) == (1, Status.RUNNING, ALICE, "m")
        assert (job.first_offset, job.last_offset, job.terminal, job.settled_at) == (1, 0, None, None)
        assert job.lease.replica == "a"
        assert job.lease.expires_at > job.created_at
        assert not created.attached
        assert created.replaced is None
        assert await store.get("s") == job

    async def test_a_second_generation_replaces_a_running_one_in_the_same_step(self, store: JobStore) -> None:
        """The replaced job is sealed, with the number of its successor, before the new one exists."""
        first = await made(store)
        created = await store.create(new())
        assert created.job.generation == 2
        assert created.replaced is not None
        assert created.replaced.status is Status.REPLACED
        assert created.replaced.terminal is not None
        assert created.replaced.terminal.data == {"by_generation": 2}
        assert (await store.get(*first.key)).status is Status.REPLACED

    async def test_a_settled_generation_is_not_replaced(self, store: JobStore) -> None:
        """Creating after an end replaces nothing, and leaves the ended one as it is."""
        first = await sealed(store, await made(store))
        created = await store.create(new())
        assert created.replaced is None
        assert (await store.get(*first.key)).status is Status.COMPLETE

    async def test_a_known_request_id_attaches(self, store: JobStore) -> None:
        """The same request id answers the same generation, running or ended; another one makes a new one."""
        first = await store.create(new(request_id="r1"))
        again = await store.create(new(request_id="r1"))
        assert (again.attached, again.job.key) == (True, first.job.key)
        await sealed(store, first.job)
        late = await store.create(new(request_id="r1"))
        assert (late.attached, late.job.status) == (True, Status.COMPLETE)
        assert not (await store.create(new(request_id="r2"))).attached

    async def test_simultaneous_creates_with_one_request_id_make_one(self, store: JobStore) -> None:
        """Of 32 creates at once exactly one makes a generation, and all name the same."""
        answers = await asyncio.gather(*(store.create(new(request_id="r")) for _ in range(32)))
        assert sum(not answer.attached for answer in answers) == 1
        assert {answer.job.key for answer in answers} == {GenerationKey("s", 1)}

    async def test_an_unmet_expectation_changes_nothing(self, store: JobStore) -> None:
        """`expect_generation` is the last number of the stream, 0 for none; else a conflict that names the number."""
        with pytest.raises(GenerationConflict):
            await store.create(new(expect_generation=1))
        with pytest.raises(NotFound):
            await store.get("s")
        job = (await store.create(new(expect_generation=0))).job
        with pytest.raises(GenerationConflict) as raised:
            await store.create(new(expect_generation=0))
        assert raised.value.details["generation"] == 1
        assert await store.get("s") == job
        assert (await store.create(new(expect_generation=1))).job.generation == 2

    async def test_a_known_request_id_goes_before_an_expectation(self, store: JobStore) -> None:
        """A retried create attaches although its own first try has moved the stream on."""
        await store.create(new(request_id="r", expect_generation=0))
        assert (await store.create(new(request_id="r", expect_generation=0))).attached

    @pytest.mark.parametrize("running", [False, True], ids=["first", "replacing"])
    @pytest.mark.parametrize(
        "options",
        [
            {}, {"request_id": "r"}, {"expect_generation": True}, {"request_id": "r", "expect_generation": True},
            {"floor": 7}, {"metadata": Metadata(model="m"), "account": "team", "task": Task("t", {})},
        ],
        ids=" ".join,
    )  # fmt: skip
    async def test_a_repeated_create_is_answered_as_the_first(
        self, store: JobStore, running: bool, options: dict[str, Any]
    ) -> None:
        """The same creation again, whose first answer was lost: one generation, made, and what it replaced."""
        if running:
            await made(store)
        if "expect_generation" in options:
            options = {**options, "expect_generation": int(running)}
        creation = new(**options)
        first = await store.create(creation)
        assert (first.attached, first.replaced is not None) == (False, running)
        for _ in range(2):
            assert await store.create(creation) == first
        assert (await store.counts()).total == 1 + running

    async def test_another_owners_stream_is_not_found(self, store: JobStore) -> None:
        """Neither create, even with the right request id, nor get tells one owner of another's stream."""
        job = await made(store, request_id="r")
        for stranger in (BOB, Owner()):
            with pytest.raises(NotFound):
                await store.create(new(owner=stranger, request_id="r"))
        for stranger in (BOB, Owner("alice", "tenant"), Owner()):
            with pytest.raises(NotFound):
                await store.get("s", owner=stranger)
        assert await store.get("s", owner=ALICE) == job

    async def test_numbers_rise_and_are_never_used_twice(self, store: JobStore) -> None:
        """Deleting every generation of a stream frees no number; what was deleted is gone, what never was not found."""
        numbers: list[int] = []
        for _ in range(4):
            job = await made(store)
            numbers.append(job.generation)
            await sealed(store, job)
            assert await store.delete(job.key)
        assert numbers == [1, 2, 3, 4]
        with pytest.raises(Gone):
            await store.get("s")
        with pytest.raises(Gone):
            await store.get("s", 2)
        for unknown in (0, 5, -1):
            with pytest.raises(NotFound):
                await store.get("s", unknown)

    async def test_an_old_identity_reaches_no_new_generation(self, store: JobStore) -> None:
        """Append, seal, delete and abort with an old key leave the stream's new generation alone."""
        old = await sealed(store, await made(store))
        await store.delete(old.key)
        job = await made(store)
        with pytest.raises(Fenced):
            await store.append(old.key, old.lease.epoch, records(1, "x"))
        with pytest.raises((Fenced, Gone, NotFound)):
            await store.seal(old.key, old.lease.epoch, "aborted", b"{}")
        with pytest.raises((Gone, NotFound)):
            await store.request_abort(old.key, "user", None)
        assert not await store.delete(old.key)
        assert await store.get("s") == job


class TestStoreWrite:
    """Appending, reading, metadata."""

    async def test_appended_records_are_read_after_a_position(self, store: JobStore) -> None:
        """A page holds what comes after a position, in order, up to the limit, and says where the log ends."""
        job = await made(store)
        log = records(1, *"abcde")
        await store.append(job.key, 1, log[:2])
        await store.append(job.key, 1, log[2:])
        page = await store.read(job.key, 0, 100)
        assert list(page.records) == log
        assert (page.first_offset, page.last_offset, page.sealed) == (1, 5, False)
        assert list((await store.read(job.key, 2, 2)).records) == log[2:4]
        assert list((await store.read(job.key, 5, 10)).records) == []
        assert (await store.get("s")).last_offset == 5

    async def test_an_append_that_does_not_follow_on_is_refused(self, store: JobStore) -> None:
        """Offsets with a gap, or that are taken by other records, are refused and change nothing."""
        job = await made(store)
        await store.append(job.key, 1, records(1, "a", "b"))
        for bad in (records(4, "x"), records(2, "x"), records(1, "a"), records(2, "b", "c")):
            with pytest.raises(Fenced):
                await store.append(job.key, 1, bad)
        assert list((await store.read(job.key, 0, 10)).records) == records(1, "a", "b")

    async def test_a_repeated_append_happens_once(self, store: JobStore) -> None:
        """The same batch again, whose first answer was lost, is accepted without effect."""
        job = await made(store)
        await store.append(job.key, 1, records(1, "a"))
        for _ in range(3):
            await store.append(job.key, 1, records(2, "b", "c"))
        assert list((await store.read(job.key, 0, 10)).records) == records(1, "a", "b", "c")

    async def test_an_append_changes_metadata_and_status_in_the_same_step(self, store: JobStore) -> None:
        """Metadata and status travel with an append, also with one that has no records."""
        job = await made(store)
        await store.append(job.key, 1, records(1, "a"), metadata={"sender": "Bo"}, status=Status.REQUIRES_ACTION)
        found = await store.get("s")
        assert (found.metadata.sender, found.status, found.last_offset) == ("Bo", Status.REQUIRES_ACTION, 1)
        await store.append(job.key, 1, [], metadata={"model": "m"}, status=Status.RUNNING)
        found = await store.get("s")
        assert (found.metadata.sender, found.metadata.model, found.status) == ("Bo", "m", Status.RUNNING)

    async def test_values_survive_as_they_are(self, store: JobStore) -> None:
        """Scenario 63. Payloads come back byte by byte: empty arrays, big integers, floats, unicode, NUL."""
        job = await made(store)
        payloads = [b'{"a":[],"b":{}}', b'{"n":123456789012345678901234567890}', b'{"f":1.0,"g":1e-7,"h":0.1}']
        payloads += ['{"u":"žluťoučký 🐎 \u2028"}'.encode(), b'{"z":"\\u0000"}', b'{"n":9007199254740993}']
        log = [Record(index, "custom", payload) for index, payload in enumerate(payloads, 1)]
        log.append(Record(len(log) + 1, "custom", b"{}", internal=True))
        await store.append(job.key, 1, log)
        assert list((await store.read(job.key, 0, 100)).records) == log

    async def test_metadata_none_clears_and_zero_is_a_value(self, store: JobStore) -> None:
        """Fields that are not named stay; None clears; 0 and empty values are values."""
        job = await made(store, metadata=Metadata(sender="Bo", prompt_tokens=7, model="m"))
        await store.update(job.key, 1, {"prompt_tokens": 0, "sender": None, "extra": {}})
        found = (await store.get("s")).metadata
        assert (found.prompt_tokens, found.sender, found.model, found.extra) == (0, None, "m", {})

    async def test_a_change_of_extra_is_a_merge_patch(self, store: JobStore) -> None:
        """RFC 7396: keys that it does not name stay, None removes one, and values survive as they are."""
        kept: dict[str, Any] = {"empty": [], "big": 2**60 + 1, "float": 1.0, "nulls": [None], "deep": {"a": {}, "b": 1}}
        job = await made(store, metadata=Metadata(sender="Bo", extra=kept))
        await store.update(job.key, 1, {"extra": {"mine": 1, "deep": {"b": None, "c": {"d": None}}}})
        expected: dict[str, Any] = {**kept, "mine": 1, "deep": {"a": {}, "c": {}}}
        await store.append(job.key, 1, records(1, "a"), metadata={"extra": {"late": []}, "model": "m"})
        found = (await store.get("s")).metadata
        assert (found.extra, found.sender, found.model) == ({**expected, "late": []}, "Bo", "m")
        await store.update(job.key, 1, {"extra": {"deep": Whole({"x": None}), "late": None}})
        found = await store.update(job.key, 1, {"sender": "Al"})
        assert found.metadata.extra == {**expected, "deep": {"x": None}}
        assert (await store.update(job.key, 1, {"extra": None})).metadata.extra is None
        assert (await store.update(job.key, 1, {"extra": {"a": {"b": None}}})).metadata.extra == {"a": {}}

    async def test_changes_of_extra_at_once_lose_nothing(self, store: JobStore) -> None:
        """However many callers set keys of their own, on whatever replicas."""
        job = await made(store)
        await asyncio.gather(*(store.update(job.key, 1, {"extra": {f"k{at}": at}}) for at in range(8)))
        assert (await store.get("s")).metadata.extra == {f"k{at}": at for at in range(8)}

    async def test_all_metadata_fields_round_trip(self, store: JobStore) -> None:
        """Every field is kept, with its type."""
        full = Metadata(
            title="t", conversation_id="c", user_message={"id": "m", "text": "é"}, response_id="r", sender="s",
            endpoint="e", icon_url="i", model="m", prompt_tokens=0, extra={"list": [1, {"a": None}]},
        )  # fmt: skip
        await made(store, metadata=full)
        assert (await store.get("s")).metadata == full

    async def test_every_write_needs_the_current_epoch(self, store: JobStore) -> None:
        """After a take-over the old epoch can neither append, update, checkpoint, trim nor seal."""
        job = await made(store)
        lease = await store.take_over(job.key, 1, "b", 10.0)
        assert lease is not None
        assert (lease.epoch, lease.replica) == (2, "b")
        with pytest.raises(Fenced):
            await store.append(job.key, 1, records(1, "a"))
        with pytest.raises(Fenced):
            await store.update(job.key, 1, {"sender": "x"})
        with pytest.raises(Fenced):
            await store.seal(job.key, 1, "completed", b"{}")
        with pytest.raises(Fenced):
            await store.trim(job.key, 1, 1)
        await store.append(job.key, 2, records(1, "a"))
        found = await store.get("s")
        assert (found.last_offset, found.metadata.sender, found.settled) == (1, None, False)

    async def test_reading_an_unknown_log_is_not_found(self, store: JobStore) -> None:
        """A log that never was is not found; one that was deleted is gone."""
        with pytest.raises(NotFound):
            await store.read(GenerationKey("s", 1), 0, 10)
        job = await sealed(store, await made(store))
        await store.delete(job.key)
        with pytest.raises(Gone):
            await store.read(job.key, 0, 10)


class TestStoreSeal:
    """The one seal."""

    async def test_the_seal_is_the_last_record_and_settles_the_status(self, store: JobStore) -> None:
        """Terminal record, status and time appear in one step."""
        job = await made(store)
        await store.append(job.key, 1, records(1, "a"))
        done = await store.seal(job.key, 1, "failed", b'{"code":"x"}')
        assert done.won
        assert done.job.status is Status.ERROR
        assert done.job.terminal == Record(2, "failed", b'{"code":"x"}')
        assert done.job.settled_at is not None
        page = await store.read(job.key, 0, 10)
        assert (page.last_offset, page.sealed, page.records[-1]) == (2, True, done.job.terminal)
        assert await store.get("s") == done.job

    @pytest.mark.parametrize(
        ("type", "status"),
        [("completed", Status.COMPLETE), ("failed", Status.ERROR), ("aborted", Status.ABORTED)],
    )
    async def test_each_terminal_has_its_status(self, store: JobStore, type: str, status: Status) -> None:
        """The type of the terminal record decides the status, also of a paused generation."""
        job = await made(store)
        await store.append(job.key, 1, [], status=Status.REQUIRES_ACTION)
        assert (await sealed(store, job, type)).status is status

    async def test_the_first_seal_wins_and_the_others_are_told(self, store: JobStore) -> None:
        """Competing seals: one wins, everybody gets the same job."""
        job = await made(store)
        kinds = ["completed", "aborted", "failed"] * 4
        answers = await asyncio.gather(
            *(store.seal(job.key, 1, kind, b'{"n":"%d"}' % n) for n, kind in enumerate(kinds))
        )
        assert sum(answer.won for answer in answers) == 1
        assert len({answer.job.terminal for answer in answers}) == 1
        assert (await store.get("s")).last_offset == 1

    async def test_a_repeated_seal_is_the_same_victory(self, store: JobStore) -> None:
        """A seal whose first answer was lost is won again, and adds no second record."""
        job = await made(store)
        first = await store.seal(job.key, 1, "completed", b"{}")
        again = await store.seal(job.key, 1, "completed", b"{}")
        assert (again.won, again.job) == (True, first.job)

    async def test_a_sealed_log_takes_nothing(self, store: JobStore) -> None:
        """After the seal: no append, no metadata, no abort request, no take-over."""
        job = await sealed(store, await made(store))
        with pytest.raises(Fenced):
            await store.append(job.key, 1, records(2, "x"))
        with pytest.raises(Fenced):
            await store.update(job.key, 1, {"sender": "x"})
        assert (await store.request_abort(job.key, "user", None)).abort is None
        assert await store.take_over(job.key, 1, "b", 1.0) is None
        assert await store.get("s") == job
