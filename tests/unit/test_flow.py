"""Live delivery without a task's turn: what is handed over, when it stops, and whose errors are whose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio

from unspool import GenerationManager, Options
from unspool.events import Record
from unspool.jobs import GenerationKey
from unspool.testing.contract.kit import Puppet, begin, within
from unspool.testing.flowing import flow
from unspool.viewer import End, Viewer

pytestmark = pytest.mark.virtual_time


def frame(key: GenerationKey, record: Record) -> bytes:
    return b"%d " % record.offset


class Socket:
    """What a viewer writes to: it takes everything, or nothing."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.full = False
        self.error: Exception | None = None

    def write(self, data: bytes) -> bool:
        if self.error is not None:
            raise self.error
        if self.full:
            return False
        self.got.append(data)
        return True


@pytest_asyncio.fixture
async def live() -> AsyncGenerator[tuple[GenerationManager, Puppet, Viewer, Socket]]:
    """A viewer that has the first record and waits for more."""
    async with GenerationManager(options=Options(drain=0.0, abort_grace=0.2)) as manager:
        run = await begin(manager, user=None)
        await run.say("a")
        viewer = await manager.view("s")
        assert await viewer.frames(frame) == b"1 "
        yield manager, run, viewer, Socket()


async def test_what_comes_is_written_in_the_step_that_accepts_it(
    live: tuple[GenerationManager, Puppet, Viewer, Socket],
) -> None:
    """The writer's step: no task of the viewer has run in between."""
    _, run, viewer, socket = live
    flowing = asyncio.ensure_future(flow(viewer, frame, socket.write))
    await asyncio.sleep(0)
    for _ in range(3):
        await run.say("b")
    assert socket.got == [b"2 ", b"3 ", b"4 "]
    assert viewer.position == 4
    assert not flowing.done()
    viewer.close()
    await within(flowing)
    assert viewer.end is End.CLOSED


async def test_what_is_held_already_is_written_before_it_waits(
    live: tuple[GenerationManager, Puppet, Viewer, Socket],
) -> None:
    """Nothing that came before the call is missed."""
    _, run, viewer, socket = live
    await run.say("b")
    flowing = asyncio.ensure_future(flow(viewer, frame, socket.write))
    await asyncio.sleep(0)
    assert socket.got == [b"2 "]
    viewer.close()
    await within(flowing)


async def test_a_full_socket_ends_it_and_loses_nothing(live: tuple[GenerationManager, Puppet, Viewer, Socket]) -> None:
    """What it did not take is what comes next."""
    _, run, viewer, socket = live
    flowing = asyncio.ensure_future(flow(viewer, frame, socket.write))
    await asyncio.sleep(0)
    socket.full = True
    await run.say("b")
    await within(flowing)
    assert (socket.got, viewer.position) == ([], 1)
    assert await viewer.frames(frame) == b"2 "


async def test_it_ends_with_the_terminal_record(live: tuple[GenerationManager, Puppet, Viewer, Socket]) -> None:
    """Delivered once, and then there is no more."""
    _, run, viewer, socket = live
    flowing = asyncio.ensure_future(flow(viewer, frame, socket.write))
    await asyncio.sleep(0)
    run.finish()
    await within(flowing)
    assert socket.got == [b"2 "]
    assert await viewer.frames(frame) is None
    assert viewer.end is End.FINISHED


async def test_poked_it_is_over_and_nothing_is_missed(
    live: tuple[GenerationManager, Puppet, Viewer, Socket],
) -> None:
    """For heart-beats."""
    _, run, viewer, socket = live
    flowing = asyncio.ensure_future(flow(viewer, frame, socket.write))
    await asyncio.sleep(0)
    viewer.poke()
    await within(flowing)
    await run.say("b")
    assert socket.got == []
    assert await viewer.frames(frame) == b"2 "


async def test_an_error_of_the_socket_is_the_viewers_and_not_the_runs(
    live: tuple[GenerationManager, Puppet, Viewer, Socket],
) -> None:
    """The run goes on as if nothing had happened."""
    _, run, viewer, socket = live
    flowing = asyncio.ensure_future(flow(viewer, frame, socket.write))
    await asyncio.sleep(0)
    socket.error = ZeroDivisionError("a bug")
    await run.say("b")
    with pytest.raises(ZeroDivisionError):
        await within(flowing)
    await run.say("c")
    assert (await run.generation()).key == viewer.tail.key


async def test_a_viewer_closed_by_its_own_write_is_closed_once(
    live: tuple[GenerationManager, Puppet, Viewer, Socket],
) -> None:
    """A connection that is found dead while it is written to."""
    _, run, viewer, _ = live

    def write(data: bytes) -> bool:
        viewer.close()
        return True

    flowing = asyncio.ensure_future(flow(viewer, frame, write))
    await asyncio.sleep(0)
    await run.say("b")
    await within(flowing)
    assert await viewer.frames(frame) is None
