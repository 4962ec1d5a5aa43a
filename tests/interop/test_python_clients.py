"""Python clients through a bad network, ours and those of others: exactly what was written, cut off 25 times."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta

import httpx
import httpx_sse
import pytest
import requests
import requests_sse

from tests.conftest import Serving
from tests.interop.story import HEAD, PATH, RETRY, STREAM, Got, cut_off
from unspool.client import Client, Received, SyncClient

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
Tell = Callable[[str], None]


def _got(record: Received) -> Got:
    return Got(record.id, record.type, record.data)


async def test_our_clients(serving: Serving, tell: Tell) -> None:
    """`unspool.client`, on asyncio and, in a thread, blocking. Both at once, since they mostly wait to come back."""
    async with asyncio.TaskGroup() as group:
        group.create_task(_asynchronous(serving, tell))
        group.create_task(_blocking(serving, tell))


async def _asynchronous(serving: Serving, tell: Tell) -> None:
    async with cut_off(serving, seed=1) as story, Client(story.url) as client:
        got = [_got(record) async for record in client.follow(STREAM)]
        tell(await story.verdict("unspool.client.Client", got))


async def _blocking(serving: Serving, tell: Tell) -> None:
    def follow(url: str) -> list[Got]:
        with SyncClient(url) as client:
            return [_got(record) for record in client.follow(STREAM)]

    async with cut_off(serving, seed=2) as story:
        got = await asyncio.to_thread(follow, story.url)
        tell(await story.verdict("unspool.client.SyncClient", got))


async def test_httpx_sse(serving: Serving, tell: Tell) -> None:
    """httpx-sse, which leaves coming back to its user."""
    got: list[Got] = []
    async with cut_off(serving, seed=3) as story, httpx.AsyncClient(trust_env=False, timeout=60) as client:
        while not got or got[-1].type != "completed":
            headers = {"Last-Event-ID": got[-1].id} if got else {}
            try:
                async with httpx_sse.aconnect_sse(client, "GET", story.url + PATH, headers=headers) as source:
                    async for event in source.aiter_sse():
                        # One by one: what came before a cut has come.
                        got += [Got(event.id, event.event, json.loads(event.data))]
            except httpx.TransportError:
                await asyncio.sleep(RETRY / 1000)
        tell(await story.verdict("httpx-sse", got))


async def test_requests_sse(serving: Serving, tell: Tell) -> None:
    """requests-sse, in a thread. It comes back by itself, unless the head of an answer was cut.

    Python's http.client, under it, takes such a head for a whole one, and then the type is missing.
    """

    def follow(url: str) -> list[Got]:
        got: list[Got] = []
        with requests.Session() as session:
            session.trust_env = False
            wait = timedelta(milliseconds=RETRY)  # until the server has said so: five seconds otherwise
            with requests_sse.EventSource(url, session=session, reconnection_time=wait, timeout=60) as source:
                for event in source:
                    assert event.type is not None
                    assert event.data is not None
                    got.append(Got(event.last_event_id, event.type, json.loads(event.data)))
                    if event.type == "completed":
                        return got
        raise AssertionError("it ended without the terminal event")

    async with cut_off(serving, seed=4, whole=HEAD) as story:
        got = await asyncio.to_thread(follow, story.url + PATH)
        tell(await story.verdict("requests-sse", got))
