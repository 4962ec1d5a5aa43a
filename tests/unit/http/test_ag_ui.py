"""AG-UI: what any run becomes is valid, and who comes back at any record has in the end what all others have."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

import httpx2
import pytest
from ag_ui.core import Event as AgUiEvent
from ag_ui_validate.pytest_plugin import validate_agui
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from starlette.requests import HTTPConnection

from tests.conftest import Serving
from tests.unit.http.ag_ui_client import Client, Json, events_of
from unspool import Generation, GenerationManager, Options
from unspool.events import Record, encode_data
from unspool.http import StartRequest, create_app
from unspool.http.dialects.ag_ui.conversation import grow
from unspool.http.dialects.ag_ui.messages import to_chat
from unspool.http.dialects.ag_ui.projection import AgUi, AgUiOld, Opening
from unspool.projection import REQUEST

PARSE: Final = TypeAdapter[Any](AgUiEvent)
HISTORY: Final[list[Json]] = [{"id": "u1", "role": "user", "content": "Hello"}]
ASKED: Final = Record(
    1, REQUEST, encode_data({"dialect": "ag-ui", "run_id": "run-1", "messages": HISTORY}), internal=True
)

_id = st.sampled_from(["1", "2", "3"])
_text = st.text(max_size=6)
_json = st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | _text, lambda inner: st.lists(inner, max_size=2))
_agent = st.fixed_dictionaries({}, optional={"agent": st.sampled_from(["x", "y"])})


def _event(kind: str, /, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, Json]]:
    return st.tuples(st.just(kind), st.tuples(st.fixed_dictionaries(fields), _agent).map(lambda two: two[1] | two[0]))


_events = st.one_of(
    _event("text.delta", part_id=_id, text=_text),
    _event("text.delta", part_id=st.just("1"), text=_text),
    _event("reasoning.delta", part_id=_id, text=_text),
    _event("tool.call", call_id=_id, name=_text),
    _event("tool.call", call_id=_id, name=_text, arguments=_json),
    _event("tool.args.delta", call_id=_id, text=st.sampled_from(['{"a":', "1}", "[]", "", " "])),
    _event("tool.result", call_id=_id, output=_json),
    _event("tool.error", call_id=_id, message=_text),
    _event("tool.auth", call_id=_id, url=_text),
    _event("step.started", id=_id, name=_text),
    _event("step.finished", id=_id),
    _event("approval.requested", action_id=_id, what=_json),
    _event("approval.requested", action_id=_id, call_id=_id),
    _event("approval.resolved", action_id=_id, decision=_text),
    _event("steer.queued", id=_id, text=_text),
    _event("steer.applied", id=_id, text=_text),
    _event("agent.update", agent=_id, message=_text),
    _event("file", url=_text),
    _event("source", url=_text, title=_text),
    _event("title", text=_text),
    _event("usage", call_id=_id, model=_text, input_tokens=st.integers(-1, 9), output_tokens=st.integers(0, 9)),
    _event("custom", name=_text, value=_json),
    _event("my.own", anything=_json),
    _event("resumed", attempt=st.integers(2, 3)),
    _event("created", user_message=_json),
)
_ends = st.one_of(
    _event("completed", finish_reason=st.just("stop")),
    _event("completed", finish_reason=st.just("stop"), message=st.just({"role": "assistant"})),
    _event("failed", code=_text, message=_text, retryable=st.booleans()),
    _event("aborted", by=_text, reason=st.none() | _text),
    _event("replaced", by_generation=st.integers(2, 9)),
)
_logs = st.builds(
    lambda body, end: [
        ASKED,
        *(Record(2 + index, kind, encode_data(data)) for index, (kind, data) in enumerate([*body, end])),
    ],
    st.lists(_events, max_size=24),
    _ends,
)


def new(kind: type[AgUi] = AgUi) -> AgUi:
    return kind(stream_id="t", generation=1, created_at=1.0, run_id="run-1")


def check(events: list[Json]) -> None:
    """Valid, apart from arguments that the run itself said wrong, or not to their end."""
    for event in events:
        PARSE.validate_python(event)
    report = validate_agui(events)
    wrong = [one for one in report.diagnostics if one.severity == "error" and one.rule != "AGUI204"]
    assert not wrong, wrong
    said: dict[str, str] = {}
    for event in events:
        if event["type"] == "TOOL_CALL_ARGS":
            said[event["toolCallId"]] = said.get(event["toolCallId"], "") + event["delta"]
    if all(_whole(text) for text in said.values()):
        assert report.summary.errors == 0, report.diagnostics
    assert all(event["delta"] for event in events if "delta" in event)


def _whole(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


@given(_logs, st.sampled_from([AgUi, AgUiOld]))
def test_every_run_becomes_valid_events(log: list[Record], kind: type[AgUi]) -> None:
    """In one go, and for whoever comes back at any record, with a state that went through a checkpoint."""
    projection, straight = new(kind), Client(HISTORY)
    states = [projection.dump()]
    frames: list[bytes] = []
    for record in log:
        frames.append(b"".join(projection.feed(record)))
        states.append(projection.dump())
    straight.feed(events_of(frames))
    check(straight.log)
    assert straight.log[0]["runId"] == "run-1"
    for index in range(1, len(log) + 1):
        resumed = kind.load(states[index])
        first = events_of(resumed.resume())
        tail = events_of(b"".join(resumed.feed(record)) for record in log[index:])
        assert tail == events_of(frames[index:])
        fresh = Client().feed(first).feed(tail)
        check(fresh.log)
        kept = Client(HISTORY).feed(events_of(frames[:index])).feed(first).feed(tail)
        assert fresh.messages == straight.messages
        assert kept.messages == straight.messages
        assert fresh.log[-1] == straight.log[-1]


@given(_logs)
def test_one_who_comes_before_the_run_has_begun(log: list[Record]) -> None:
    """The messages follow on the first event, whatever that is."""
    projection = Opening.load(new().dump())
    events = events_of(b"".join(projection.feed(record)) for record in log)
    check(events)
    assert [event["type"] for event in events[:2]] == ["RUN_STARTED", "MESSAGES_SNAPSHOT"]
    straight = Client(HISTORY).feed(events_of(b"".join(new_fed(log))))
    assert Client().feed(events).messages == straight.messages


def new_fed(log: list[Record]) -> list[bytes]:
    projection = new()
    return [b"".join(projection.feed(record)) for record in log]


def test_a_copy_shares_the_texts_and_goes_its_own_way() -> None:
    """Thousands may come back to one answer; each has a state of its own."""
    one = new()
    one.feed(ASKED)
    one.feed(Record(2, "text.delta", encode_data({"text": "x" * 5000})))
    other = one.copy()
    assert other.dump() == one.dump()
    message = one.content.order[0]
    assert other.content.said[message].text[0] is one.content.said[message].text[0]
    other.feed(Record(3, "text.delta", encode_data({"text": "y"})))
    assert other.dump() != one.dump()


@given(st.lists(st.text(min_size=1, max_size=40), max_size=200))
def test_a_text_that_grows_is_in_few_pieces(texts: list[str]) -> None:
    """As many as its length has binary digits, and joined they are the text."""
    pieces: list[str] = []
    for text in texts:
        grow(pieces, text)
    assert "".join(pieces) == "".join(texts)
    assert len(pieces) <= 2 * len("".join(texts)).bit_length()


def ended(kind: type[AgUi], *log: tuple[str, Json]) -> Json:
    projection = new(kind)
    records = [ASKED, *(Record(2 + index, name, encode_data(data)) for index, (name, data) in enumerate(log))]
    return events_of(b"".join(projection.feed(record)) for record in records)[-1]


def test_how_a_run_ends_for_new_clients_and_for_old_ones() -> None:
    """Those before 1.0 refuse `cancelled`; a run that ends with an open question is interrupted for all."""
    base = {"type": "RUN_FINISHED", "threadId": "t", "runId": "run-1"}
    aborted = ("aborted", {"by": "user", "reason": None})
    assert ended(AgUi, aborted) == base | {"outcome": {"type": "cancelled"}}
    assert ended(AgUiOld, aborted) == base
    used = ("usage", {"call_id": "m", "provider": "p", "model": "m", "input_tokens": 3, "output_tokens": 4})
    usage = [{"provider": "p", "model": "m", "inputTokens": 3, "outputTokens": 4, "totalTokens": 7}]
    done = ("completed", {"finish_reason": "stop"})
    assert ended(AgUi, used, done) == base | {"outcome": {"type": "success"}, "usage": usage}
    assert ended(AgUiOld, used, done) == base
    failed = ("failed", {"code": "c", "message": "m", "retryable": False})
    assert ended(AgUi, used, failed) == {"type": "RUN_ERROR", "code": "c", "message": "m", "usage": usage}
    assert ended(AgUiOld, used, failed) == {"type": "RUN_ERROR", "code": "c", "message": "m"}
    call = ("tool.call", {"call_id": "c1", "name": "ask", "arguments": {}})
    assert ended(AgUi, call, done)["outcome"] == {"type": "success", "pendingToolCallIds": ["c1"]}
    asked = ("approval.requested", {"action_id": "a", "what": "Delete it?", "call_id": "c1"})
    for kind in (AgUi, AgUiOld):
        outcome = ended(kind, call, asked, done)["outcome"]
        assert outcome["type"] == "interrupt"
        (interrupt,) = outcome["interrupts"]
        assert (interrupt["id"], interrupt["message"], interrupt["toolCallId"]) == ("a", "Delete it?", "c1")
    answered = ("approval.resolved", {"action_id": "a", "decision": "approve"})
    assert ended(AgUi, call, asked, answered, done)["outcome"]["type"] == "success"


def test_which_message_a_tool_call_belongs_to() -> None:
    """The agent's last text, and what was called beside it; after a result it is a turn of its own."""
    calls = [("tool.call", {"call_id": call, "name": "f", "arguments": {}}) for call in "abcd"]
    results = [("tool.result", {"call_id": call, "output": call}) for call in "abcd"]
    others = ("text.delta", {"text": "Elsewhere", "agent": "x"})
    log = [
        ("text.delta", {"text": "Look"}), others, *calls[:2], *results[:2], *calls[2:], *results[2:],
        ("text.delta", {"text": "Done"}), ("completed", {"finish_reason": "stop"}),
    ]  # fmt: skip
    projection = new()
    records = [ASKED, *(Record(2 + index, name, encode_data(data)) for index, (name, data) in enumerate(log))]
    events = events_of(b"".join(projection.feed(record)) for record in records)
    check(events)
    messages = Client().feed(events).messages
    assert [
        (one["role"], one.get("content"), [call["id"] for call in one.get("toolCalls", ())]) for one in messages
    ] == [
        ("assistant", "Look", ["a", "b"]),
        ("tool", "a", []),
        ("tool", "b", []),
        ("assistant", "Elsewhere", []),
        ("assistant", None, ["c", "d"]),
        ("tool", "c", []),
        ("tool", "d", []),
        ("assistant", "Done", []),
    ]
    assert messages[3]["name"] == "x"
    assert [one["role"] for one in to_chat(messages)] == [one["role"] for one in messages]


