"""Followers of one stream: what is made of its records is made once for all of them, and never of what was lost."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.durable.kit import ME, created, lose, replicas, text, within
from unspool.errors import ViewerReleased

pytestmark = pytest.mark.virtual_time


async def test_followers_share_what_they_get() -> None:
    async with replicas(1) as (streams,):
        await created(streams)
        at = await streams.read("p", ME, 0)
        with await streams.follow("p", ME, at) as one, await streams.follow("p", ME, at) as two:
            for number in range(3):
                await streams.append("p", ME, text(f"{number}"))
                first, second = await within(asyncio.gather(one.next(), two.next()))
                assert first is second
                assert first is not None
                assert (first.parts, first.up_to_date) == ([b"%d" % number], True)


async def test_what_was_lost_is_given_to_nobody() -> None:
    """The store loses what one has seen, and something else is written in its place: that is what the others get."""
    async with replicas(1) as (streams,):
        await created(streams)
        at = await streams.read("p", ME, 0)
        with await streams.follow("p", ME, at) as ahead, await streams.follow("p", ME, at) as behind:
            await streams.append("p", ME, text("lost"))
            seen = await within(ahead.next())
            assert seen is not None
            assert seen.parts == [b"lost"]
            waiting = asyncio.create_task(ahead.next())
            await lose(streams, "p", 1)
            await streams.append("p", ME, text("other"))
            with pytest.raises(ViewerReleased):
                await within(waiting)
            found = await within(behind.next())
            assert found is not None
            assert found.parts == [b"other"]
