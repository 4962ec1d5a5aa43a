"""OpenAI's Responses API as a projection: whatever a run does, valid events, numbered densely, the same at every
position, which make the response that the server tells at the end."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import omit
from openai._models import construct_type
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import ResponseStreamEvent
from openresponses_types import types as spec
from pydantic import TypeAdapter

from unspool.errors import BadRequest
from unspool.events import Record
from unspool.http.dialects.responses.inputs import chat_tools, items_of, to_chat
from unspool.http.dialects.responses.projection import Responses
from unspool.http.dialects.responses.resource import echo
from unspool.sse import Decoder

Json = dict[str, Any]

EVENTS = {
    model.model_fields["type"].annotation(next(iter(model.model_fields["type"].annotation))).value: model
    for name, model in vars(spec).items()
    if name.endswith("StreamingEvent") and "sequence_number" in model.model_fields
}
SDK = TypeAdapter[Any](ResponseStreamEvent)
BODY: Json = {
    "model": "m",
    "input": "What does the river say?",
    "instructions": "Be brief.",
    "metadata": {"a": "b"},
    "temperature": 0.5,
    "tools": [{"type": "function", "name": "level", "parameters": {"type": "object"}}],
    "reasoning": {"effort": "low"},
    "conversation": "conv_1",
    "background": True,
    "max_output_tokens": 50,
}
ASKED = ("request", {"responses": {"echo": echo(BODY), "input": items_of(BODY["input"]), "previous": None}})

agents = st.sampled_from([None, "one", "two"])
words = st.text(st.characters(codec="utf-8"), max_size=8)
names = st.sampled_from(["a", "b", "c"])


def marked(agent: str | None, **data: Any) -> Json:
    return data if agent is None else {**data, "agent": agent}


def with_agent(kind: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, Json]]:
    return st.tuples(st.just(kind), st.builds(marked, agents, **fields))


steps = st.one_of(
    with_agent("text.delta", text=words, part_id=names),
    with_agent("reasoning.delta", text=words, part_id=names),
    with_agent("tool.call", call_id=names, name=names),
    with_agent("tool.call", call_id=names, name=names, arguments=st.sampled_from(["{}", {"x": 1}, [], '{"y":']))
    | with_agent("tool.args.delta", call_id=names, text=st.sampled_from(["{", '"y":', "1}"])),
    with_agent("tool.result", call_id=names, output=st.sampled_from(["fine", {"level": 3}, None])),
    with_agent("tool.error", call_id=names, message=words),
    with_agent("source", url=st.just("https://example.org/"), title=st.sampled_from([None, "", "River"])),
    with_agent("source", title=st.just("a document without an address")),
    with_agent("step.started", id=names) | with_agent("step.finished", id=names),
    with_agent("agent.update", message=words),
    with_agent("approval.requested", action_id=names) | with_agent("tool.auth", call_id=names, url=words),
    with_agent("usage", call_id=names, model=names, input_tokens=st.integers(0, 9), reasoning_tokens=st.integers(0, 2)),
    st.just(("created", {"model": "m2"})),
    st.just(("application.own", {"x": [1, 2]})),
)
ends = st.sampled_from(
    [
        ("completed", {"finish_reason": "stop"}),
        ("completed", {"finish_reason": "tool_calls"}),
        ("completed", {"finish_reason": "length"}),
        ("completed", {"finish_reason": "content_filter"}),
        ("failed", {"code": "rate_limited", "message": "no", "retryable": True}),
        ("failed", {"code": "owner_lost", "message": "gone", "retryable": True}),
        ("aborted", {"by": "user", "reason": None}),
        ("replaced", {"by": 2}),
    ]
)
logs = st.builds(
    lambda asked, middle, end: [*([ASKED] if asked else []), *middle, end],
    st.booleans(), st.lists(steps, max_size=40), ends,
)  # fmt: skip


def records(log: Sequence[tuple[str, Json]]) -> list[Record]:
    return [
        Record(offset, kind, json.dumps(data, ensure_ascii=False).encode(), kind == "request")
        for offset, (kind, data) in enumerate(log, 1)
    ]


def begin() -> Responses:
    return Responses(stream_id="resp_1", generation=1, created_at=1_700_000_000.5)


def frames_of(log: Sequence[Record], projection: Responses | None = None) -> list[bytes]:
    projection = begin() if projection is None else projection
    return [frame for record in log for frame in projection.feed(record)]


def decoded(frames: Sequence[bytes]) -> list[Json]:
    messages = Decoder().feed(b"".join(frames))
    assert messages[-1].data == "[DONE]"
    told = [json.loads(message.data) for message in messages[:-1]]
    assert [message.event for message in messages[:-1]] == [event["type"] for event in told]
    return told


@given(logs)
def test_every_event_is_what_the_specification_says(log: list[tuple[str, Json]]) -> None:
    """Types, fields and the response in them, numbered from 0; and so say the client's own types."""
    told = decoded(frames_of(records(log)))
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    for event in told:
        EVENTS[event["type"]].model_validate(event)
        if event["type"] == "response.failed":  # the client lists OpenAI's own codes, and takes others all the same
            event["response"]["error"]["code"] = "server_error"
        assert SDK.validate_python(event).type == event["type"]
    assert [event["type"] for event in told[:2]] == ["response.created", "response.in_progress"]
    assert told[-1]["type"] in ("response.completed", "response.failed", "response.incomplete")