def test_messages_become_what_a_model_is_told() -> None:
    """Results stand behind their calls, media keep their sources, and reasoning stays with the client."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    image = {"type": "image", "source": {"type": "url", "value": "https://e.org/i.png"}}
    legacy = {"type": "binary", "mimeType": "application/pdf", "data": "AA==", "filename": "a.pdf"}
    chat = to_chat(
        [
            {"id": "0", "role": "system", "content": "Be kind."},
            {"id": "1", "role": "user", "content": [{"type": "text", "text": "Look"}, image, legacy]},
            {"id": "2", "role": "reasoning", "content": "hm"},
            {"id": "3", "role": "assistant", "toolCalls": [call, {**call, "id": "d"}]},
            {"id": "4", "role": "assistant", "content": "So"},
            {"id": "5", "role": "tool", "toolCallId": "c", "content": "42"},
            {"id": "6", "role": "activity", "activityType": "x", "content": {}},
            {"id": "7", "role": "tool", "toolCallId": "elsewhere", "content": "43"},
        ]
    )
    assert chat == [
        {"role": "system", "content": "Be kind."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Look"},
                {"type": "image_url", "image_url": {"url": "https://e.org/i.png"}},
                {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA==", "filename": "a.pdf"}},
            ],
        },
        {"role": "assistant", "content": None, "tool_calls": [call, {**call, "id": "d"}]},
        {"role": "tool", "tool_call_id": "c", "content": "42"},
        {"role": "tool", "tool_call_id": "d", "content": "There is no result."},
        {"role": "assistant", "content": "So"},
        {"role": "tool", "tool_call_id": "elsewhere", "content": "43"},
    ]


# the routes


async def test_a_thread_whose_beginning_was_trimmed(serving: Serving) -> None:
    """The checkpoint has what is needed, for clients of either version."""

    async def run(gen: Generation, _: StartRequest) -> None:
        for number in range(200):
            await gen.text(f"{number} ", part_id=str(number // 50))
            await gen.snapshot()  # a record of its own

    manager = GenerationManager(options=Options(window=8, log_records=60, checkpoint_every=20))
    async with serving(create_app(manager, run=run, dialects=["ag-ui"])) as client:
        page = Client(HISTORY).feed(await post(client, "/ag-ui", body("r1")))
        assert (await manager.job("t 1/x")).first_offset > 60
        for more in ({}, {"protocolVersion": "1.0"}):
            events = await post(client, "/ag-ui/connect", body("c", **more))
            check(events)
            assert Client().feed(events).messages == page.messages
        assert page.text == "".join(f"{number} " for number in range(200))


def who(request: HTTPConnection) -> str | None:
    return request.headers.get("x-user", "ann")


def body(run_id: str, *messages: Json, thread: str = "t 1/x", **more: Any) -> Json:
    return {"threadId": thread, "runId": run_id, "messages": [*HISTORY, *messages], **more}


async def post(client: httpx2.AsyncClient, path: str, content: Json, user: str = "ann") -> list[Json]:
    answer = await client.post(path, json=content, headers={"x-user": user})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    return events_of(answer.content)


class Talk:
    """A run that says what it is told to, and waits in the middle for `go`."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.begun = asyncio.Event()
        self.requests: list[StartRequest] = []

    async def run(self, gen: Generation, request: StartRequest) -> None:
        self.requests.append(request)
        await gen.text("one ")
        await gen.snapshot()
        self.begun.set()
        await self.go.wait()
        await gen.text("two")


