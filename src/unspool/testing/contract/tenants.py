"""Tenants: a stream id names another stream in each of them, and none sees, stops or replaces another's."""

from __future__ import annotations

import pytest

from unspool.errors import GenerationConflict, InvalidArgument, NotFound, TooManyGenerations
from unspool.jobs import ANYONE, Owner, Status, stream_name
from unspool.manager import GenerationManager
from unspool.outcomes import Unknown
from unspool.protocols import JobStore
from unspool.testing.contract.kit import LEASE, Cluster, Puppet, Reader, begin, read, settled
from unspool.testing.contract.store import made, new, records

TENANTS = (None, "acme", "@", "a/b ü")
"""No tenant, a plain one, and two that are written otherwise in the names of streams."""


class TestTenants:
    """One stream id in several tenants."""

    async def test_one_id_is_a_stream_for_each(self, cluster: Cluster) -> None:
        """The same user, id and request id: four generations, each followed on the other replica, with its own text."""
        one, two = await cluster.replica("a"), await cluster.replica("b")
        runs = {tenant: await begin(one, tenant=tenant, request_id="r", expect_generation=0) for tenant in TENANTS}
        readers: dict[str | None, Reader] = {tenant: await read(two, tenant=tenant) for tenant in TENANTS}
        for tenant, run in runs.items():
            job = await two.job("s", user="u", tenant=tenant)
            assert (job.stream_id, job.tenant, job.generation, job.label) == ("s", tenant, 1, "s/1")
            assert job.key.stream_id == stream_name("s", tenant)
            again = await two.start("s", Puppet(), user="u", tenant=tenant, request_id="r")
            assert (again.attached, again.token) == (True, job.token)
            await run.say(f"of {tenant}")
            assert (await run.generation()).stream_id == "s"
        for tenant, run in runs.items():
            run.finish()
            await readers[tenant].end()
            assert readers[tenant].content.text == f"of {tenant}"
            assert (await two.snapshot("s", user="u", tenant=tenant)).text == f"of {tenant}"
        assert (await one.counts()).total == len(TENANTS)

    async def test_what_is_done_to_one_is_done_to_no_other(self, cluster: Cluster) -> None:
        """Stop, replace, update, delete and lists, in one tenant after the other; the first one runs all the time."""
        one, two = await cluster.replica("a"), await cluster.replica("b")
        first = await begin(one)
        assert await two.abort("s", user="u", tenant="acme") == Unknown()
        await begin(two, tenant="acme")
        await begin(two, tenant="other")
        assert (await one.update("s", user="u", tenant="acme", title="theirs")).tenant == "acme"
        assert (await one.abort("s", user="u", tenant="acme")).ok
        replacing = await begin(two, tenant="other")
        assert (await replacing.generation()).generation == 2
        await replacing.say("second")
        for manager in (one, two):
            job = await manager.job("s", user="u")
            assert (job.generation, job.status, job.abort, job.metadata.title) == (1, Status.RUNNING, None, None)
            assert [job.label for job in await manager.jobs(user="u")] == ["s/1"]
            assert [(job.tenant, job.label) for job in await manager.active(user="u", tenant="other")] == [
                ("other", "s/2")
            ]
            assert await manager.active(user="u", tenant="acme") == []
            assert {(job.tenant, job.label) for job in await manager.jobs(user="u", tenant="other")} == {
                ("other", "s/1"), ("other", "s/2")
            }  # fmt: skip
            assert len(await manager.jobs(user=ANYONE)) == 4
        assert await one.delete("s", user="u", tenant="acme", generation=1)
        assert not await one.delete("s", user="u", tenant="acme", generation=1)
        assert await two.delete("s", user="u", tenant="other", generation=1)
        await first.say("still here")
        assert (await two.snapshot("s", user="u")).text == "still here"
        assert (await begin(one, tenant="acme")) is not None
        assert (await one.job("s", user="u", tenant="acme")).generation == 2

    async def test_within_a_tenant_users_are_told_apart(self, cluster: Cluster) -> None:
        """Another user of the tenant finds nothing there, as before; one of another tenant finds a free id."""
        one, two = await cluster.replica("a"), await cluster.replica("b")
        await begin(one, user="ann", tenant="acme")
        with pytest.raises(NotFound):
            await two.start("s", Puppet(), user="bob", tenant="acme")
        with pytest.raises(GenerationConflict) as raised:
            await two.start("s", Puppet(), user="bob", expect_generation=1)
        assert raised.value.details["generation"] == 0
        assert raised.value.message == "stream 's' is at generation 0, not at 1"

    async def test_trusted_code_says_which_tenant(self, cluster: Cluster) -> None:
        """ANYONE is the owner in that tenant; without a tenant it is the stream that has none."""
        one, two = await cluster.replica("a"), await cluster.replica("b")
        await begin(one, user="ann", tenant="acme")
        with pytest.raises(NotFound):
            await two.job("s", user=ANYONE)
        assert (await two.job("s", user=ANYONE, tenant="acme")).user == "ann"
        assert (await two.abort("s", user=ANYONE, tenant="acme")).ok

    async def test_names_are_no_ids(self, cluster: Cluster) -> None:
        """The internal name of a tenant's stream is an id like any other to those who have no tenant."""
        one, two = await cluster.replica("a"), await cluster.replica("b")
        await begin(one, tenant="acme")
        inside = stream_name("s", "acme")
        with pytest.raises(NotFound):
            await two.job(inside, user="u")
        with pytest.raises(NotFound):
            await two.job(inside, user=ANYONE)
        run = await begin(two, inside)
        await run.say("mine")
        assert (await one.job(inside, user="u")).stream_id == inside
        assert (await two.snapshot("s", user="u", tenant="acme")).text == ""
        assert (await one.snapshot(inside, user="u")).text == "mine"

    async def test_the_running_of_a_refusal_are_told_by_their_ids(self, cluster: Cluster) -> None:
        """One more than a user may have: counted within the tenant, and named as its clients name them."""
        manager = await cluster.replica("a", max_active_per_user=1)
        await begin(manager, "x", tenant="acme")
        await begin(manager, "x")
        with pytest.raises(TooManyGenerations) as raised:
            await manager.start("y", Puppet(), user="u", tenant="acme")
        assert raised.value.details["running"] == [{"stream_id": "x", "generation": 1}]

    async def test_a_lost_owner_s_streams_end_each_for_itself(self, cluster: Cluster) -> None:
        """A survivor seals them all, and their viewers are told."""
        one, two = await cluster.replica("a", lease=LEASE), await cluster.replica("b")
        for tenant in TENANTS:
            await (await begin(one, tenant=tenant)).say(f"of {tenant}")
        await cluster.kill(one)
        for tenant in TENANTS:
            job = await settled(two, tenant=tenant)
            assert (job.status, job.tenant) == (Status.ERROR, tenant)
            assert (await two.snapshot("s", user="u", tenant=tenant)).text == f"of {tenant}"

    @pytest.mark.parametrize("tenant", ["", "a\nb", "§ds", "x" * 257])
    async def test_a_tenant_that_is_no_name_is_refused(self, manager: GenerationManager, tenant: str) -> None:
        """By every verb, and above all the empty one: it is not the same as none."""
        asked = [
            manager.start("s", Puppet(), user="u", tenant=tenant),
            manager.view("s", user="u", tenant=tenant),
            manager.job("s", user=ANYONE, tenant=tenant),
            manager.abort("s", user="u", tenant=tenant),
            manager.delete("s", user="u", tenant=tenant, generation=1),
            manager.active(user="u", tenant=tenant),
            manager.jobs(user="u", tenant=tenant),
        ]
        for ask in asked:
            with pytest.raises(InvalidArgument):
                await ask
        assert (await manager.counts()).total == 0


