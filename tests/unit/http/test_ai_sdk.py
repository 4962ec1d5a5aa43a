"""The AI SDK's dialect: what its clients are sent for any log, and what its routes answer, to good requests and bad."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx2
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import HTTPConnection

from tests.conftest import Serving
from tests.unit.http.ui_message_checker import Checker, parts_of
from unspool import GenerationManager, Options
from unspool.events import Record
from unspool.http import Identity, StartRequest, create_app
from unspool.http.dialects import ai_sdk
from unspool.http.dialects.ui_message_stream import ASKED, UIMessageStream, run_id
from unspool.producer import Generation
from unspool.projection import REQUEST

OPTIONS = Options(sweep=0.02, poll=0.02, abort_grace=10.0)
Json = dict[str, Any]

# any log

_text = st.text(st.characters(codec="utf-8"), max_size=4) | st.sampled_from(["\r\n", "\n\ndata: x", "🧵"])
_id = st.sampled_from(["1", "2", "3"])
_json = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | _text,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_text, inner, max_size=2),
    max_leaves=4,
)
_marks = st.fixed_dictionaries(
    {}, optional={"agent": st.sampled_from(["x", "y"]), "group": st.sampled_from(["g"]), "step": _id}
)
_arguments = st.sampled_from(['{"a":', "1}", "{}", "[", '"é"', "NaN", "[" * 2000])


def _event(type_: str, /, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, Json]]:
    return st.tuples(
        st.just(type_), st.tuples(st.fixed_dictionaries(fields), _marks).map(lambda two: {**two[1], **two[0]})
    )


_events = st.one_of(
    _event("created", user_message=_json),
    _event("step.started", id=_id),
    _event("step.finished", id=_id),
    _event("text.delta", part_id=_id, text=_text),
    _event("text.delta", text=_text),
    _event("reasoning.delta", part_id=_id, text=_text),
    _event("tool.call", call_id=_id, name=_text),
    _event("tool.call", call_id=_id, name=_text, arguments=_json | _arguments),
    _event("tool.args.delta", call_id=_id, text=_arguments),
    _event("tool.result", call_id=_id, output=_json),
    _event("tool.error", call_id=_id, message=_text),
    _event("tool.auth", call_id=_id, url=_text),
    _event("approval.requested", action_id=_id, call_id=_id),
    _event("approval.requested", action_id=_id, call_id=_json),
    _event("approval.resolved", action_id=_id, decision=st.sampled_from(["approved", "no", "DENIED", "Yes"])),
    _event("steer.queued", id=_id, text=_text),
    _event("steer.applied", id=_id, text=_text),
    _event("agent.update", message=_json).map(lambda one: (one[0], {"agent": "x", **one[1]})),
    _event("file", url=_json | _text, media_type=_json | _text),
    _event("source", url=_json | _text, title=_json | _text, id=_json | _text),
    _event("source", title=_json, media_type=_json),
    _event("title", text=_text),
    _event("usage", call_id=_id, input_tokens=st.integers(0, 9), output_tokens=_json),
    _event("resumed", attempt=st.integers(2, 4)),
    _event("custom", name=_text, value=_json, id=_json | _id, transient=_json),
    _event("my.own", id=_json, anything=_json),
)
_terminals = st.one_of(
    _event("completed", finish_reason=st.sampled_from(["stop", "length", "tool_calls", "content_filter", "odd", ""])),
    _event("failed", code=_id, message=_text, retryable=st.booleans()),
    _event("aborted", by=_id, reason=st.none() | _text),
    _event("replaced", by_generation=st.integers(2, 9)),
)
_calls = st.dictionaries(
    _id, st.fixed_dictionaries({"name": _text, "pieces": st.just(['{"a":1}']), "state": st.just("known")})
)
_requests = st.none() | st.fixed_dictionaries({}, optional={ASKED: st.fixed_dictionaries({"calls": _calls})})


def records_of(log: Sequence[tuple[str, Json]], *, request: Json | None = None) -> list[Record]:
    first = [] if request is None else [Record(1, REQUEST, msgspec.json.encode(request), True)]
    return first + [Record(len(first) + n, kind, msgspec.json.encode(data)) for n, (kind, data) in enumerate(log, 1)]


def begun() -> UIMessageStream:
    return UIMessageStream(stream_id="c", generation=3, created_at=1.0)


def frames_of(log: Sequence[tuple[str, Json]], *, request: Json | None = None) -> list[bytes]:
    stream = begun()
    return [frame for record in records_of(log, request=request) for frame in stream.feed(record)]


def told(*log: tuple[str, Json], request: Json | None = None) -> list[Json]:
    return parts_of(b"".join(frames_of(log, request=request)))


def types(parts: Sequence[Json]) -> list[str]:
    return [part["type"] for part in parts]


@given(log=st.lists(_events, max_size=25), end=st.none() | _terminals, request=_requests)
def test_any_log_is_a_stream_that_clients_take(log: Any, end: Any, request: Any) -> None:
    """Every part is of the schema and comes where a client expects it; no text is lost; the end is said once."""
    whole = [*log, *([end] if end else [])]
    body = b"".join(frames_of(whole, request=request))
    assert body.endswith(b"data: [DONE]\n\n") == (end is not None)
    if not body:
        return
    known = list((request or {}).get(ASKED, {}).get("calls", {}))
    seen = Checker(known).all(parts_of(body))
    assert seen.text == "".join(data["text"] for kind, data in log if kind == "text.delta")
    assert seen.reasoning == "".join(data["text"] for kind, data in log if kind == "reasoning.delta")
    if end is None:
        assert seen.finish is None
    else:
        assert seen.finish is not None
        assert seen.failed == (end[0] == "failed")


@given(log=st.lists(_events, max_size=15), end=_terminals, request=_requests, data=st.data())
def test_a_stream_is_the_same_from_any_state_and_any_index(log: Any, end: Any, request: Any, data: Any) -> None:
    """Through `dump` and `load` after any record, and counted from any part on."""
    records = records_of([*log, end], request=request)
    whole = frames_of([*log, end], request=request)
    cut = data.draw(st.integers(0, len(records)))
    first = begun()
    before = [frame for record in records[:cut] for frame in first.feed(record)]
    second = UIMessageStream.load(first.dump())
    assert second == first
    assert second.count == len(before)
    after = [frame for record in records[cut:] for frame in second.feed(record)]
    assert before + after == whole
    index = data.draw(st.integers(0, len(whole)))
    assert parts_of(b"".join(whole[index:])) == parts_of(b"".join(whole))[index:]


# what an event becomes


def test_parts_have_an_id_once() -> None:
    """Text that goes on after something else is another part: the workflow transport drops what is opened again."""
    parts = told(
        ("text.delta", {"text": "a", "part_id": "p"}), ("reasoning.delta", {"text": "b", "part_id": "p"}),
        ("text.delta", {"text": "c", "part_id": "p"}), ("text.delta", {"text": "", "part_id": "q"}),
    )  # fmt: skip
    assert [part.get("id") for part in parts[1:]] == ["text-1"] * 3 + ["reasoning-2"] * 3 + ["text-3"] * 2


def test_agents_side_by_side_have_parts_of_their_own() -> None:
    """Their parts are open at once, and say whose they are; the end of one's step closes its own."""
    parts = told(
        ("text.delta", {"text": "a", "agent": "x"}), ("text.delta", {"text": "b", "agent": "y", "group": "g"}),
        ("text.delta", {"text": "c", "agent": "x"}), ("step.finished", {"id": "1", "agent": "y"}),
        ("text.delta", {"text": "d", "agent": "x"}),
    )  # fmt: skip
    assert [(part["type"], part.get("id")) for part in parts[1:]] == [
        ("text-start", "text-1"), ("text-delta", "text-1"), ("text-start", "text-2"), ("text-delta", "text-2"),
        ("text-delta", "text-1"), ("text-end", "text-2"), ("finish-step", None), ("text-delta", "text-1"),
    ]  # fmt: skip
    assert parts[3]["providerMetadata"] == {"unspool": {"agent": "y", "group": "g"}}


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ([("tool.call", {"call_id": "1", "name": "t"}), ("tool.args.delta", {"call_id": "1", "text": "{"}),
          ("tool.args.delta", {"call_id": "1", "text": "}"}), ("tool.result", {"call_id": "1", "output": 1})],
         ["input-start", "input-delta", "input-delta", "input-available", "output-available"]),
        ([("tool.call", {"call_id": "1", "name": "t", "arguments": "{"}),
          ("tool.error", {"call_id": "1", "message": "m"})],
         ["input-start", "input-error", "output-error"]),
        ([("tool.call", {"call_id": "1", "name": "t", "arguments": {}}),
          ("approval.requested", {"action_id": "a", "call_id": "1"}),
          ("approval.resolved", {"action_id": "a", "decision": "Approved"}), ("tool.result", {"call_id": "1"})],
         ["input-start", "input-available", "approval-request", "approval-response", "output-available"]),
        ([("tool.call", {"call_id": "1", "name": "t", "arguments": {}}),
          ("approval.requested", {"action_id": "a", "call_id": "1"}),
          ("approval.resolved", {"action_id": "a", "decision": "denied"}),
          ("tool.error", {"call_id": "1", "message": "denied"})],
         ["input-start", "input-available", "approval-request", "approval-response", "output-denied"]),
    ],
)  # fmt: skip
def test_tools(log: list[tuple[str, Json]], expected: list[str]) -> None:
    parts = told(*log)
    assert [part["type"].removeprefix("tool-") for part in parts[1:]] == expected
    Checker().all(parts)