@pytest.fixture
def talk() -> Talk:
    return Talk()


def app(talk: Talk) -> Any:
    manager = GenerationManager(options=Options(sweep=0.02, poll=0.02, abort_grace=0.2))
    return create_app(manager, run=talk.run, dialects=["ag-ui"], authenticate=who)


async def test_a_run_and_who_comes_back_to_it(serving: Serving, talk: Talk) -> None:
    """The same runId is the same run; parameters reach the application; another's thread does not exist."""
    async with serving(app(talk)) as client:
        asked = body("r1", protocolVersion="1.0", tools=[{"name": "f"}], forwardedProps={"model": "m"}, state={"a": 1})
        first = asyncio.create_task(post(client, "/ag-ui", asked))
        await talk.begun.wait()
        again = asyncio.create_task(post(client, "/ag-ui", asked))
        connected = asyncio.create_task(post(client, "/ag-ui/connect", {"threadId": "t 1/x"}))
        for path, content in (("/ag-ui/connect", {"threadId": "t 1/x"}), ("/ag-ui/stop", {"threadId": "t 1/x"})):
            refused = await client.post(path, json=content, headers={"x-user": "eve"})
            assert (refused.status_code, refused.json()["code"]) == (404, "not_found")
        await asyncio.sleep(0)
        talk.go.set()
        straight = await first
        for events in (straight, await again, await connected, await post(client, "/ag-ui", asked)):
            check(events)
            assert Client(HISTORY).feed(events).text == "one two"
        assert Client().feed(await connected).messages == Client(HISTORY).feed(straight).messages
        assert straight[-1]["outcome"] == {"type": "success"}
        assert "outcome" not in (await connected)[-1]
        (request,) = talk.requests
        assert (request.stream_id, request.model, request.dialect) == ("t 1/x", "m", "ag-ui")
        assert request.messages == [{"role": "user", "content": "Hello"}]
        assert request.parameters["tools"] == [{"name": "f"}]
        assert request.parameters["state"] == {"a": 1}


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        ({"messages": []}, 422, "threadId"),
        ({"threadId": "t", "runId": "r", "messages": [{"role": "wizard"}]}, 422, "messages[0]"),
        ({"threadId": "t", "messages": [{"role": "user", "content": [{"type": "image"}]}]}, 422, "messages[0]"),
        ({"threadId": "t", "messages": [{"role": "user", "content": 7}]}, 422, "messages[0]"),
        ({"threadId": "", "messages": []}, 422, "stream_id"),
        ({"threadId": "t", "runId": "ü", "messages": []}, 422, "request_id"),
    ],
)
async def test_what_cannot_be_run_is_refused(
    serving: Serving, talk: Talk, content: Json, status: int, said: str
) -> None:
    """By the name of the field; nothing is started."""
    async with serving(app(talk)) as client:
        for path in ("/ag-ui", "/copilotkit/agent/default/run"):
            answer = await client.post(path, json=content)
            assert (answer.status_code, said in answer.text) == (status, True), answer.text
        answer = await client.post("/copilotkit", json={"method": "agent/run", "body": content})
        assert answer.status_code == status
    assert talk.requests == []


