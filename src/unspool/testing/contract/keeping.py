"""The verbs of a JobStore, continued: leases, listings, checkpoints, retention."""

from __future__ import annotations

import asyncio

import pytest

from unspool.errors import Fenced, Gone, NotFound
from unspool.jobs import AbortRequest, GenerationKey, Job, Owner, Status
from unspool.protocols import Checkpoint, JobStore
from unspool.testing.contract.kit import LEASE, eventually
from unspool.testing.contract.store import ALICE, BOB, made, records, sealed


async def expired(store: JobStore) -> list[Job]:
    """Wait until a lease has run out; a real store's clock can only be waited for."""

    async def look() -> list[Job]:
        return list((await store.expired(10)).jobs)

    return await eventually(look)


class TestStoreLease:
    """Renewal, take-over, Stop requests."""

    async def test_renewal_answers_for_each_lease_in_order(self, store: JobStore) -> None:
        """Held ones are renewed; a wrong epoch, another replica, a sealed or unknown log are not held."""
        mine = await made(store, "mine")
        await made(store, "epoch")
        foreign = await made(store, "foreign", replica="b")
        done = await sealed(store, await made(store, "done"))
        leases = [
            (mine.key, 1),
            (GenerationKey("epoch", 1), 7),
            (foreign.key, 1),
            (done.key, 1),
            (GenerationKey("no", 1), 1),
        ]
        answers = await store.renew("a", leases, 60.0)
        assert [answer.held for answer in answers] == [True, False, False, False, False]
        assert (await store.get("mine")).lease.expires_at > mine.lease.expires_at + 30
        assert await store.renew("a", [], 1.0) == []

    async def test_renewal_tells_of_a_stop(self, store: JobStore) -> None:
        """An owner whose hints are all lost hears of a Stop with its next renewal."""
        job = await made(store)
        await store.request_abort(job.key, "user", "enough")
        (renewal,) = await store.renew("a", [(job.key, 1)], 1.0)
        assert renewal.held
        assert renewal.abort is not None
        assert (renewal.abort.by, renewal.abort.reason) == ("user", "enough")

    async def test_the_first_stop_request_stays(self, store: JobStore) -> None:
        """A second request changes nothing; the status stays until the seal."""
        job = await made(store)
        first = await store.request_abort(job.key, "user", "one")
        second = await store.request_abort(job.key, "other", "two")
        assert isinstance(first.abort, AbortRequest)
        assert second.abort == first.abort
        assert second.status is Status.RUNNING
        with pytest.raises(NotFound):
            await store.request_abort(GenerationKey("no", 1), "user", None)

    async def test_an_append_renews_the_lease(self, store: JobStore) -> None:
        """Whoever writes is alive."""
        job = await made(store, lease=LEASE)
        await expired(store)
        await store.append(job.key, 1, records(1, "a"))
        assert (await store.expired(10)).jobs == []

    async def test_only_a_lease_that_ran_out_is_expired(self, store: JobStore) -> None:
        """Expired: active and past the lease, up to the limit; a renewed or sealed one is not."""
        await made(store, "long")
        short = await made(store, "short", lease=0.05)
        ended = await made(store, "ended", lease=0.05)
        await sealed(store, ended)
        assert [job.key for job in await expired(store)] == [short.key]
        assert (await store.expired(0)).jobs == []
        await store.renew("a", [(short.key, 1)], 10.0)
        assert (await store.expired(10)).jobs == []

    async def test_of_many_take_overs_one_succeeds(self, store: JobStore) -> None:
        """The epoch is compared and raised in one step."""
        job = await made(store)
        leases = await asyncio.gather(*(store.take_over(job.key, 1, f"r{n}", 5.0) for n in range(8)))
        won = [lease for lease in leases if lease is not None]
        assert [lease.epoch for lease in won] == [2]
        assert (await store.get("s")).lease.replica == won[0].replica

    async def test_a_lease_that_was_renewed_is_not_taken_over_as_expired(self, store: JobStore) -> None:
        """Whatever a replica has judged before: it says which lease it saw, and that one is over."""
        job = await made(store)
        await store.renew("a", [(job.key, 1)], 60.0)
        seen = job.lease.expires_at
        assert await store.take_over(job.key, 1, "b", 5.0, expires_at=seen) is None
        with pytest.raises(Fenced):
            await store.seal(job.key, 1, "failed", b"{}", expires_at=seen)
        job = await store.get("s")
        assert (job.lease.epoch, job.settled) == (1, False)
        assert await store.take_over(job.key, 1, "b", 5.0, expires_at=job.lease.expires_at) is not None

    async def test_a_take_over_is_answered_again(self, store: JobStore) -> None:
        """The answer to the first call was lost: the caller has the lease, and another replica has not."""
        job = await made(store)
        lease = await store.take_over(job.key, 1, "b", 60.0)
        assert lease is not None
        assert await store.take_over(job.key, 1, "b", 60.0) == lease
        assert await store.take_over(job.key, 1, "c", 60.0) is None
        assert (await store.get("s")).lease.epoch == 2

    async def test_what_is_lost_is_sealed_by_one_of_many(self, store: JobStore) -> None:
        """Without a take-over: those that come later are told what was sealed, and that they have not won."""
        job = await made(store)
        found = await asyncio.gather(
            *(store.seal(job.key, 1, "failed", b"{}", expires_at=job.lease.expires_at) for _ in range(8))
        )
        assert [one.won for one in found].count(True) == 1
        assert {one.job.terminal for one in found} == {found[0].job.terminal}

    async def test_the_synced_mark_is_set_and_reset(self, store: JobStore) -> None:
        """It is remembered with the job."""
        job = await made(store)
        await store.mark_synced(job.key, True)
        assert (await store.get("s")).synced
        await store.mark_synced(job.key, False)
        assert not (await store.get("s")).synced


