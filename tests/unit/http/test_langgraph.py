"""LangGraph's runs from outside: positions, strategies, Stop, and clients that go away."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2
import pytest

from tests.conftest import Serving
from tests.unit.http.langgraph_server import MODES, OPTIONS, App, Closing, asking, events, served, texts
from tests.waiting import Pauses, until
from unspool import GenerationManager, Options, StoreUnavailable
from unspool.http import Identity, StartRequest, StreamOptions, create_app
from unspool.http.dialects.langgraph import responses
from unspool.http.door import Door
from unspool.jobs import Job
from unspool.ledger import Ledger, LedgerOptions, Prices
from unspool.producer import Generation


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


async def test_ids_of_a_lost_store_are_not_found(serving: Serving) -> None:
    """A server with an empty store gives the same numbers again: old runs and checkpoints are told, not continued."""
    lost: list[tuple[str, str]] = []
    for _ in range(2):
        async with served(serving) as server:
            await server.ask("t", "hello", if_not_exists="create")
            run = (await server.client.get("/threads/t/runs")).json()[0]["run_id"]
            for old_run, old_checkpoint in lost:
                old, checkpoint = f"/threads/t/runs/{old_run}", {"checkpoint_id": old_checkpoint}
                answers = [
                    await server.client.get(f"{old}/stream", headers={"Last-Event-ID": "2"}),
                    await server.client.get(old),
                    await server.client.post(f"{old}/cancel"),
                    await server.client.get(f"/threads/t/state/{old_checkpoint}"),
                    await server.client.post("/threads/t/history", json={"before": checkpoint}),
                    await server.client.post("/threads/t/state", json={"values": None, **checkpoint}),
                    await server.client.post("/threads/t/runs", json={**asking("two"), **checkpoint}),
                ]
                assert [answer.status_code for answer in answers] == [404] * len(answers)
            lost.append((run, (await server.history("t"))[0]["checkpoint"]["checkpoint_id"]))
            assert (await server.client.get(f"/threads/t/runs/{run}/stream")).status_code == 200
    assert {one[-12:] for one, _ in lost} == {f"{1:012x}"}


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


@pytest.mark.parametrize("strategy", ["interrupt", "rollback"])
async def test_a_run_that_is_refused_stops_nothing(serving: Serving, strategy: str) -> None:
    """One from a checkpoint that is none, and one that the balance does not cover: what runs goes on to its end."""
    ledger = Ledger("sqlite://", pricer=Prices({}), options=LedgerOptions(hold=10))
    async with served(serving, ledger, account="team") as server:
        await ledger.grant("team", 15, id="g")
        server.app.go.clear()
        thread = await server.thread()
        run = await server.start(thread)
        asked = {"assistant_id": "agent", "multitask_strategy": strategy}
        for status, body in ((404, {**asking("two"), "checkpoint_id": "none"}), (402, asking("two"))):
            answer = await server.client.post(f"/threads/{thread}/runs", json={**body, **asked})
            assert answer.status_code == status, answer.text
        path, key = f"/threads/{thread}/runs", {"idempotency-key": "k"}
        busy = {**asking("two"), "multitask_strategy": "reject"}
        assert (await server.client.post(path, json=busy, headers=key)).status_code == 422
        queued = asyncio.create_task(server.client.post(path, json=asking("two"), headers=key))
        done, _ = await asyncio.wait({queued}, timeout=0.3)  # it is not refused while it waits
        assert not done
        server.app.go.set()
        assert await server.status(run) == "success"
        assert (await queued).status_code == 200


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


async def test_a_rollback_that_is_refused_deletes_nothing(serving: Serving) -> None:
    """A checkpoint of the very run that would go: 404, and the run goes on to its end."""
    async with served(serving) as server:
        server.app.go.clear()
        run = await server.start("t", if_not_exists="create")
        checkpoint = (await server.history("t"))[-1]["checkpoint"]["checkpoint_id"]
        await server.start("t", "two", 404, multitask_strategy="rollback", checkpoint_id=checkpoint)
        server.app.go.set()
        assert await server.status(run) == "success"


async def test_rollback_of_the_first_run_keeps_the_thread(serving: Serving) -> None:
    """Its metadata, too: the thread outlives the run that made it, and the new run needs no leave to make one."""
    async with served(serving) as server:
        server.app.go.clear()
        run = await server.start("t", if_not_exists="create")
        await server.client.patch("/threads/t", json={"metadata": {"a": 1}})
        other = await server.start("t", "two", multitask_strategy="rollback")
        server.app.go.set()
        assert await server.status(other) == "success"
        assert (await server.client.get(f"/threads/t/runs/{run['run_id']}")).status_code == 404
        found = (await server.client.get("/threads/t")).json()
        assert (texts(found["values"]), found["metadata"]) == (["two", "echo two"], {"a": 1})


async def test_enqueue_is_one_after_the_other(serving: Serving) -> None:
    """However many come at once, each begins with what those before it have left."""
    async with served(serving) as server:
        server.app.go.clear()
        thread = await server.thread()
        await server.start(thread, "0")
        waiting = [asyncio.create_task(server.start(thread, str(number))) for number in range(1, 5)]
        while len(server.manager.replica.viewers) < len(waiting):
            await asyncio.sleep(0)
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


async def test_several_are_stopped_at_once(serving: Serving) -> None:
    """By their ids, of which none may be another's, or all of the caller's; what has ended stays as it is."""

    def authenticate(request: Any) -> Identity:
        return Identity(request.headers.get("x-user", "me"))

    async with served(serving, authenticate=authenticate) as server:
        server.app.go.clear()
        client, runs = server.client, [await server.start(await server.thread()) for _ in range(3)]

        async def cancel(code: int, query: str = "", user: str = "me", **body: Any) -> list[str]:
            answer = await client.post(f"/runs/cancel{query}", json=body, headers={"x-user": user})
            assert (answer.status_code, bool(answer.content)) == (code, code != 204)
            paths = [f"/threads/{run['thread_id']}/runs/{run['run_id']}" for run in runs]
            return [(await client.get(path)).json().get("status") for path in paths]

        thread, run = runs[0]["thread_id"], runs[0]["run_id"]
        assert await cancel(204, status="pending") == await cancel(204, user="eve", status="all") == ["running"] * 3
        assert await cancel(404, user="eve", thread_id=thread, run_ids=[run]) == ["running"] * 3
        assert await cancel(404, thread_id=thread, run_ids=[run, runs[1]["run_id"]]) == ["running"] * 3
        unnamed: list[dict[str, Any]] = [{"thread_id": thread}, {"run_ids": [run]}, {}]
        for wrong in unnamed:
            assert await cancel(422, **wrong) == ["running"] * 3
        for _ in range(2):
            stopped = await cancel(204, thread_id=thread, run_ids=[run, run])
            assert stopped == ["interrupted", "running", "running"]
        assert await cancel(204, "?action=rollback", status="running") == ["interrupted", 404, 404]


@pytest.mark.parametrize("named", [{"thread_id": "t"}, {"run_ids": ["x"]}, {"thread_id": "t", "run_ids": ["x"]}])
async def test_a_status_beside_a_thread_stops_nothing(serving: Serving, named: dict[str, Any]) -> None:
    """A status means the caller's runs on all threads, so it is refused where the request names some of them."""
    async with served(serving) as server:
        server.app.go.clear()
        for thread in ("t", "u"):
            await server.start(thread, if_not_exists="create")
        answer = await server.client.post("/runs/cancel", json={"status": "running", **named})
        assert (answer.status_code, answer.json()["field"]) == (422, "status")
        assert [str((await server.manager.job(name)).status) for name in ("t", "u")] == ["running"] * 2


