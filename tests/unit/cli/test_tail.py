"""`unspool tail`: what it prints, and what its exit code says."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.unit.client.log_server import LOG, WORDS, LogServer, frame
from tests.waiting import HANG
from unspool.client import Client
from unspool.jobs import Status

Command = Callable[..., Awaitable[Any]]


async def test_the_command_prints_the_answer_and_how_it_ended(unspool: Command) -> None:
    async with LogServer(LOG, cuts=[300]).running() as server:
        ran = await unspool("tail", "conv-71", "--url", server.url)
    assert ran.code == 0
    assert ran.out == "> Rivers?\n" + "".join(WORDS) + "\n"
    assert "reconnecting" in ran.err
    assert "[1-8] completed" in ran.err
    assert [path for path, _ in server.asked][:2] == [
        "/v1/streams/conv-71", "/v1/streams/conv-71/events?generation=1",
    ]  # fmt: skip


async def test_with_json_each_event_is_a_line(unspool: Command) -> None:
    async with LogServer(LOG, cuts=[300]).running() as server:
        ran = await unspool("tail", "conv-71", "--json", "--url", server.url)
    events = [json.loads(line) for line in ran.out.splitlines()]
    assert [event["id"] for event in events] == [f"1-{offset}" for offset in range(1, 9)]
    assert events[-1] == {"id": "1-8", "type": "completed", "data": {"finish_reason": "stop"}}


@pytest.mark.parametrize(
    ("kind", "data", "code", "told"),
    [
        ("completed", {"finish_reason": "length"}, 0, "completed (length)"),
        (
            "failed",
            {"code": "owner_lost", "message": "The owner is gone."},
            1,
            "failed: The owner is gone. (owner_lost)",
        ),
        ("aborted", {"by": "user", "reason": "enough"}, 3, "stopped by user: enough"),
        ("replaced", {"by_generation": 2}, 3, "replaced by generation 2"),
    ],
)
async def test_the_exit_code_says_how_it_ended(
    unspool: Command, kind: str, data: dict[str, Any], code: int, told: str
) -> None:
    async with LogServer([*LOG[:3], frame(1, 4, kind, data)]).running() as server:
        ran = await unspool("tail", "s", "--url", server.url)
    assert (ran.code, told in ran.err) == (code, True)


async def test_an_end_before_the_position_still_has_its_exit_code(unspool: Command) -> None:
    async with LogServer(LOG, status="aborted").running() as server:
        ran = await unspool("tail", "s", "--after", "8", "--url", server.url)
    assert (ran.code, ran.out) == (3, "")
    assert "[1-8] stopped" in ran.err


async def test_a_token_is_sent(unspool: Command) -> None:
    async with LogServer(LOG).running() as server:
        await unspool("tail", "a b/c", "--url", server.url, UNSPOOL_TOKEN="sesame,other")
    assert [headers["authorization"] for _, headers in server.asked] == ["Bearer sesame"] * 2
    assert server.asked[1][0].startswith("/v1/streams/a%20b%2Fc/events")


async def test_ctrl_c_leaves_and_says_how_to_stop_the_run(serve: Command, spawn: Command) -> None:
    served = await serve("--model", "scripted", "--delay", "1")  # 290 chunks: it runs for five minutes
    async with Client(served.url) as client:
        await client.start("conv-1", "hello")
        process = await spawn("tail", "conv-1", "--url", served.url)
        async with asyncio.timeout(HANG):
            assert await process.stdout.readline() == b"> hello\n"
            process.send_signal(signal.SIGINT)
            _, err = await process.communicate()
        assert process.returncode == 130
        assert b"unspool stop conv-1" in err
        assert b"Traceback" not in err
        assert (await client.status("conv-1")).status is Status.RUNNING


async def test_it_gives_up_when_the_server_stays_away(unspool: Command) -> None:
    async with LogServer(LOG, cuts=[150, *[0] * 100]).running() as server:
        ran = await unspool("tail", "s", "--patience", "0.5", "--url", server.url)
    assert ran.code == 1
    assert "no contact for 0.5 seconds, giving up at offset 2" in ran.err