class TestStoreListings:
    """Whose jobs there are, and how many."""

    async def test_active_lists_the_owners_active_jobs_oldest_first(self, store: JobStore) -> None:
        """Running and paused ones of this very owner, tenant included."""
        first, second = await made(store, "1"), await made(store, "2")
        await store.append(second.key, 1, [], status=Status.REQUIRES_ACTION)
        await sealed(store, await made(store, "3"))
        await made(store, "4", owner=BOB)
        await made(store, "5", owner=Owner("alice", "t"))
        assert [job.key for job in await store.active(ALICE)] == [first.key, second.key]
        assert await store.active(Owner("nobody")) == []

    async def test_jobs_lists_newest_first_with_filters(self, store: JobStore) -> None:
        """By owner or all, by status or any, up to a limit."""
        for name in "abc":
            await made(store, name)
        await sealed(store, await store.get("b"))
        await made(store, "other", owner=BOB)
        mine = await store.jobs(ALICE, None, 10)
        assert {job.stream_id for job in mine} == {"a", "b", "c"}
        assert [job.created_at for job in mine] == sorted((job.created_at for job in mine), reverse=True)
        assert [job.stream_id for job in await store.jobs(ALICE, Status.COMPLETE, 10)] == ["b"]
        assert len(await store.jobs(None, None, 10)) == 4
        assert len(await store.jobs(None, None, 2)) == 2

    async def test_counts_are_true_for_every_status(self, store: JobStore) -> None:
        """Total and by status, zeros included, after every kind of end and after a deletion."""
        assert (await store.counts()).total == 0
        for name, kind in (("c", "completed"), ("e", "failed"), ("a", "aborted")):
            await sealed(store, await made(store, name), kind)
        await made(store, "r")
        await made(store, "r")
        paused = await made(store, "p")
        await store.append(paused.key, 1, [], status=Status.REQUIRES_ACTION)
        counts = await store.counts()
        assert counts.total == 6
        assert counts.by_status == dict.fromkeys(Status, 1)
        await store.delete(GenerationKey("c", 1))
        assert (await store.counts()).by_status[Status.COMPLETE] == 0