@given(logs)
def test_the_strict_helper_takes_it(log: list[tuple[str, Json]]) -> None:
    """Every item is added before its content and done before the end, each with an index and an identity of its own."""
    state = ResponseStreamState[Any](input_tools=omit, text_format=omit)
    told = decoded(frames_of(records(log)))
    for event in told:
        assert state.handle_event(cast(Any, construct_type(type_=ResponseStreamEvent, value=event)))
    added = [event["output_index"] for event in told if event["type"] == "response.output_item.added"]
    done = [event["output_index"] for event in told if event["type"] == "response.output_item.done"]
    assert added == list(range(len(added)))
    assert sorted(done) == added


@given(logs, st.data())
def test_every_position_has_the_same_frames(log: list[tuple[str, Json]], data: st.DataObject) -> None:
    """What was dumped after any record and loaded elsewhere goes on with the same bytes, and to the same state."""
    fed = records(log)
    whole, known = begin(), []
    for record in fed:
        known.append((whole.count, whole.dump()))
        whole.feed(record)
    frames = frames_of(fed)
    at = data.draw(st.integers(0, len(fed) - 1))
    count, state = known[at]
    again = Responses.load(state)
    assert (again.dump(), again.count) == (state, count)
    assert frames_of(fed[at:], again) == frames[count:]
    assert again.resource() == whole.resource()
    assert again.dump() == whole.dump()


@given(logs)
def test_the_response_is_what_was_streamed(log: list[tuple[str, Json]]) -> None:
    """The resource at the end is in the last event, and is what the deltas and the items add up to."""
    whole = begin()
    told = decoded(frames_of(records(log), whole))
    resource = msgspec.to_builtins(whole.resource())
    spec.ResponseResource.model_validate(resource)
    assert told[-1]["response"] == json.loads(json.dumps(resource))
    items: dict[int, Json] = {}
    grown: dict[int, str] = {}
    for event in told:
        index: int = event.get("output_index", -1)
        if event["type"] == "response.output_item.done":
            items[index] = event["item"]
        elif event["type"].endswith(".delta"):
            grown[index] = grown.get(index, "") + event["delta"]
        elif event["type"] == "response.output_text.done":
            assert event["text"] == grown.get(index, "")
    assert resource["output"] == [items[index] for index in sorted(items)]
    for index, item in items.items():
        if item["type"] == "message":
            assert [part["text"] for part in item["content"]] == [grown.get(index, "")]
        if item["type"] == "reasoning":
            assert [part["text"] for part in item["summary"]] == [grown.get(index, "")]
    said: dict[str, str] = {}
    for kind, data in log:
        if kind == "text.delta":
            said[data.get("agent") or ""] = said.get(data.get("agent") or "", "") + data["text"]
    shown: dict[str, str] = {}
    for item in resource["output"]:
        if item["type"] == "message":
            agent = item.get("agent") or ""
            shown[agent] = shown.get(agent, "") + item["content"][0]["text"]
    assert {agent: text for agent, text in shown.items() if text} == {k: v for k, v in said.items() if v}


def ended(*log: tuple[str, Json]) -> Json:
    whole = begin()
    frames_of(records(log), whole)
    return whole.resource()