@pytest.mark.parametrize(
    ("end", "expected", "reason"),
    [
        (("completed", {"finish_reason": "tool_calls"}), ["finish"], "tool-calls"),
        (("failed", {"code": "x", "message": "No luck."}), ["message-metadata", "error", "finish"], "error"),
        (("aborted", {"by": "user", "reason": None}), ["abort", "finish"], "other"),
        (("replaced", {"by_generation": 2}), ["abort", "finish"], "other"),
    ],
)
def test_ends(end: tuple[str, Json], expected: list[str], reason: str) -> None:
    """The usage is told with the end; where it failed before that, since a client reads nothing after an error."""
    parts = told(("usage", {"call_id": "m", "input_tokens": 3, "output_tokens": 4}), end)
    assert types(parts) == ["start", *expected]
    assert parts[-1]["finishReason"] == reason
    told_in = next(part for part in parts[1:] if "messageMetadata" in part)["messageMetadata"]
    assert told_in["ended"] == end[0]
    assert told_in["usage"] == {"inputTokens": 3, "outputTokens": 4, "totalTokens": 7}
    assert parts[0]["messageMetadata"] == {"runId": "run:3:c", "generation": 3}


def test_a_message_that_is_gone_on_with() -> None:
    """It keeps its id, and a result of one of its calls comes with the call."""
    calls = {"k": {"name": "t", "pieces": ['{"a":1}'], "state": "known", "dynamic": True}}
    parts = told(
        ("step.started", {"id": "1"}), ("tool.result", {"call_id": "k", "output": 2}), ("step.started", {"id": "2"}),
        request={ASKED: {"message_id": "m7", "calls": calls}},
    )  # fmt: skip
    assert parts[0]["messageId"] == "m7"
    assert types(parts[1:]) == ["tool-input-available", "tool-output-available", "start-step"]
    assert (parts[1]["toolName"], parts[1]["input"], parts[1]["dynamic"]) == ("t", {"a": 1}, True)
    assert told(("text.delta", {"text": "x"}), request={"ag-ui": {"message_id": 5}})[0]["messageId"] == "c/3"