class TestStoreRetention:
    """Checkpoints, trimming, deleting."""

    async def test_a_checkpoint_is_kept_and_replaced(self, store: JobStore) -> None:
        """The last saved one counts; it needs the current epoch."""
        job = await made(store)
        assert await store.checkpoint(job.key) is None
        await store.append(job.key, 1, records(1, *"abc"))
        for checkpoint in (Checkpoint(1, b"one"), Checkpoint(2, b"\x00\xfftwo")):
            await store.save_checkpoint(job.key, 1, checkpoint)
            assert await store.checkpoint(job.key) == checkpoint
        with pytest.raises(Fenced):
            await store.save_checkpoint(job.key, 9, Checkpoint(3, b""))

    async def test_trimming_moves_the_first_offset_and_nothing_else(self, store: JobStore) -> None:
        """What is left keeps its offsets; a page from before says where the log begins; appends go on."""
        job = await made(store)
        await store.append(job.key, 1, records(1, *"abcd"))
        await store.save_checkpoint(job.key, 1, Checkpoint(3, b"x"))
        await store.trim(job.key, 1, 2)
        await store.trim(job.key, 1, 1)
        page = await store.read(job.key, 0, 10)
        assert (page.first_offset, page.last_offset, list(page.records)) == (3, 4, records(3, *"cd"))
        await store.append(job.key, 1, records(5, "e"))
        found = await store.get("s")
        assert (found.first_offset, found.last_offset) == (3, 5)
        assert (await sealed(store, job)).last_offset == 6

    async def test_only_a_settled_job_is_deleted(self, store: JobStore) -> None:
        """Deleting answers whether it did; an active one stays, a second deletion does nothing."""
        job = await made(store)
        assert not await store.delete(job.key)
        await sealed(store, job)
        assert await store.delete(job.key)
        assert not await store.delete(job.key)
        assert not await store.delete(GenerationKey("no", 1))
        assert await store.jobs(None, None, 10) == []

    async def test_retention_starts_at_the_seal_and_spares_the_active(self, store: JobStore) -> None:
        """Each kind of end has its own figure; a running job is never deleted, however old."""
        running = await made(store, "running")
        good = await sealed(store, await made(store, "good"))
        bad = await sealed(store, await made(store, "bad"), "failed")
        assert await store.delete_expired(60.0, 60.0) == []
        assert list(await store.delete_expired(60.0, 0.0)) == [good.key]
        assert list(await store.delete_expired(0.0, 60.0)) == [bad.key]
        assert (await store.get("running")).key == running.key
        with pytest.raises(Gone):
            await store.get("good")

    async def test_housekeeping_leaves_a_sealed_log_as_it_was(self, store: JobStore) -> None:
        """However an ended log is kept: every page of it reads the same."""
        job = await made(store)
        for first in range(1, 60, 3):
            await store.append(job.key, 1, records(first, "a", "b", "č 🐎"))
        await store.save_checkpoint(job.key, 1, Checkpoint(20, b"x"))
        await store.trim(job.key, 1, 7)
        await sealed(store, job)
        wanted = [(0, 1000), (0, 5), (7, 1), (30, 1000), (60, 10), (61, 10)]
        before = [await store.read(job.key, *page) for page in wanted]
        assert await store.delete_expired(60.0, 60.0) == []
        assert [await store.read(job.key, *page) for page in wanted] == before
        assert [record.offset for record in before[0].records] == list(range(8, 62))

    async def test_a_deleted_generation_frees_its_request_id(self, store: JobStore) -> None:
        """After retention the same request id makes a new generation, with a new number."""
        await sealed(store, await made(store, request_id="r"))
        await store.delete(GenerationKey("s", 1))
        job = await made(store, request_id="r")
        assert job.generation == 2