class TestStoreTenants:
    """The same of a bare store: it keeps streams under their internal names."""

    async def test_a_store_keeps_them_apart(self, store: JobStore) -> None:
        """Create, get, append, read, seal and delete by internal name."""
        jobs = {tenant: await made(store, owner=Owner("u", tenant)) for tenant in TENANTS}
        assert len({job.key for job in jobs.values()}) == len(TENANTS)
        for tenant, job in jobs.items():
            assert (job.stream_id, job.generation, job.tenant) == ("s", 1, tenant)
            assert await store.get(new(owner=Owner("u", tenant)).name) == job
            await store.append(job.key, 1, records(1, f"{job.key}"))
        acme = jobs["acme"]
        assert (await store.seal(acme.key, 1, "completed", b"{}")).won
        assert await store.delete(acme.key)
        for tenant, job in jobs.items():
            if tenant != "acme":
                page = await store.read(job.key, 0, 10)
                assert [record.data["text"] for record in page.records] == [str(job.key)]
                assert not page.sealed
        replaced = (await store.create(new(owner=Owner("u", "@")))).replaced
        assert replaced is not None
        assert (replaced.stream_id, replaced.key) == ("s", jobs["@"].key)
        assert {job.key for job in await store.active(Owner("u"))} == {jobs[None].key}
