"""AG-UI: what any run becomes is valid, and who comes back at any record has in the end what all others have."""

from __future__ import annotations

from typing import Any, Final

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.http.ag_ui_client import HISTORY, Client, Json, check, events_of
from unspool.events import Record, encode_data
from unspool.http.dialects.ag_ui.conversation import grow
from unspool.http.dialects.ag_ui.messages import to_chat
from unspool.http.dialects.ag_ui.projection import AgUi, AgUiOld, Opening
from unspool.projection import REQUEST

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


def by_id(messages: list[Json]) -> list[Json]:
    return sorted(messages, key=lambda message: message["id"])


def new(kind: type[AgUi] = AgUi) -> AgUi:
    return kind(stream_id="t", generation=1, created_at=1.0, run_id="run-1")


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
        assert fresh.messages == straight.messages
        for had in (index, index // 2):  # also where more was said while it was away
            kept = Client(HISTORY).feed(events_of(frames[:had])).feed(first).feed(tail)
            reasons = any(message["role"] == "reasoning" for message in kept.messages)
            if reasons and had < index:  # which it may put elsewhere
                assert by_id(kept.messages) == by_id(straight.messages)
            else:
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


def test_a_result_that_came_while_a_client_was_away() -> None:
    """It stands behind its call, before what the client has from another agent."""
    log = [
        ("tool.call", {"call_id": "a", "name": "f", "arguments": {}, "agent": "x"}),
        ("text.delta", {"text": "Else", "agent": "y"}),
        ("tool.result", {"call_id": "a", "output": "A"}),
        ("text.delta", {"text": "where", "agent": "y"}),
        ("completed", {"finish_reason": "stop"}),
    ]
    projection = new()
    records = [ASKED, *(Record(2 + index, name, encode_data(data)) for index, (name, data) in enumerate(log))]
    frames: list[bytes] = []
    firsts: list[bytes] = []
    for record in records:
        frames.append(b"".join(projection.feed(record)))
        firsts.append(projection.resume())
    straight = Client(HISTORY).feed(events_of(frames))
    assert [one["content"] for one in straight.messages if "content" in one] == ["Hello", "A", "Elsewhere"]
    for away in range(1, len(records) + 1):
        for back in range(away, len(records) + 1):
            client = Client(HISTORY).feed(events_of(frames[:away])).feed(events_of(firsts[back - 1]))
            assert client.feed(events_of(frames[back:])).messages == straight.messages


def test_what_stands_is_told_to_who_comes_back() -> None:
    """The last of each kind, and what still waits for a person; of what was only said once nothing."""
    log: list[tuple[str, Json]] = [
        ("source", {"url": "s1"}), ("source", {"url": "s2"}), ("title", {"text": "old"}), ("title", {"text": "new"}),
        ("agent.update", {"agent": "x", "message": 1}), ("agent.update", {"agent": "x", "message": 2}),
        ("tool.auth", {"call_id": "a", "url": "open"}), ("tool.auth", {"call_id": "b", "url": "done"}),
        ("tool.result", {"call_id": "b"}), ("approval.requested", {"action_id": "1"}),
        ("approval.requested", {"action_id": "2"}), ("approval.resolved", {"action_id": "1", "decision": "no"}),
        ("custom", {"name": "progress", "value": 1}),
    ]  # fmt: skip
    projection = new()
    for record in [ASKED, *(Record(2 + index, name, encode_data(data)) for index, (name, data) in enumerate(log))]:
        projection.feed(record)
    told = [(one["name"], one["value"]) for one in events_of(projection.resume()) if one["type"] == "CUSTOM"]
    assert told == [log[index] for index in (0, 1, 3, 5, 6, 10)]


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
