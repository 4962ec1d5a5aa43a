"""LangGraph's runs, with its SDKs for Python and JavaScript, and `useStream` in a page."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessageChunk
from langgraph_sdk import get_client, get_sync_client
from langgraph_sdk.errors import NotFoundError, UnprocessableEntityError

from tests.conftest import Serving
from tests.interop.dialects.world import CUTS, QUESTION, RESULT, THOUGHT, TOOL, World, world
from tests.interop.programs import ended, node, program

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

DIALECT = ("langgraph",)
CARRIED = (1500, 12_000)
"""Bytes until a cut: more than a head, without which the SDKs know no run to come back to."""
FOLLOWERS = 7
MODES: Any = ["messages-tuple", "values", "updates", "custom"]
INPUT: dict[str, Any] = {"messages": [{"role": "user", "content": QUESTION}]}


class Got:
    """What a client was given, put together as LangChain does."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.events: list[str] = []
        self.values: Any = None
        self.error: Any = None
        self.chunks: dict[str, list[AIMessageChunk]] = {}
        self.results: list[str] = []

    def take(self, part: Any) -> None:
        self.ids.append(int(part.id))
        self.events.append(part.event)
        if part.event == "values":
            self.values = part.data
        elif part.event == "error":
            self.error = part.data
        elif part.event == "messages":
            message = part.data[0]
            if message["type"] == "tool":
                self.results.append(message["content"])
            else:
                self.chunks.setdefault(message["id"], []).append(AIMessageChunk(**message))

    @property
    def messages(self) -> list[Any]:
        return [reduce(add, chunks) for chunks in self.chunks.values()]

    @property
    def text(self) -> str:
        return "".join(message.content for message in self.messages)

    def check(self, made: World) -> None:
        """All came, in order, once; and the pieces are what the state says in the end."""
        assert self.text == made.text
        assert self.ids == list(range(len(self.ids)))
        assert (self.events[0], self.events[-1]) == ("metadata", "end")
        first, last = self.messages
        assert first.additional_kwargs["reasoning_content"].strip() == THOUGHT
        assert [(call["name"], call["args"]) for call in first.tool_calls] == [("level", TOOL)]
        assert [json.loads(result) for result in self.results] == [RESULT]
        assert last.usage_metadata["input_tokens"] == 11
        assert [message["type"] for message in self.values["messages"]] == ["human", "ai", "tool", "ai"]
        assert self.values["messages"][-1]["content"] == made.text
        assert self.values["messages"][1]["tool_calls"][0]["args"] == TOOL


async def test_the_python_sdk(serving: Serving, stores: Collection[str]) -> None:
    """One client starts a run, others join it from its beginning; each comes back by itself, whatever is cut."""
    async with (
        world(serving, stores, carried=CARRIED, dialects=DIALECT) as made,
        get_client(url=made.url, api_key=None) as client,
        get_client(url=made.direct, api_key=None) as direct,
    ):
        created: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        async def follow(parts: AsyncIterator[Any]) -> Got:
            got = Got()
            async for part in parts:
                got.take(part)
            return got

        thread = (await direct.threads.create(metadata={"from": "test"}))["thread_id"]
        first = asyncio.create_task(
            follow(
                client.runs.stream(thread, "agent", input=INPUT, stream_mode=MODES, on_run_created=created.set_result)
            )
        )
        run = (await created)["run_id"]
        others = [
            follow(client.runs.join_stream(thread, run, stream_mode=MODES, last_event_id="-1"))
            for _ in range(FOLLOWERS)
        ]
        for got in await asyncio.gather(first, *others):
            got.check(made)
        assert made.proxy.cuts >= CUTS
        assert made.requests[0].messages == [{"role": "user", "content": QUESTION}]
        assert (await direct.runs.get(thread, run))["status"] == "success"
        state = await direct.threads.get_state(thread)
        assert state["values"] == (await direct.runs.join(thread, run))
        assert state["values"]["messages"][-1]["content"] == made.text  # pyright: ignore[reportArgumentType, reportCallIssue]
        assert [one["metadata"] for one in await direct.threads.search()] == [{"from": "test"}]


async def test_the_python_sdk_without_asyncio(serving: Serving, stores: Collection[str]) -> None:
    """The same from threads, with modes that leave frames out: their numbers rise, and have holes."""
    async with world(serving, stores, carried=CARRIED, dialects=DIALECT, seed=11) as made:
        created: list[Any] = []
        async with get_client(url=made.direct, api_key=None) as direct:
            thread_id = (await direct.threads.create())["thread_id"]

        def follow(begin: Callable[[Any], Iterator[Any]]) -> Got:
            got = Got()
            with get_sync_client(url=made.url, api_key=None) as client:
                for part in begin(client.runs):
                    got.take(part)
            return got

        modes: Any = ["messages-tuple", "custom"]
        first = asyncio.create_task(
            asyncio.to_thread(
                follow,
                lambda runs: runs.stream(
                    thread_id, "agent", input=INPUT, stream_mode=modes, on_run_created=created.append
                ),
            )
        )
        while not created:
            await asyncio.sleep(0.01)
        run = created[0]["run_id"]
        others = [
            asyncio.to_thread(
                follow, lambda runs: runs.join_stream(thread_id, run, stream_mode=modes, last_event_id="-1")
            )
            for _ in range(FOLLOWERS)
        ]
        every = await asyncio.gather(first, *others)
        for got in every:
            assert got.text == made.text
            assert got.ids == every[0].ids == sorted(set(got.ids))
            assert set(got.events) == {"metadata", "messages", "custom", "end"}
        assert made.proxy.cuts >= CUTS