async def test_a_run_that_fails(serving: Serving) -> None:
    """The stream ends with `error`, whoever waits gets it, and the thread's state says so; no secret is told."""
    async with served(serving) as server:
        thread = await server.thread()
        answer = await server.client.post(f"/threads/{thread}/runs/wait", json=asking("fail"))
        error = answer.json()["__error__"]
        assert answer.headers["location"] == f"{answer.headers['content-location']}/join"
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
            answers = [await server.client.post(path, json=body, headers={"Idempotency-Key": "k"}) for _ in range(3)]
            assert len({answer.json()["run_id"] for answer in answers}) == 1
            run = answers[0].json()
            assert answers[2].headers["content-location"] == f"/threads/{run['thread_id']}/runs/{run['run_id']}"
        assert len(server.app.requests) == 2


async def test_a_repeated_request_attaches_also_where_it_could_not_start_now(serving: Serving) -> None:
    """Under its key the run is found though the checkpoint that it began at was deleted since."""
    async with served(serving) as server:
        thread = await server.thread()
        await server.ask(thread, "zero")
        first = (await server.client.get(f"/threads/{thread}/runs")).json()[0]
        checkpoint = (await server.history(thread))[0]["checkpoint"]["checkpoint_id"]
        path, body = f"/threads/{thread}/runs", {**asking("one"), "checkpoint_id": checkpoint}
        made = await server.client.post(path, json=body, headers={"Idempotency-Key": "k"})
        assert await server.status(made.json()) == "success"
        assert (await server.client.delete(f"{path}/{first['run_id']}")).status_code == 204
        again = await server.client.post(path, json=body, headers={"Idempotency-Key": "k"})
        assert (again.status_code, again.json()["run_id"]) == (200, made.json()["run_id"])
        await server.start(thread, "two", 404, checkpoint_id=checkpoint)