async def test_a_generation_that_was_started_in_another_way(serving: Serving) -> None:
    """It is a run like any other: named after its generation, with the user's message as the application told it."""

    async def run(gen: Generation, request: StartRequest) -> None:
        await gen.emit("created", {"user_message": {"id": "m1", "text": request.messages[-1]["content"]}})
        await gen.text("one")

    async with serving(create_app(GenerationManager(), run=run, dialects=["ag-ui"])) as client:
        answer = await client.post("/v1/streams/t/generations", json={"messages": [{"role": "user", "content": "hi"}]})
        assert answer.status_code == 201
        live = await post(client, "/ag-ui/connect", {"threadId": "t"})
        after = await post(client, "/ag-ui/connect", {"threadId": "t"})
        for events in (live, after):
            check(events)
            assert events[0]["runId"] == "t/1"
            assert events[-1]["type"] == "RUN_FINISHED"
        messages = Client().feed(after).messages
        assert [(one["id"], one["role"], one["content"]) for one in messages] == [
            ("m1", "user", "hi"),
            ("t/1/1", "assistant", "one"),
        ]


async def test_stop_is_answered_after_the_seal_and_means_one_run(serving: Serving, talk: Talk) -> None:
    """A Stop for another run stops nothing; a second Stop says the same as the first left behind."""
    async with serving(app(talk)) as client:
        first = asyncio.create_task(post(client, "/ag-ui", body("r1", protocolVersion="1.0")))
        await talk.begun.wait()
        answer = await client.post("/ag-ui/stop", json={"threadId": "t 1/x", "runId": "r0"})
        assert answer.json() == {"stopped": False, "threadId": "t 1/x", "runId": "r1", "status": "running"}
        answer = await client.post("/ag-ui/stop", json={"threadId": "t 1/x", "runId": "r1"})
        assert answer.json() == {"stopped": True, "threadId": "t 1/x", "runId": "r1", "status": "aborted"}
        answer = await client.post("/ag-ui/stop", json={"threadId": "t 1/x"})
        assert answer.json() == {"stopped": False, "threadId": "t 1/x", "runId": "r1", "status": "aborted"}
        events = await first
        check(events)
        assert events[-1]["outcome"] == {"type": "cancelled"}