# the routes


class Story:
    """What runs: it says something, and waits where it is told to."""

    def __init__(self, *, endless: bool = False) -> None:
        self.requests: list[StartRequest] = []
        self._endless = endless

    async def __call__(self, gen: Generation, request: StartRequest) -> None:
        self.requests.append(request)
        await gen.text(f"answer {len(self.requests)}")
        if self._endless:
            await gen.snapshot()
            await asyncio.Event().wait()


def body(*ids: str, role: str = "user", **more: Any) -> Json:
    messages = [{"id": one, "role": role, "parts": [{"type": "text", "text": f"say {one}"}]} for one in ids]
    return {"id": "c", "messages": messages, "trigger": "submit-message", **more}


async def text_of(answer: httpx2.Response) -> str:
    assert answer.status_code == 200, answer.text
    return Checker().all(parts_of(answer.content.replace(b": ka\n", b"").replace(b"retry: 1000\n", b""))).text


async def test_a_message_is_one_turn(serving: Serving) -> None:
    """The same id attaches, whatever the race; a regenerate, a changed message and another one start anew."""
    story = Story()
    async with serving(create_app(GenerationManager(options=OPTIONS), run=story)) as client:
        answers = await asyncio.gather(*(client.post("/api/chat", json=body("u1")) for _ in range(8)))
        assert [await text_of(answer) for answer in answers] == ["answer 1"] * 8
        assert len({answer.headers["x-workflow-run-id"] for answer in answers}) == 1
        again = await client.post("/api/chat", json=body("u1", trigger="regenerate-message"))
        assert await text_of(again) == "answer 2"
        changed = await client.post("/api/chat", json=body("u1", messageId="u1"))
        assert await text_of(changed) == "answer 3"
        assert await text_of(await client.post("/api/chat", json=body("u1", "ü" * 300))) == "answer 4"
        assert await text_of(await client.post("/api/chat", json=body("u1", "ü" * 300))) == "answer 4"
        for _ in range(2):
            keyed = await client.post("/api/chat", json=body("u9"), headers={"idempotency-key": "k"})
            assert await text_of(keyed) == "answer 5"
        assert [request.dialect for request in story.requests] == ["ai-sdk"] * 5


