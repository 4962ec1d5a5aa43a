"""LangGraph's threads from outside: made, found, changed, their states, and who may see them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.conftest import Serving
from tests.unit.http.langgraph_server import Closing, asking, served, texts
from unspool.http import Identity
from unspool.jobs import Job


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


async def test_changes_of_a_busy_thread_at_once_lose_nothing(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """All read before one of them writes, as on several replicas; what the run and its followers set stays, too."""
    async with served(serving) as server:
        server.app.go.clear()
        run = await server.start("t", if_not_exists="create", metadata={"b": 2})
        path = f"/threads/t/runs/{run['run_id']}"
        store, together = server.manager.store, asyncio.Barrier(6)
        update = store.update

        async def late(*args: Any) -> Job:
            await together.wait()
            return await update(*args)

        with monkeypatch.context() as patched:
            patched.setattr(store, "update", late)
            joining = Closing(server.client, "GET", f"{path}/stream?cancel_on_disconnect=1")
            changes = [{"a": {"x": None}}, {"a1": 1}, {"a2": 2}, {"a3": 3}]
            answers, _, _ = await asyncio.gather(
                asyncio.gather(*(server.client.patch("/threads/t", json={"metadata": change}) for change in changes)),
                server.manager.update("t", extra={"mine": 1}),
                joining.begun(),
            )
        assert [answer.status_code for answer in answers] == [200] * 4
        extra = (await server.manager.job("t")).metadata.extra or {}
        assert (await server.client.get("/threads/t")).json()["metadata"] == {
            "a": {"x": None},
            "a1": 1,
            "a2": 2,
            "a3": 3,
        }
        assert (await server.client.get(path)).json()["metadata"] == {"b": 2}
        assert (extra["mine"], bool(extra["langgraph"]["follower"])) == (1, True)
        await joining.close()


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
    ("method", "path", "body", "mention"),
    [
        ("POST", "/threads", {"ttl": 5}, "ttl"),
        ("POST", "/threads", {"supersteps": [{}]}, "supersteps"),
        ("PATCH", "/threads/t", {"metadata": {}, "ttl": {"ttl": 1}}, "ttl"),
        ("POST", "/threads/search", {"sort_by": "nonsense"}, "sort_by"),
        ("POST", "/threads/search", {"sort_order": "up"}, "sort_order"),
        ("POST", "/threads/search", {"status": "nonsense"}, "status"),
        ("POST", "/threads/search", {"values": {"a": 1}}, "values"),
        ("POST", "/threads/search", {"select": ["thread_id"]}, "select"),
        ("POST", "/threads/search", {"extract": {"a": "b"}}, "extract"),
        ("POST", "/threads/count", {"status": "nonsense"}, "status"),
        ("POST", "/threads/t/history", {"checkpoint": {"checkpoint_id": "x"}}, "checkpoint"),
        ("POST", "/threads/t/history", {"limit": 1001}, "limit"),
        ("GET", "/threads/t/history?limit=1001", None, "limit"),
        ("GET", "/threads/t/history?limit=+1", None, "limit"),
        ("POST", "/threads/t/state", {"values": {"messages": "x", "other": 1}}, "other"),
        ("POST", "/threads/t/state", {"values": None, "as_node": "agent"}, "as_node"),
        ("GET", "/threads/t/state?select=values", None, "select"),
        ("GET", "/threads/t/runs?status=nonsense", None, "status"),
        ("GET", "/threads/t/runs?select=run_id", None, "select"),
        ("GET", "/threads/t/runs?limit=٣", None, "limit"),
    ],
)
async def test_what_cannot_be_honoured_is_refused_by_name(
    serving: Serving, method: str, path: str, body: Any, mention: str
) -> None:
    """422, and the thread is as it was."""
    async with served(serving) as server:
        await server.thread(thread_id="t")
        before = (await server.client.get("/threads/t")).json()
        answer = await server.client.request(method, path, json=body)
        assert (answer.status_code, mention in answer.json()["detail"]) == (422, True)
        assert (await server.client.get("/threads/t")).json() == before


async def test_lists_have_what_is_asked_for(serving: Serving) -> None:
    """Limits are exact, 0 too; threads are sorted by each field there is, and states found by their metadata."""
    async with served(serving) as server:
        client = server.client
        for thread, text in (("b", "one"), ("a", "fail"), ("b", "two")):
            run = await server.start(thread, text, if_not_exists="create", metadata={"said": text})
            await server.status(run)
        for limit, offset, count in ((0, 0, 0), (1, 0, 1), (1, 1, 1), (5, 0, 2), (5, 2, 0)):
            query = {"limit": str(limit), "offset": str(offset)}
            assert len((await client.get("/threads/b/runs", params=query)).json()) == count
            assert len((await client.post("/threads/b/history", json={"limit": limit})).json()) == min(limit, 4)
        for field, first in (("thread_id", "a"), ("status", "a"), ("created_at", "b"), ("state_updated_at", "a")):
            found = (await client.post("/threads/search", json={"sort_by": field, "sort_order": "asc"})).json()
            assert (found[0]["thread_id"], len(found)) == (first, 2), field
        states = (await client.post("/threads/b/history", json={"metadata": {"said": "one"}})).json()
        assert [texts(state["values"])[-1] for state in states] == ["echo one", "one"]