async def test_copilotkit_replays_a_whole_thread(serving: Serving, talk: Talk) -> None:
    """Every kept run, in order, then the live one; the same through the single route; nothing of another's."""
    async with serving(app(talk)) as client:
        info = (await client.get("/copilotkit/info")).json()
        assert info["mode"] == "sse"
        assert info["agents"]["default"]["capabilities"]["transport"]["resumable"] is True
        assert (await client.post("/copilotkit", json={"method": "info"})).json() == info
        empty = await client.post("/copilotkit/agent/default/connect", json=body("c"))
        assert (empty.status_code, events_of(empty.content)) == (200, [])
        assert empty.content
        talk.go.set()
        page = Client(HISTORY).feed(await post(client, "/copilotkit/agent/default/run", body("r1")))
        talk.go.clear()
        talk.begun.clear()
        page.messages.append({"id": "u2", "role": "user", "content": "And?"})
        asked = body("r2")
        asked["messages"] = page.messages
        envelope = {"method": "agent/run", "params": {"agentId": "other"}, "body": asked}
        second = asyncio.create_task(post(client, "/copilotkit", envelope))
        await talk.begun.wait()
        connected = asyncio.create_task(post(client, "/copilotkit/agent/default/connect", body("c")))
        single = asyncio.create_task(post(client, "/copilotkit", {"method": "agent/connect", "body": body("c")}))
        assert await post(client, "/copilotkit/agent/default/connect", body("c"), user="eve") == []
        path = "/copilotkit/agent/default/stop/t%201%2Fx"
        eve = await client.post(path, headers={"x-user": "eve"})
        assert eve.json() == {"stopped": False, "threadId": "t 1/x"}
        talk.go.set()
        page.feed(await second)
        for events in (
            await connected,
            await single,
            await post(client, "/copilotkit/agent/default/connect", body("c")),
        ):
            check(events)
            assert [one["runId"] for one in events if one["type"] == "RUN_STARTED"] == ["r1", "r2"]
            assert Client().feed(events).messages == page.messages
            assert Client(page.messages).feed(events).messages == page.messages
        assert page.text == "one twoone two"
        assert talk.requests[1].parameters["agent"] == "other"
        assert (await client.post(path)).json()["stopped"] is False
        bad = await client.post("/copilotkit", json={"method": "agent/eat"})
        assert bad.status_code == 400