async def test_stop_join_and_a_busy_thread(serving: Serving, stores: Collection[str]) -> None:
    """What the SDK raises and answers for runs that are stopped, waited for, refused and deleted."""
    async with (
        world(serving, stores, cuts=0, dialects=DIALECT) as made,
        get_client(url=made.url, api_key=None) as client,
    ):
        made.held.clear()
        thread = (await client.threads.create())["thread_id"]
        run: Any = await client.runs.create(thread, "agent", input=INPUT)
        assert run["status"] == "running"
        assert (await client.threads.get(thread))["status"] == "busy"
        with pytest.raises(UnprocessableEntityError, match="busy"):
            await client.runs.create(thread, "agent", input=INPUT, multitask_strategy="reject")
        following = asyncio.create_task(_events(client.runs.join_stream(thread, run["run_id"])))
        waiting = asyncio.create_task(client.runs.join(thread, run["run_id"]))
        await client.runs.cancel(thread, run["run_id"], wait=True)
        assert (await client.runs.get(thread, run["run_id"]))["status"] == "interrupted"
        events = await following
        assert (events[0], events[-2:]) == ("metadata", ["values", "end"])
        assert (await waiting)["messages"][0]["content"] == QUESTION

        made.held.set()
        values: Any = await client.runs.wait(thread, "agent", input={"messages": "again"})
        assert values["messages"][-1]["content"] == made.text
        assert made.requests[-1].messages[-1] == {"role": "user", "content": "again"}
        assert [one["status"] for one in await client.runs.list(thread)] == ["success", "interrupted"]
        await client.runs.delete(thread, run["run_id"])
        with pytest.raises(NotFoundError):
            await client.runs.get(thread, run["run_id"])
        stateless = await client.runs.wait(None, "agent", input=INPUT)
        assert stateless["messages"][-1]["content"] == made.text  # pyright: ignore[reportArgumentType, reportCallIssue]
        await client.threads.delete(thread)
        with pytest.raises(NotFoundError):
            await client.threads.get(thread)


async def test_a_wait_that_is_cut(serving: Serving, stores: Collection[str]) -> None:
    """The answer breaks off in its middle; the head has said where it can be asked for again."""
    async with (
        world(serving, stores, cuts=1, carried=(600, 900), dialects=DIALECT) as made,
        get_client(url=made.url, api_key=None) as client,
    ):
        made.cuts = 0  # the run does not wait for it
        with pytest.warns(UserWarning, match="attempting reconnect to Location: /threads/.*/join"):
            values: Any = await client.runs.wait(None, "agent", input=INPUT)
        assert values["messages"][-1]["content"] == made.text
        assert (made.proxy.cuts, len(made.requests)) == (1, 1)


async def _events(parts: AsyncIterator[Any]) -> list[str]:
    return [part.event async for part in parts]


async def test_the_javascript_sdk(serving: Serving, stores: Collection[str], modules: Path) -> None:
    """As in Python; where its five attempts are used up, the client joins again."""
    async with world(serving, stores, carried=CARRIED, dialects=DIALECT, seed=13) as made:
        found = await node(modules / "langgraph.mjs", made.url, QUESTION, str(FOLLOWERS))
        assert len(found["all"]) == FOLLOWERS + 1
        for got in found["all"]:
            assert got["text"] == made.text
            assert got["reasoning"].strip() == THOUGHT
            assert [(call["name"], call["args"]) for call in got["calls"]] == [("level", TOOL)]
            assert [json.loads(result) for result in got["results"]] == [RESULT]
            assert got["usage"]["input_tokens"] == 11
            assert got["ids"] == found["all"][0]["ids"] == sorted(set(got["ids"]))
            assert got["values"] == found["state"]["values"]
        assert made.proxy.cuts >= CUTS


async def test_use_stream(serving: Serving, stores: Collection[str], modules: Path) -> None:
    """A page that is reloaded joins the run and shows all of it; its Stop ends the run."""
    async with (
        world(serving, stores, cuts=0, dialects=DIALECT) as made,
        program("node", modules / "langgraph_usestream.mjs", made.url, QUESTION) as page,
    ):
        assert page.stdout is not None
        made.held.clear()
        assert json.loads(await page.stdout.readline()) == {"goOn": True}
        made.held.set()
        shown = json.loads(await page.stdout.readline())
        assert shown["whole"] == made.text
        assert shown["whole"].startswith(shown["joined"])
        assert shown["joined"].startswith(shown["before"])
        assert 0 < len(shown["before"]) < len(shown["whole"])
        assert shown["shown"] == ["human", "ai", "tool", "ai"]
        result = json.dumps(RESULT, separators=(",", ":"))
        assert shown["calls"] == [{"name": "level", "args": TOOL, "state": "completed", "result": result}]

        made.held.clear()
        stopped = json.loads(await ended(page))
        assert made.text.startswith(stopped["stopped"])
        assert stopped["errors"] == []
        assert len({stopped["running"], shown["stored"]}) == 2
        async with get_client(url=made.url, api_key=None) as client:
            assert await _status(client, stopped["threadId"], stopped["running"]) == "interrupted"
            assert await _status(client, stopped["threadId"], shown["stored"]) == "success"


async def _status(client: Any, thread: str, run: str) -> str:
    await client.runs.join(thread, run)
    return (await client.runs.get(thread, run))["status"]
