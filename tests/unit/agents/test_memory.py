"""Shared memory context: read once, given to every agent, nothing changed in place."""

from __future__ import annotations

import asyncio
import logging

import msgspec
import pytest

from unspool.agents import Agent, SharedContext, share_memory

MEMORY = "The user is called Ada."
PRIMARY = Agent("main", instructions="Be kind.", model="m-1", extra={"temperature": 0})
BARE = Agent("scout")


async def test_memory_is_read_once_for_all_agents():
    """One turn reads the memory once, however many agents it has."""
    reads = 0

    async def read():
        nonlocal reads
        reads += 1
        return MEMORY

    shared = await share_memory(read, PRIMARY, [BARE, Agent("critic")])
    assert reads == 1
    assert shared.memory == MEMORY
    assert all(MEMORY in (agent.instructions or "") for agent in (shared.primary, *shared.parallel))


async def test_memory_is_appended_to_instructions_or_becomes_them():
    """Existing instructions stay first, a blank line apart; an agent without any has the memory as its own."""
    shared = await share_memory(MEMORY, PRIMARY, [BARE, Agent("blank", instructions=" \n")])
    assert shared.primary == msgspec.structs.replace(PRIMARY, instructions=f"Be kind.\n\n{MEMORY}")
    assert [agent.instructions for agent in shared.parallel] == [MEMORY, MEMORY]


@pytest.mark.parametrize("memory", [None, "", " \n\t"])
@pytest.mark.parametrize("reading", [False, True])
async def test_without_memory_the_agents_are_the_very_same(memory, reading):
    """No memory, in whichever way there is none, hands back the same objects."""

    async def read():
        return memory

    shared = await share_memory(read if reading else memory, PRIMARY, [BARE])
    assert shared == SharedContext(PRIMARY, (BARE,), None)
    assert shared.primary is PRIMARY
    assert shared.parallel[0] is BARE


@pytest.mark.parametrize("parallel", [None, [], ()])
async def test_no_parallel_agents_is_fine(parallel):
    """A turn may have its primary agent alone."""
    shared = await share_memory(MEMORY, PRIMARY, parallel)
    assert shared.parallel == ()
    assert MEMORY in (shared.primary.instructions or "")


async def test_nothing_that_is_passed_in_is_changed():
    """New configurations are returned; those given are as they were, down to what they hold."""
    agents = [BARE]
    before = msgspec.json.encode([PRIMARY, *agents])
    shared = await share_memory(MEMORY, PRIMARY, agents)
    assert msgspec.json.encode([PRIMARY, *agents]) == before
    assert agents == [BARE]
    assert shared.primary is not PRIMARY
    assert shared.primary.extra == PRIMARY.extra


async def test_scope_limits_memory_to_the_primary():
    """With scope "primary" the parallel agents are left untouched."""
    shared = await share_memory(MEMORY, PRIMARY, [BARE], scope="primary")
    assert MEMORY in (shared.primary.instructions or "")
    assert shared.parallel[0] is BARE


@pytest.mark.parametrize(("scope", "names"), [("all", "main, scout"), ("primary", "main")])
async def test_log_names_the_agents_that_got_memory(caplog, scope, names):
    """A line of the log tells who got context, and nothing of what it says."""
    caplog.set_level(logging.INFO, "unspool.agents")
    await share_memory(MEMORY, PRIMARY, [BARE], scope=scope)
    (record,) = caplog.records
    assert record.getMessage().endswith(f"shared with: {names}")
    assert MEMORY not in record.getMessage()


@pytest.mark.parametrize("result", [RuntimeError("the memory store is down"), 42])
async def test_memory_that_cannot_be_read_does_not_end_the_turn(caplog, result):
    """A failing store, or one that gives no text, is logged; the turn goes on with untouched agents."""

    async def read():
        if isinstance(result, Exception):
            raise result
        return result

    shared = await share_memory(read, PRIMARY, [BARE])
    assert shared.primary is PRIMARY
    assert (shared.parallel, shared.memory) == ((BARE,), None)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert caplog.records[0].exc_info


async def test_cancellation_while_reading_is_not_a_failure():
    """A turn that is stopped while the memory is read stops."""
    reading = asyncio.Event()

    async def read():
        reading.set()
        await asyncio.Event().wait()

    turn = asyncio.create_task(share_memory(read, PRIMARY))
    await reading.wait()
    turn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turn