@pytest.mark.parametrize(
    ("body", "mention"),
    [
        ({"input": {"messages": []}}, "messages"),
        ({"input": None}, "messages"),
        ({"input": {"messages": [{"role": "robot", "content": ""}]}}, "robot"),
        ({"input": {"messages": "x"}, "stream_mode": "everything"}, "everything"),
        ({"input": {"messages": "x"}, "multitask_strategy": "panic"}, "multitask_strategy"),
        ({"input": {"messages": "x"}, "stream_mode": ["values", "events"]}, "events"),
        ({"input": {"messages": "x"}, "webhook": "https://example.org"}, "webhook"),
        ({"input": {"messages": "x"}, "after_seconds": 1}, "after_seconds"),
        ({"input": {"messages": "x"}, "interrupt_before": ["agent"]}, "interrupt_before"),
        ({"input": {"messages": "x"}, "interrupt_after": "*"}, "interrupt_after"),
        ({"input": {"messages": "x"}, "feedback_keys": ["score"]}, "feedback_keys"),
        ({"input": {"messages": "x"}, "on_completion": "delete"}, "on_completion"),
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


async def test_fields_that_ask_for_nothing_are_taken(serving: Serving) -> None:
    """What the SDKs send unasked, and what holds anyway; a tracer is handed to the run."""
    async with served(serving) as server:
        tracer = {"project_name": "p"}
        run = await server.start(
            await server.thread(), stream_subgraphs=False, stream_resumable=True, durability="async",
            checkpoint_during=True, on_completion="keep", after_seconds=0, interrupt_before=[], webhook=None,
            langsmith_tracer=tracer, strict_resume=True,
        )  # fmt: skip
        assert await server.status(run) == "success"
        assert server.app.requests[0].parameters["langsmith_tracer"] == tracer


async def test_who_goes_away_stops_what_nobody_else_follows(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """`on_disconnect: cancel`: not where another follows, or the client comes back; the last to leave counts."""
    patience = Pauses(monkeypatch, responses, responses.PATIENCE)
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
        await until(lambda: patience.begun == 2)
        patience.over.set()
        for kind in ("stream", "wait"):  # they left later, so by then it was seen that the others are followed
            left, last = await begin(kind)
            await last.close()
            await interrupted(left)
        assert [await status(followed), await status(returned)] == ["running", "running"]
        await back.close()
        await interrupted(returned)
        server.app.go.set()
        await other.close()


@pytest.mark.parametrize("path", ["stream", "join"])
async def test_a_head_request_is_no_follower(serving: Serving, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """Nothing is told of its leaving: the run is still stopped when the client that follows leaves."""
    monkeypatch.setattr(responses, "PATIENCE", 0.0)
    async with served(serving) as server:
        server.app.go.clear()
        run = await server.start(await server.thread())
        one = f"/threads/{run['thread_id']}/runs/{run['run_id']}"
        follower = Closing(server.client, "GET", f"{one}/stream?cancel_on_disconnect=1")
        await follower.begun()
        head = Closing(server.client, "HEAD", f"{one}/{path}?cancel_on_disconnect=1")
        await head.begun()
        await head.close()
        await until(lambda: len(server.manager.replica.viewers) == 1)
        await follower.close()
        while (await server.manager.job(run["thread_id"])).status != "aborted":
            await asyncio.sleep(0.01)


async def test_who_waits_is_kept_alive_and_cut_where_the_server_goes(serving: Serving) -> None:
    """Line feeds come until the answer does; an answer that does not come is no end."""
    async with served(serving, stream_options=StreamOptions(heartbeat=0.01)) as server:
        server.app.go.clear()
        path = f"/threads/{await server.thread()}/runs/wait"
        async with server.client.stream("POST", path, json=asking("one")) as response:
            fed = response.aiter_raw()
            said = b""
            while len(said) < 3:
                said += await anext(fed)
            assert said.strip() == b""
            for viewer in list(server.manager.replica.viewers):
                viewer.release()
            with pytest.raises(httpx2.TransportError):
                await anext(piece async for piece in fed if piece.strip())


@pytest.mark.virtual_time
async def test_who_came_last_is_the_one_whose_leaving_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nobody who follows is seen here, as when the others are on another replica."""
    monkeypatch.setattr(responses, "PATIENCE", 0.0)
    app = App()
    app.go.clear()
    async with GenerationManager(options=OPTIONS) as manager:
        door = Door(manager, app.run)
        leaving = responses.Leaving(door)

        async def begin(stream_id: str) -> Job:
            details = StartRequest(stream_id, [{"role": "user", "content": "hi"}], None, None, None, {})
            return await door.start(Identity(), details)

        async def stopped(job: Job, follower: str) -> None:
            leaving.left(job, follower)
            while (await manager.job(job.stream_id)).status != "aborted":
                await asyncio.sleep(0.01)

        job, other = await begin("t"), await begin("u")
        first, last = await leaving.came(job), await leaving.came(job)
        leaving.left(job, first)
        await stopped(other, await leaving.came(other))  # which was due after that
        assert (await manager.job("t")).abort is None
        await stopped(job, last)


@pytest.mark.parametrize("kind", ["join", "stream"])
async def test_a_join_that_is_refused_leaves_nothing(
    serving: Serving, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No viewer where the store is away; and the client before it stays the one whose leaving counts."""
    async with served(serving) as server:
        server.app.go.clear()
        run = await server.start(await server.thread())
        path = f"/threads/{run['thread_id']}/runs/{run['run_id']}/{kind}?cancel_on_disconnect=1"

        async def away(*_: Any, **__: Any) -> Any:
            raise StoreUnavailable("away")

        with monkeypatch.context() as patched:
            patched.setattr(server.manager.store, "update", away)
            assert (await server.client.get(path)).status_code == 503
        assert server.manager.statistics()["viewers"] == 0
        if kind == "stream":
            before = (await server.manager.job(run["thread_id"])).metadata
            assert (await server.client.get(path, headers={"Last-Event-ID": "99"})).status_code == 409
            assert (await server.manager.job(run["thread_id"])).metadata == before


@pytest.mark.virtual_time
@pytest.mark.parametrize("how", ["head", "cancelled"])
async def test_a_wait_that_breaks_off_is_a_leaving(how: str) -> None:
    """Where the head cannot be sent, and where the server cancels the response: no viewer stays."""
    app = App()
    app.go.clear()
    async with GenerationManager(options=OPTIONS) as manager:
        await Door(manager, app.run).start(
            Identity(), StartRequest("t", [{"role": "user", "content": "hi"}], None, None, None, {})
        )
        left, begun = asyncio.Event(), asyncio.Event()

        async def answer() -> Any:
            raise AssertionError("it has not ended")

        async def receive() -> Any:
            await asyncio.Event().wait()

        async def send(_: Any) -> None:
            begun.set()
            if how == "head":
                raise OSError("gone")

        waiting = responses.Waiting(await manager.view("t"), answer, left.set, headers={}, heartbeat=15.0)
        response = asyncio.create_task(waiting({"type": "http"}, receive, send))
        await begun.wait()
        if how == "cancelled":
            response.cancel()
        await asyncio.wait({response})
        assert left.is_set()
        assert manager.statistics()["viewers"] == 0


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
