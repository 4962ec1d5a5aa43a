"""LangGraph's routes from outside: threads, runs and their strategies, states, and who may see them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest

from tests.conftest import Serving
from unspool import GenerationManager, Options
from unspool.http import Identity, StartRequest, create_app
from unspool.http.dialects.langgraph import responses
from unspool.producer import Generation
from unspool.sse import Decoder, Message

OPTIONS = Options(sweep=0.02, poll=0.02, abort_grace=0.2)
MODES = ["messages-tuple", "values", "updates", "custom"]


class App:
    """An application whose run says two words, and waits between them while `go` is clear."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.go.set()
        self.requests: list[StartRequest] = []

    async def run(self, gen: Generation, request: StartRequest) -> None:
        self.requests.append(request)
        asked = str(request.messages[-1]["content"])
        await gen.text("echo ")
        await gen.snapshot()
        await self.go.wait()
        if asked == "fail":
            raise ValueError("a secret")
        await gen.text(asked)


class Server:
    def __init__(self, app: App, client: httpx2.AsyncClient, manager: GenerationManager) -> None:
        self.app = app
        self.client = client
        self.manager = manager

    async def thread(self, **body: Any) -> str:
        answer = await self.client.post("/threads", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()["thread_id"]

    async def start(self, thread: str, text: str = "one", status: int = 200, **body: Any) -> dict[str, Any]:
        answer = await self.client.post(f"/threads/{thread}/runs", json={**asking(text), **body})
        assert answer.status_code == status, answer.text
        return answer.json()

    async def ask(self, thread: str, text: str, **body: Any) -> list[str]:
        """The texts that the thread has after a run."""
        answer = await self.client.post(f"/threads/{thread}/runs/wait", json={**asking(text), **body})
        assert answer.status_code == 200, answer.text
        return texts(answer.json())

    async def status(self, run: dict[str, Any]) -> str:
        path = f"/threads/{run['thread_id']}/runs/{run['run_id']}"
        await self.client.get(f"{path}/join")
        return (await self.client.get(path)).json()["status"]

    async def history(self, thread: str) -> list[dict[str, Any]]:
        return (await self.client.post(f"/threads/{thread}/history", json={"limit": 50})).json()


def asking(text: str) -> dict[str, Any]:
    return {"assistant_id": "agent", "input": {"messages": [{"role": "user", "content": text}]}}


def texts(values: dict[str, Any]) -> list[str]:
    return [message["content"] for message in values["messages"]]


@asynccontextmanager
async def served(serving: Serving, **kwargs: Any) -> AsyncGenerator[Server]:
    app, manager = App(), GenerationManager(options=kwargs.pop("options", OPTIONS))
    async with serving(create_app(manager, run=app.run, dialects=["langgraph"], **kwargs)) as client:
        yield Server(app, client, manager)


async def events(client: httpx2.AsyncClient, method: str, url: str, **kwargs: Any) -> list[Message]:
    decoder = Decoder()
    messages: list[Message] = []
    async with client.stream(method, url, **kwargs) as response:
        assert response.status_code == 200, await response.aread()
        async for chunk in response.aiter_raw():
            messages += decoder.feed(chunk)
    return messages


async def test_a_run_from_its_start_to_its_end(serving: Serving) -> None:
    """The head says where the run is and where to come back; every position continues with the rest."""
    async with served(serving) as server:
        client, thread = server.client, await server.thread(metadata={"a": 1})
        body = {
            **asking("hello"),
            "stream_mode": MODES,
            "config": {"configurable": {"model": "m"}},
            "metadata": {"b": 2},
        }
        async with client.stream("POST", f"/threads/{thread}/runs/stream", json=body) as response:
            await response.aread()
            path = response.headers["content-location"]
            assert path.startswith(f"/threads/{thread}/runs/")
            assert response.headers["location"] == f"{path}/stream"
            assert response.headers["content-type"].startswith("text/event-stream")
        whole = await events(client, "GET", f"{path}/stream")
        assert [one.event for one in whole] == [
            "metadata", "values", "messages", "messages", "updates", "values", "end",
        ]  # fmt: skip
        assert [one.id for one in whole] == [str(number) for number in range(7)]
        assert json.loads(whole[0].data) == {"run_id": path.rpartition("/")[2], "attempt": 1}
        assert texts(json.loads(whole[5].data)) == ["hello", "echo hello"]
        for last in range(-1, 7):
            rest = await events(client, "GET", f"{path}/stream", headers={"Last-Event-ID": str(last)})
            assert [one[:3] for one in rest] == [one[:3] for one in whole[last + 1 :]]
        some = await events(client, "GET", f"{path}/stream?stream_mode=values", headers={"Last-Event-ID": "1"})
        assert [one.id for one in some] == ["5", "6"]
        same = await events(client, "GET", f'{path}/stream?stream_mode=["values"]', headers={"Last-Event-ID": "1"})
        assert some == same
        request = server.app.requests[0]
        assert (request.model, request.dialect, request.metadata) == ("m", "langgraph", {"b": 2})
        assert request.parameters["assistant_id"] == "agent"
        found = (await client.get(path)).json()
        assert (found["status"], found["metadata"]) == ("success", {"b": 2})


@pytest.mark.parametrize("last", ["7", "x", "1-1", "-2", "9" * 20])
async def test_a_wrong_position_is_answered_explicitly(serving: Serving, last: str) -> None:
    """Beyond the end, or no position."""
    async with served(serving) as server:
        thread = await server.thread()
        await server.ask(thread, "hello")
        run = (await server.client.get(f"/threads/{thread}/runs")).json()[0]["run_id"]
        answer = await server.client.get(f"/threads/{thread}/runs/{run}/stream", headers={"Last-Event-ID": last})
        assert answer.status_code == (409 if last == "7" else 400)
        assert isinstance(answer.json()["detail"], str)


async def test_where_to_come_back_keeps_the_modes(serving: Serving) -> None:
    """A client that joined with modes of its own says none when it comes back."""
    async with served(serving) as server:
        thread = await server.thread()
        run = (await server.start(thread, stream_mode=["values"]))["run_id"]
        path = f"/threads/{thread}/runs/{run}/stream"
        assert (await server.client.get(path)).headers["location"] == path
        assert (await server.client.get(f"{path}?stream_mode=values")).headers["location"] == path
        joined = await server.client.get(f"{path}?stream_mode=custom&stream_mode=messages-tuple")
        assert joined.headers["location"] == f"{path}?stream_mode=custom&stream_mode=messages-tuple"
        events_ = {one.event for one in await events(server.client, "GET", joined.headers["location"])}
        assert events_ == {"metadata", "messages", "end"}


async def test_reject(serving: Serving) -> None:
    """A busy thread answers 422, and goes on."""
    async with served(serving) as server:
        server.app.go.clear()
        thread = await server.thread()
        run = await server.start(thread)
        refused = await server.start(thread, "two", 422, multitask_strategy="reject")
        assert "busy" in refused["detail"]
        server.app.go.set()
        assert await server.status(run) == "success"
        assert (await server.start(thread, "two", multitask_strategy="reject"))["status"] == "running"


async def test_interrupt_keeps_what_was_said(serving: Serving) -> None:
    """What runs is stopped; the next run knows what it had said."""
    async with served(serving) as server:
        server.app.go.clear()
        thread = await server.thread()
        run = await server.start(thread)
        other = await server.start(thread, "two", multitask_strategy="interrupt")
        assert await server.status(run) == "interrupted"
        server.app.go.set()
        assert await server.status(other) == "success"
        state = (await server.client.get(f"/threads/{thread}/state")).json()
        assert texts(state["values"]) == ["one", "echo ", "two", "echo two"]
        assert [message["content"] for message in server.app.requests[1].messages] == ["one", "echo ", "two"]


async def test_rollback_forgets_it(serving: Serving) -> None:
    """What runs is stopped and deleted, its question included."""
    async with served(serving) as server:
        thread = await server.thread()
        await server.ask(thread, "zero")
        server.app.go.clear()
        run = await server.start(thread)
        other = await server.start(thread, "two", multitask_strategy="rollback")
        server.app.go.set()
        assert await server.status(other) == "success"
        state = (await server.client.get(f"/threads/{thread}/state")).json()
        assert texts(state["values"]) == ["zero", "echo zero", "two", "echo two"]
        assert (await server.client.get(f"/threads/{thread}/runs/{run['run_id']}")).status_code == 404


async def test_enqueue_is_one_after_the_other(serving: Serving) -> None:
    """However many come at once, each begins with what those before it have left."""
    async with served(serving) as server:
        server.app.go.clear()
        thread = await server.thread()
        await server.start(thread, "0")
        waiting = [asyncio.create_task(server.start(thread, str(number))) for number in range(1, 5)]
        await asyncio.sleep(0.05)
        assert not any(task.done() for task in waiting)
        server.app.go.set()
        runs = await asyncio.gather(*waiting)
        for run in runs:
            assert await server.status(run) == "success"
        said = texts((await server.client.get(f"/threads/{thread}/state")).json()["values"])
        assert sorted(said[::2]) == ["0", "1", "2", "3", "4"]
        assert said[1::2] == [f"echo {text}" for text in said[::2]]


async def test_stop_is_answered_after_the_seal_and_twice(serving: Serving) -> None:
    """204 where the client waits, 202 where it does not; a run that has ended stays as it is."""
    async with served(serving) as server:
        server.app.go.clear()
        thread = await server.thread()
        for wait, status in (("1", 204), ("true", 204), ("0", 202)):
            run = await server.start(thread)
            path = f"/threads/{thread}/runs/{run['run_id']}"
            following = asyncio.create_task(events(server.client, "GET", f"{path}/stream"))
            for _ in range(2):
                answer = await server.client.post(f"{path}/cancel?wait={wait}&action=interrupt")
                assert (answer.status_code, answer.content) == (status, b"")
            assert (await server.client.get(path)).json()["status"] == "interrupted"
            assert (await following)[-1].event == "end"
        answer = await server.client.post(f"{path}/cancel?action=explode")
        assert answer.status_code == 422
        assert (await server.client.post(f"{path}/cancel?wait=1&action=rollback")).status_code == 204
        assert (await server.client.get(path)).status_code == 404


async def test_a_run_that_fails(serving: Serving) -> None:
    """The stream ends with `error`, whoever waits gets it, and the thread's state says so; no secret is told."""
    async with served(serving) as server:
        thread = await server.thread()
        answer = await server.client.post(f"/threads/{thread}/runs/wait", json=asking("fail"))
        error = answer.json()["__error__"]
        assert set(error) == {"error", "message"}
        assert "secret" not in answer.text
        run = (await server.client.get(f"/threads/{thread}/runs")).json()[0]
        assert run["status"] == "error"
        got = await events(server.client, "GET", f"/threads/{thread}/runs/{run['run_id']}/stream")
        assert (got[-1].event, json.loads(got[-1].data)) == ("error", error)
        assert (await server.client.get(f"/threads/{thread}")).json()["status"] == "error"
        state = (await server.client.get(f"/threads/{thread}/state")).json()
        assert json.loads(state["tasks"][0]["error"]) == error


async def test_a_request_that_is_sent_twice_is_one_run(serving: Serving) -> None:
    """`Idempotency-Key` attaches, whatever the strategy, on a thread and without one."""
    async with served(serving) as server:
        server.app.go.clear()
        thread = await server.thread()
        for path in (f"/threads/{thread}/runs", "/runs"):
            body = {**asking("one"), "multitask_strategy": "reject"}
            answers = [
                (await server.client.post(path, json=body, headers={"Idempotency-Key": "k"})).json() for _ in range(3)
            ]
            assert len({answer["run_id"] for answer in answers}) == 1
        assert len(server.app.requests) == 2


async def test_threads_of_others_are_not_there(serving: Serving) -> None:
    """Every verb answers for another's thread exactly as for one that never was."""

    def authenticate(request: Any) -> Identity:
        return Identity(request.headers.get("x-user", "me"))

    async with served(serving, authenticate=authenticate) as server:
        thread = await server.thread(thread_id="theirs")
        await server.ask(thread, "hello")
        run = (await server.client.get("/threads/theirs/runs")).json()[0]["run_id"]
        state = (await server.client.get("/threads/theirs/state")).json()
        checkpoint = state["checkpoint"]["checkpoint_id"]
        verbs = [
            ("GET", "", None), ("PATCH", "", {"metadata": {}}), ("DELETE", "", None), ("GET", "/state", None),
            ("POST", "/state", {"values": None}), ("GET", f"/state/{checkpoint}", None), ("GET", "/history", None),
            ("POST", "/history", {}), ("GET", "/runs", None), ("POST", "/runs", asking("x")),
            ("POST", "/runs/wait", asking("x")), ("POST", "/runs/stream", asking("x")), ("GET", f"/runs/{run}", None),
            ("GET", f"/runs/{run}/stream", None), ("GET", f"/runs/{run}/join", None),
            ("POST", f"/runs/{run}/cancel", None), ("DELETE", f"/runs/{run}", None),
        ]  # fmt: skip
        for method, path, body in verbs:
            answers = [
                await server.client.request(method, f"/threads/{name}{path}", json=body, headers={"x-user": "other"})
                for name in ("theirs", "nobody")
            ]
            assert [answer.status_code for answer in answers] == [404, 404], (method, path)
            theirs, nobody = (answer.text.replace("theirs", "?").replace("nobody", "?") for answer in answers)
            assert theirs == nobody
        assert (await server.client.post("/threads/search", json={}, headers={"x-user": "other"})).json() == []
        assert len((await server.client.post("/threads/search", json={})).json()) == 1
        assert (await server.client.get(f"/threads/theirs/runs/{run}")).status_code == 200


async def test_threads_are_made_found_and_changed(serving: Serving) -> None:
    """A thread is there before its first run; its metadata outlasts runs, and changes also while one runs."""
    async with served(serving) as server:
        client, thread = server.client, await server.thread(thread_id="t", metadata={"a": 1, "graph_id": None})
        assert (await client.post("/threads", json={"thread_id": "t"})).status_code == 409
        again = await client.post("/threads", json={"thread_id": "t", "if_exists": "do_nothing"})
        assert again.json()["metadata"] == {"a": 1}
        made = (await client.get("/threads/t")).json()
        assert (made["status"], made["values"]) == ("idle", {"messages": []})
        server.app.go.clear()
        run = await server.start(thread)
        assert (await client.get("/threads/t")).json()["status"] == "busy"
        changed = await client.patch("/threads/t", json={"metadata": {"b": 2}})
        assert changed.json()["metadata"] == {"a": 1, "b": 2}
        assert (await client.post("/threads/t/state", json={"values": {"messages": "x"}})).status_code == 409
        assert (await client.delete(f"/threads/t/runs/{run['run_id']}")).status_code == 409
        server.app.go.set()
        await server.status(run)
        changed = await client.patch("/threads/t", json={"metadata": {"a": 3}}, headers={"Prefer": "return=minimal"})
        assert (changed.status_code, changed.content) == (204, b"")
        await server.ask(thread, "two")
        found = (await client.get("/threads/t")).json()
        assert found["metadata"] == {"a": 3, "b": 2}
        assert found["created_at"] == made["created_at"]
        assert texts(found["values"]) == ["one", "echo one", "two", "echo two"]
        await server.thread(metadata={"a": 4})
        for wanted, count in (({}, 2), ({"metadata": {"a": 3}}, 1), ({"ids": ["t"]}, 1), ({"status": "busy"}, 0)):
            assert len((await client.post("/threads/search", json=wanted)).json()) == count
            assert (await client.post("/threads/count", json=wanted)).json() == count
        assert (await client.delete("/threads/t")).status_code == 204
        assert (await client.get("/threads/t")).status_code == 404
        assert (await client.post("/threads/t/runs", json=asking("x"))).status_code == 404
        assert (await server.start("t", if_not_exists="create"))["thread_id"] == "t"


async def test_states_lead_back_to_where_a_thread_was(serving: Serving) -> None:
    """Two states for each run, each with its parent; a run from one of them makes a branch."""
    async with served(serving) as server:
        client, thread = server.client, await server.thread()
        await server.ask(thread, "one")
        await server.ask(thread, "two")
        states = await server.history(thread)
        said = [texts(state["values"]) for state in states]
        both = ["one", "echo one", "two", "echo two"]
        assert said == [both, both[:3], both[:2], both[:1], []]
        ids = [state["checkpoint"]["checkpoint_id"] for state in states]
        assert [state["parent_checkpoint"]["checkpoint_id"] for state in states[:-1]] == ids[1:]
        assert (await client.get(f"/threads/{thread}/state/{ids[2]}")).json() == states[2]
        at = {"checkpoint": {"checkpoint_id": ids[1]}}
        assert (await client.post(f"/threads/{thread}/state/checkpoint", json=at)).json() == states[1]
        before = await client.post(f"/threads/{thread}/history", json={"limit": 2, "before": {"checkpoint_id": ids[1]}})
        assert before.json() == states[2:4]
        # The last answer once more, then another question in the place of the second.
        again = await client.post(
            f"/threads/{thread}/runs/wait", json={"assistant_id": "agent", "checkpoint": states[1]["checkpoint"]}
        )
        assert texts(again.json()) == both
        assert await server.ask(thread, "other", checkpoint_id=ids[2]) == ["one", "echo one", "other", "echo other"]
        newest = await server.history(thread)
        assert [(state["parent_checkpoint"] or {}).get("checkpoint_id") for state in newest[1:4:2]] == [ids[2], ids[1]]
        changed = await client.post(f"/threads/{thread}/state", json={"values": {"messages": [["user", "three"]]}})
        state = (await client.get(f"/threads/{thread}/state")).json()
        assert state["checkpoint"] == changed.json()["checkpoint"]
        assert texts(state["values"])[-2:] == ["echo other", "three"]
        assert (await client.get(f"/threads/{thread}/state/{ids[0][:-1]}f")).status_code == 404


@pytest.mark.parametrize(
    ("body", "mention"),
    [
        ({"input": {"messages": []}}, "messages"),
        ({"input": None}, "messages"),
        ({"input": {"messages": [{"role": "robot", "content": ""}]}}, "robot"),
        ({"input": {"messages": "x"}, "stream_mode": "everything"}, "everything"),
        ({"input": {"messages": "x"}, "multitask_strategy": "panic"}, "multitask_strategy"),
        ({"command": {"resume": "yes"}}, "command"),
        ({"input": {"messages": "x"}, "checkpoint_id": "nonsense"}, None),
    ],
)
async def test_a_wrong_request_says_what_is_wrong(serving: Serving, body: dict[str, Any], mention: str | None) -> None:
    """422 with a detail, or 404 for a checkpoint that is none; nothing runs."""
    async with served(serving) as server:
        thread = await server.thread()
        answer = await server.client.post(f"/threads/{thread}/runs/stream", json={"assistant_id": "agent", **body})
        assert answer.status_code == (422 if mention else 404)
        assert (mention or "") in answer.json()["detail"]
        assert server.app.requests == []


async def test_who_goes_away_stops_what_nobody_else_follows(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """`on_disconnect: cancel`: not where another follows, or the client comes back; the last to leave counts."""
    monkeypatch.setattr(responses, "PATIENCE", 0.1)
    async with served(serving) as server:
        server.app.go.clear()
        client, body = server.client, {**asking("one"), "on_disconnect": "cancel"}

        async def begin(kind: str = "stream") -> tuple[str, Closing]:
            closing = Closing(client, "POST", f"/threads/{await server.thread()}/runs/{kind}", json=body)
            return (await closing.begun())["content-location"], closing

        async def status(path: str) -> str:
            return (await client.get(path)).json()["status"]

        async def interrupted(path: str) -> None:
            while await status(path) != "interrupted":
                await asyncio.sleep(0.01)

        followed, first = await begin()
        other = Closing(client, "GET", f"{followed}/stream")
        await other.begun()
        await first.close()
        returned, second = await begin()
        await second.close()
        back = Closing(client, "GET", second.headers["location"])
        await back.begun()
        assert back.headers["location"] == f"{returned}/stream?cancel_on_disconnect=1"
        for kind in ("stream", "wait"):  # they left later, so by then it was seen that the others are followed
            left, last = await begin(kind)
            await last.close()
            await interrupted(left)
        assert [await status(followed), await status(returned)] == ["running", "running"]
        await back.close()
        await interrupted(returned)
        server.app.go.set()
        await other.close()


class Closing:
    """A request whose connection is closed in the middle of the answer."""

    def __init__(self, client: httpx2.AsyncClient, method: str, path: str, **kwargs: Any) -> None:
        self._stream = client.stream(method, path, **kwargs)
        self.headers: Any = None

    async def begun(self) -> Any:
        self.headers = (await self._stream.__aenter__()).headers
        return self.headers

    async def close(self) -> None:
        await self._stream.__aexit__(None, None, None)


async def test_a_log_that_was_trimmed(serving: Serving) -> None:
    """Positions after the checkpoint go on as ever, under every mode; the thread's state is whole."""
    words = [f"{number} " for number in range(200)]

    async def talk(gen: Generation, request: StartRequest) -> None:
        for number, word in enumerate(words):
            await gen.text(word, part_id=str(number))
            if number % 10 == 0:
                await gen.snapshot()

    manager = GenerationManager(options=Options(window=8, log_records=60, checkpoint_every=20))
    async with serving(create_app(manager, run=talk, dialects=["langgraph"])) as client:
        answer = await client.post("/runs/wait", json=asking("talk"))
        assert texts(answer.json()) == ["talk", "".join(words)]
        path = answer.headers["content-location"]
        job = (await manager.jobs())[0]
        assert job.first_offset > 60
        for modes in (["messages-tuple"], ["values", "messages-tuple", "updates"]):
            query = "&".join(f"stream_mode={mode}" for mode in modes)
            rest = await events(client, "GET", f"{path}/stream?{query}", headers={"Last-Event-ID": "190"})
            said = [json.loads(one.data)[0]["content"] for one in rest if one.event == "messages"]
            assert said == words[189:]
        assert (await client.get(f"{path}/stream")).status_code == 410