async def test_an_answer_is_replayed_for_a_while(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have ended while its reader was away. After that, and where there is nothing, there is nothing to resume;
    who knows what to ask for gets it as long as it is kept."""
    async with serving(create_app(GenerationManager(options=OPTIONS), run=Story())) as client:
        assert (await client.get("/api/chat/c/stream")).status_code == 204
        assert (await client.get("/api/chat/c/stream?startIndex=0")).status_code == 404
        known = (await client.post("/api/chat", json=body("u1"))).headers["x-workflow-run-id"]
        assert await text_of(await client.get("/api/chat/c/stream")) == "answer 1"
        monkeypatch.setattr(ai_sdk, "GRACE", -1.0)
        assert (await client.get("/api/chat/c/stream")).status_code == 204
        for run in ("c", known):
            assert await text_of(await client.get(f"/api/chat/{run}/stream?startIndex=0")) == "answer 1"
        for index, types_ in ((-2, ["text-end", "finish"]), (-9, ["start", "text-start"])):
            tail = await client.get(f"/api/chat/c/stream?startIndex={index}")
            assert tail.headers["x-workflow-stream-tail-index"] == "4"
            assert types(parts_of(tail.content.replace(b": ka\nretry: 1000\n", b"")))[:2] == types_
        for run in (
            "run:1:c",
            "run:1-00000000:c",
            known.replace(":1-", ":2-"),
            "run:2:c",
            "run:x:c",
            "run:1:",
            "run:99999999999999999999:c",
        ):
            assert (await client.get(f"/api/chat/{run}/stream?startIndex=0")).status_code == 404
        for wrong in ("x", "", "-", "--1", "+2", " 3", "1_0", "1e1", "٣", "9" * 20):
            bad = await client.get("/api/chat/c/stream", params={"startIndex": wrong})
            assert (bad.status_code, bad.json()["field"]) == (400, "startIndex"), wrong
        assert (await client.get("/api/chat/c/stream?startIndex=99")).json()["code"] == "invalid_position"


async def test_a_run_of_a_lost_store_is_not_continued(serving: Serving) -> None:
    """A server with an empty store gives the number again, not the id: its run is another, and so is its message."""
    runs: list[str] = []
    messages: list[str] = []
    for _ in range(2):
        async with serving(create_app(GenerationManager(options=OPTIONS), run=Story())) as client:
            answer = await client.post("/api/chat", json=body("u1"))
            runs.append(answer.headers["x-workflow-run-id"])
            messages.append(parts_of(answer.content.replace(b": ka\nretry: 1000\n", b""))[0]["messageId"])
            codes = [(await client.get(f"/api/chat/{run}/stream?startIndex=2")).status_code for run in runs]
            assert codes == [404] * (len(runs) - 1) + [200]
    assert len({*runs}) == len({*messages}) == 2


async def test_stop_is_for_what_the_page_shows(serving: Serving) -> None:
    """A stale `activeStreamId` stops nothing; without one the last run is stopped; again it does no harm."""
    manager = GenerationManager(options=OPTIONS)
    async with serving(create_app(manager, run=Story(endless=True))) as client:
        reading = asyncio.create_task(client.post("/api/chat", json=body("u1")))
        while not (await client.get("/v1/streams/c")).is_success:
            await asyncio.sleep(0)
        stale = await client.post("/api/chat/c/stop", json={"activeStreamId": "run:7:c"})
        assert stale.json() == {"success": True}
        assert not (await manager.job("c")).settled
        stopped = await client.post("/api/chat/c/stop", json={"activeStreamId": run_id(await manager.job("c"))})
        assert stopped.json() == {"success": True}
        assert (await manager.job("c")).status == "aborted"
        parts = parts_of((await reading).content.replace(b": ka\n", b"").replace(b"retry: 1000\n", b""))
        assert types(parts[-2:]) == ["abort", "finish"]
        assert (await client.post("/api/chat/c/stop")).json() == {"success": True}
        assert (await client.post("/api/chat/d/stop")).status_code == 404
        assert (await client.post("/api/chat/c/stop", json={"activeStreamId": 5})).status_code == 422


async def test_anothers_chat_does_not_exist(serving: Serving) -> None:
    """Every route answers as it does for a chat that there is not; nothing is stopped or started."""

    def authenticate(request: HTTPConnection) -> Identity | None:
        user = request.headers.get("x-user")
        return Identity(user) if user else None

    manager = GenerationManager(options=OPTIONS)
    async with serving(create_app(manager, run=Story(endless=True), authenticate=authenticate)) as client:
        assert (await client.post("/api/chat", json=body("u1"))).status_code == 401
        assert (await client.get("/api/chat/c/stream")).status_code == 401
        assert (await client.post("/api/chat/c/stop")).status_code == 401
        async with client.stream("POST", "/api/chat", json=body("u1"), headers={"x-user": "ann"}):
            other, theirs = {"x-user": "bob"}, run_id(await manager.job("c", user="ann"))
            for name in ("c", "nothing"):
                assert (await client.get(f"/api/chat/{name}/stream", headers=other)).status_code == 204
                assert (await client.get(f"/api/chat/{name}/stream?startIndex=0", headers=other)).status_code == 404
                run = theirs.removesuffix("c") + name
                assert (await client.get(f"/api/chat/{run}/stream?startIndex=0", headers=other)).status_code == 404
                assert (await client.post(f"/api/chat/{name}/stop", headers=other)).status_code == 404
            assert (await client.post("/api/chat", json=body("u1"), headers=other)).status_code == 404
            assert not (await manager.job("c", user="ann")).settled
            assert (await manager.counts()).total == 1


@pytest.mark.parametrize(
    ("sent", "status", "mention"),
    [
        ({"messages": []}, 422, "id"),
        ({"id": "", "messages": []}, 422, "id"),
        ({"id": "c", "messages": "x"}, 422, "messages"),
        ({"id": "c", "messages": []}, 400, "messages"),
        ({"id": "c", "messages": [5]}, 422, "messages[0]"),
        ({"id": "c", "messages": [{"role": "king", "parts": []}]}, 422, "role"),
        ({"id": "c", "messages": [{"role": "user"}]}, 422, "parts"),
        ({"id": "c", "messages": [{"role": "user", "parts": ["x"]}]}, 422, "parts"),
        ({"id": "c", "messages": [{"role": "user", "parts": [], "id": 5}]}, 422, "id"),
        (body("u1", trigger="sing"), 422, "trigger"),
        (body("u1", messageId=7), 422, "messageId"),
        (body("u1", metadata={"colour": 1}), 422, "colour"),
        (body("u1", model=[]), 422, "model"),
    ],
)
async def test_a_bad_body_names_its_field(serving: Serving, sent: Json, status: int, mention: str) -> None:
    manager = GenerationManager(options=OPTIONS)
    async with serving(create_app(manager, run=Story())) as client:
        answer = await client.post("/api/chat", json=sent)
        assert answer.status_code == status, answer.text
        assert mention in answer.json()["detail"]
        assert (await manager.counts()).total == 0


async def test_what_the_run_is_asked(serving: Serving) -> None:
    """The conversation in the shape of the chat API: text, files, tools and their results; odd parts do no harm."""
    story = Story()
    tool = {"toolCallId": "k", "input": {"a": 1}}
    sent = {
        "id": "c", "model": "m", "trigger": "submit-message", "extra": 1,
        "messages": [
            {"id": "s", "role": "system", "parts": [
                {"type": "text", "text": "Be brief."}, {"type": "text", "text": 5}]},
            {"id": "u", "role": "user", "parts": [
                {"type": "text", "text": "see"}, {"type": "file", "mediaType": "image/png", "url": "data:x"}]},
            {"id": "a", "role": "assistant", "parts": [
                {"type": "step-start"}, {"type": 5}, {"type": "text", "text": "so"},
                {"type": "tool-level", "state": "output-available", "output": 3, **tool, "toolCallId": "j"},
                {"type": "dynamic-tool", "toolName": "ask", "state": "approval-responded", "approval": 7, **tool}]},
        ],
    }  # fmt: skip
    async with serving(create_app(GenerationManager(options=OPTIONS), run=story)) as client:
        answer = await client.post("/api/chat", json=sent)
        assert b'"messageId":"a"' in answer.content
    assert story.requests[0].model == "m"
    system, user, assistant, *results = story.requests[0].messages
    assert system == {"role": "system", "content": "Be brief."}
    assert user["content"][1] == {"type": "image_url", "image_url": {"url": "data:x"}}
    assert [call["function"]["name"] for call in assistant["tool_calls"]] == ["level", "ask"]
    assert [result["content"] for result in results] == ["3", "The user did not allow this call."]