def test_how_each_end_is_told() -> None:
    """A limit and a filter leave it incomplete, a stop cancels it, a failure says why."""
    text = ("text.delta", {"text": "a"})
    limit = ended(ASKED, text, ("completed", {"finish_reason": "length"}))
    assert (limit["status"], limit["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    stopped = ended(ASKED, text, ("aborted", {"by": "user"}))
    assert (stopped["status"], stopped["incomplete_details"]) == ("cancelled", None)
    assert stopped["output"][0]["status"] == "incomplete"
    failed = ended(ASKED, ("failed", {"code": "rate_limited", "message": "no"}))
    assert failed["error"] == {"code": "rate_limit_exceeded", "message": "no"}
    assert begin().resource()["status"] == "queued"


def test_what_a_request_said_is_echoed() -> None:
    """Its fields stand in the response; usage is summed over its calls, inclusive."""
    usage: Json = {
        "call_id": "m",
        "input_tokens": 10,
        "cache_read_tokens": 4,
        "output_tokens": 5,
        "reasoning_tokens": 2,
    }
    found = ended(
        ASKED, ("usage", usage), ("usage", {**usage, "call_id": "n"}), ("completed", {"finish_reason": "stop"})
    )
    assert {name: found[name] for name in ("model", "instructions", "metadata", "temperature")} == {
        "model": "m", "instructions": "Be brief.", "metadata": {"a": "b"}, "temperature": 0.5,
    }  # fmt: skip
    assert found["usage"] == {
        "input_tokens": 20, "input_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 0},
        "output_tokens": 10, "output_tokens_details": {"reasoning_tokens": 4}, "total_tokens": 30,
    }  # fmt: skip
    assert found["conversation"] == {"id": "conv_1"}


def test_agents_in_parallel_have_items_of_their_own() -> None:
    """Their deltas alternate, and each goes on with its own item; a part that is taken up again is a new one."""
    found = ended(
        *[("text.delta", {"text": word, "part_id": agent, "agent": agent}) for word in "abc" for agent in ("x", "y")],
        ("reasoning.delta", {"text": "hm", "agent": "x"}),
        ("text.delta", {"text": "d", "part_id": "x", "agent": "x"}),
        ("completed", {"finish_reason": "stop"}),
    )
    assert [(item["type"], item["agent"]) for item in found["output"]] == [
        ("message", "x"), ("message", "y"), ("reasoning", "x"), ("message", "x"),
    ]  # fmt: skip
    assert [item["content"][0]["text"] for item in found["output"] if item["type"] == "message"] == ["abc", "abc", "d"]


def test_a_long_answer_costs_what_it_says() -> None:
    """No delta carries or copies what came before it."""
    whole = begin()
    sizes = [sum(map(len, whole.feed(record))) for record in records([("text.delta", {"text": "word "})] * 5000)]
    assert max(sizes[1:]) - min(sizes[1:]) < 10


# What is asked


def test_input_becomes_a_conversation() -> None:
    """Messages with text, images and files; calls with their outputs right after them; reasoning is left out."""
    items = items_of(
        [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [
                {"type": "input_text", "text": "Look: "},
                {"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "low"},
                {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA"},
            ]},
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
            {"type": "function_call", "call_id": "a", "name": "level", "arguments": "{}"},
            {"type": "function_call", "call_id": "b", "name": "level", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "b", "output": "2"},
            {"type": "function_call_output", "call_id": "a", "output": [{"type": "input_text", "text": "1"}]},
            {"type": "function_call_output", "call_id": "z", "output": "9"},
            {"role": "user", "content": "And?"},
        ]
    )  # fmt: skip
    call = {"type": "function", "function": {"name": "level", "arguments": "{}"}}
    assert to_chat(items) == [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [
            {"type": "text", "text": "Look: "},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "low"}},
            {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA", "filename": "a.pdf"}},
        ]},
        {"role": "assistant", "content": "I look.", "tool_calls": [{"id": "a", **call}, {"id": "b", **call}]},
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "tool", "tool_call_id": "b", "content": "2"},
        {"role": "tool", "tool_call_id": "z", "content": "9"},
        {"role": "user", "content": "And?"},
    ]  # fmt: skip
    assert chat_tools(BODY["tools"]) == [
        {"type": "function", "function": {"name": "level", "parameters": {"type": "object"}}}
    ]


def test_an_output_is_that_of_its_own_call() -> None:
    """Also where the ids of calls come again in every turn, as those of some models do, or one had no answer."""
    turns = [
        {"type": "function_call", "call_id": "call_0", "name": "level", "arguments": "{}"},
        {"role": "user", "content": "Never mind."},
        {"type": "function_call", "call_id": "call_0", "name": "level", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_0", "output": "1"},
        {"type": "function_call", "call_id": "call_0", "name": "level", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_0", "output": "2"},
    ]
    told = [(message["role"], message.get("content")) for message in to_chat(items_of(turns))]
    assert told == [
        ("assistant", None), ("user", "Never mind."),
        ("assistant", None), ("tool", "1"), ("assistant", None), ("tool", "2"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("item", "field"),
    [
        ({"role": "wizard", "content": ""}, "input[0].role"),
        ({"role": "user", "content": 5}, "input[0].content"),
        ({"role": "user", "content": ["x"]}, "input[0].content[0]"),
        ({"role": "user", "content": [{"type": "input_image"}]}, "input[0].content[0]"),
        ({"type": "function_call", "call_id": "a", "name": "b"}, "input[0].arguments"),
        ({"type": "function_call_output", "call_id": "a", "output": 7}, "input[0].output"),
        ({"type": "item_reference", "id": "x"}, "input[0]"),
        ({}, "input[0]"),
    ],
)
def test_input_that_is_wrong_is_named(item: Json, field: str) -> None:
    """The error says which item, and which field of it."""
    with pytest.raises(BadRequest) as error:
        items_of([item])
    assert error.value.details["field"] == field


scraps = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | words
    | st.sampled_from(["message", "user", "input_text", "input_image"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "role", "text", "image_url", "call_id", "name"]), inner, max_size=3)
    ),
    max_leaves=6,
)
fields = ["type", "role", "content", "call_id", "name", "arguments", "output", "status"]
known = st.sampled_from(["message", "function_call", "function_call_output", "reasoning", "user", "assistant"])


@given(st.lists(st.dictionaries(st.sampled_from(fields), scraps | known), max_size=4))
def test_whatever_is_asked_is_taken_or_refused(items: list[Json]) -> None:
    """Input that is not JSON of the right shape is the caller's fault, and is said to be."""
    chat: list[Json] = []
    with contextlib.suppress(BadRequest):
        chat = to_chat(items_of(items))
    assert all(message["role"] in ("user", "assistant", "system", "developer", "tool") for message in chat)
