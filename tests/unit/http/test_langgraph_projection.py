"""LangGraph's runs as a projection: numbers that no stream mode changes, pieces that make up the state."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessageChunk

from unspool import events
from unspool.errors import InvalidArgument, NotFound
from unspool.events import Record
from unspool.http.dialects.langgraph import projection
from unspool.http.dialects.langgraph.messages import arguments, merged, received, to_chat
from unspool.http.dialects.langgraph.projection import (
    CUSTOM,
    SHOWN,
    TUPLES,
    UPDATES,
    VALUES,
    WHOLE,
    LangGraphRun,
    identifier,
    kind_of,
    number_of,
    run_id,
)

REQUEST = ("request", {"langgraph": {"messages": [{"type": "human", "id": "h", "content": "hi"}]}}, True)
TEXT = st.text(max_size=6)
AGENTS = st.sampled_from(["", "", "one", "two"])
CALLS = st.sampled_from(["c1", "c2", "c3"])


def marked(kind: str, **fields: Any) -> st.SearchStrategy[tuple[str, dict[str, Any], bool]]:
    return st.builds(
        lambda agent, data: (kind, {**data, **({"agent": agent} if agent else {})}, False),
        AGENTS, st.fixed_dictionaries(fields),
    )  # fmt: skip


EVENTS = st.one_of(
    marked(events.TEXT_DELTA, text=TEXT),
    marked(events.REASONING_DELTA, text=TEXT),
    marked(events.TOOL_CALL, call_id=CALLS, name=st.just("level")),
    marked(events.TOOL_CALL, call_id=CALLS, name=st.just("level"), arguments=st.just({"a": 1})),
    marked(events.TOOL_ARGS_DELTA, call_id=CALLS, text=st.sampled_from(['{"a"', ":1}", "x"])),
    marked(events.TOOL_RESULT, call_id=CALLS, output=st.sampled_from(["text", {"level": 3}, None])),
    marked(events.TOOL_ERROR, call_id=CALLS, message=TEXT),
    marked(events.STEP_STARTED, id=st.just("s")),
    marked(events.STEP_FINISHED, id=st.just("s")),
    marked(events.STEER_APPLIED, id=st.uuids().map(str), text=TEXT),
    marked(events.CUSTOM, name=st.just("progress"), value=st.integers()),
    marked(
        events.USAGE,
        call_id=st.just("m"),
        input_tokens=st.integers(0, 9) | st.just("x"),
        output_tokens=st.integers(0, 9),
    ),
    marked("weather", wind=st.integers()),
    marked(events.TITLE, text=TEXT),
    st.just((events.CUSTOM, {"name": "secret"}, True)),
)
ENDS = st.sampled_from(
    [
        (events.COMPLETED, {"finish_reason": "stop"}, False),
        (events.FAILED, {"code": "broken", "message": "It broke.", "retryable": False}, False),
        (events.ABORTED, {"by": "user", "reason": None}, False),
        (events.ABORTED, {"by": "system", "reason": "stalled"}, False),
        (events.REPLACED, {"by_generation": 2}, False),
    ]
)
LOGS = st.builds(
    lambda begun, rest, end: [*begun, *rest, end], st.sampled_from([[REQUEST], []]), st.lists(EVENTS), ENDS
)


def records(log: Sequence[tuple[str, dict[str, Any], bool]]) -> list[Record]:
    return [
        Record(offset, kind, json.dumps(data).encode(), internal)
        for offset, (kind, data, internal) in enumerate(log, 1)
    ]


def begun(kind: type[LangGraphRun]) -> LangGraphRun:
    return kind(stream_id="thread", generation=3, created_at=1.0)


def frames_of(kind: type[LangGraphRun], log: Sequence[Record]) -> list[bytes]:
    run = begun(kind)
    return [frame for record in log for frame in run.feed(record)]


def parsed(frame: bytes) -> tuple[str, Any, int]:
    found = re.fullmatch(rb"event: (\S+)\ndata: (.*)\nid: (\d+)\n\n", frame)
    assert found is not None, frame
    return found[1].decode(), json.loads(found[2]), int(found[3])


@given(LOGS, st.sets(st.sampled_from(sorted(SHOWN))))
def test_every_mode_has_the_same_numbers(log: list[Any], modes: set[str]) -> None:
    """A frame that is not wanted is empty, and counts; one that is wanted is the same whatever else is."""
    made = records(log)
    whole = frames_of(kind_of(SHOWN), made)
    some = frames_of(kind_of(modes), made)
    assert len(some) == len(whole)
    names = {TUPLES: "messages", VALUES: VALUES, UPDATES: UPDATES, CUSTOM: CUSTOM}
    wanted = {names[mode] for mode in modes if mode in names} | {"metadata", "error", "end"}
    for number, (frame, other) in enumerate(zip(some, whole, strict=True)):
        event, _, known = parsed(other)
        assert known == number
        if WHOLE in modes and TUPLES not in modes and event == "messages":
            assert parsed(frame)[0::2] == ("messages/partial", number)
        else:
            assert frame == (other if event in wanted else b"")
    assert parsed(whole[0])[0] == "metadata"
    assert [parsed(frame)[0] for frame in whole].count("end") + [parsed(frame)[0] for frame in whole].count(
        "error"
    ) == 1
    assert parsed(whole[-1])[0] in ("end", "error")


@given(LOGS, st.integers(0, 60))
def test_a_state_that_was_dumped_goes_on_as_ever(log: list[Any], cut: int) -> None:
    """Under every mode, from a state that was left without any."""
    made = records(log)
    cut %= len(made)
    base = begun(LangGraphRun)
    before = sum(len(base.feed(record)) for record in made[:cut])
    for modes in ((), (VALUES, TUPLES, UPDATES, CUSTOM), (WHOLE,)):
        run = kind_of(modes).load(base.dump())
        assert [frame for record in made[cut:] for frame in run.feed(record)] == frames_of(kind_of(modes), made)[
            before:
        ]


@given(LOGS)
def test_the_pieces_make_up_the_state(log: list[Any]) -> None:
    """Chunks that LangChain adds up are the messages of the last state; so are the updates."""
    made = records(log)
    chunks: dict[str, list[AIMessageChunk]] = {}
    others: dict[str, Any] = {}
    values: Any = None
    run = begun(kind_of((VALUES, TUPLES)))
    for frame in [frame for record in made for frame in run.feed(record)]:
        event, data, _ = parsed(frame) if frame else ("", {}, 0)
        if event == "values":
            values = data["messages"]
        elif event == "messages" and data[0]["type"] == "AIMessageChunk":
            chunks.setdefault(data[0]["id"], []).append(AIMessageChunk(**data[0]))
        elif event == "messages":
            others[data[0]["id"]] = data[0]
    assert values == run.state
    told = {message["id"]: message for message in run.state[run.inputs :]}
    assert set(told) == {*chunks, *others}
    assert {name: told[name] for name in others} == others
    for name, pieces in chunks.items():
        whole, message = reduce(add, pieces), told[name]
        assert whole.content == message["content"]
        assert whole.additional_kwargs.get("reasoning_content") == message["additional_kwargs"].get("reasoning_content")
        assert (whole.usage_metadata or {}) == message.get("usage_metadata", {})
        assert [chunk["id"] for chunk in whole.tool_call_chunks] == [call["id"] for call in message["tool_calls"]]


@given(LOGS)
def test_the_state_has_the_arguments_of_calls(log: list[Any]) -> None:
    """What was said last of them, whoever looked in between."""
    said: dict[str, str] = {}
    for kind, data, _ in log:
        if kind == events.TOOL_ARGS_DELTA:
            said[data["call_id"]] = said.get(data["call_id"], "") + data["text"]
        elif kind == events.TOOL_CALL:
            given_ = data.get("arguments")
            known = said.setdefault(data["call_id"], "")
            said[data["call_id"]] = known if given_ is None else json.dumps(given_, separators=(",", ":"))
    for look in (0, 1):
        run = begun(LangGraphRun)
        for record in records(log):
            run.feed(record)
            assert not look or run.state is run.messages
        found = {call["id"]: call["args"] for message in run.state for call in message.get("tool_calls", ())}
        wrong = {call["id"]: call["args"] for message in run.state for call in message.get("invalid_tool_calls", ())}
        assert wrong == {call: text for call, text in said.items() if arguments(text) is None}
        assert {call: found[call] for call in said} == {call: arguments(text) or {} for call, text in said.items()}


def test_calls_cost_the_same_however_many_there_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments are read once, not again at every state that comes after them."""
    read: list[str] = []
    monkeypatch.setattr(projection, "arguments", lambda text: read.append(text) or {})
    log = [(events.TOOL_CALL, {"call_id": str(n), "name": "f", "arguments": {"a": n}}, False) for n in range(200)]
    answers = [(events.TOOL_RESULT, {"call_id": str(n), "output": "x"}, False) for n in range(200)]
    made = [event for pair in zip(log, answers, strict=True) for event in pair]
    frames_of(kind_of((VALUES,)), records(made))
    assert len(read) == 200


def test_an_agent_is_a_node() -> None:
    """Agents that speak at once have messages of their own, and are told apart by their node."""
    log = [
        REQUEST,
        (events.TEXT_DELTA, {"text": "a", "agent": "one"}, False),
        (events.TEXT_DELTA, {"text": "b", "agent": "two"}, False),
        (events.TEXT_DELTA, {"text": "c", "agent": "one"}, False),
        (events.COMPLETED, {"finish_reason": "stop"}, False),
    ]
    found = [parsed(frame) for frame in frames_of(kind_of((TUPLES, UPDATES, VALUES)), records(log))]
    assert [data[1]["langgraph_node"] for event, data, _ in found if event == "messages"] == ["one", "two", "one"]
    assert [list(data) for event, data, _ in found if event == "updates"] == [["one"], ["two"]]
    assert [message["content"] for message in found[-2][1]["messages"]] == ["hi", "ac", "b"]


def run_of(stream_id: str = "t", tenant: str | None = None, log: str = "a") -> LangGraphRun:
    return LangGraphRun(stream_id=stream_id, generation=1, created_at=0.0, tenant=tenant, log=log)


def test_ids_differ_between_kinds_threads_tenants_and_logs() -> None:
    """Also where their numbers are the same."""
    runs = [run_of(), run_of("u"), run_of(tenant="acme"), run_of(tenant="other"), run_of(log="b"), run_of(log="")]
    ids = {identifier(kind, run, 1) for run in runs for kind in ("run", "checkpoint")}
    assert len(ids) == 2 * len(runs)


def test_ids_are_uuids_that_end_with_their_number() -> None:
    """Clients check the form; nothing else is an id."""
    for number in (1, 77, 16**12 - 1):
        made = identifier("run", run_of(), number)
        assert str(UUID(made)) == made
        assert number_of(made) == number_of(made.upper()) == number
    for wrong in (run_id(run_of())[:-1] + "x", run_id(run_of())[:-1] + "²", "+1", "", run_id(run_of()) + "0"):
        with pytest.raises(NotFound):
            number_of(wrong)


def test_messages_as_clients_write_them() -> None:
    """Roles and types, strings and pairs, and what JSON.stringify makes of LangChain's own objects."""
    ids = iter("abcdefgh")
    serialised = {"lc": 1, "type": "constructor", "id": ["langchain_core", "messages", "HumanMessage"]}
    found = received(
        [
            "one",
            ["user", "two"],
            {"role": "assistant", "content": "three"},
            {**serialised, "kwargs": {"content": "four", "id": "mine"}},
            {"type": "AIMessageChunk", "content": None, "tool_calls": [{"id": "c", "name": "f", "args": {"x": 1}}]},
            {"type": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "five"}]},
        ],
        lambda: next(ids),
    )
    assert [(one["type"], one["id"]) for one in found] == [
        ("human", "a"), ("human", "b"), ("ai", "c"), ("human", "mine"), ("ai", "d"), ("tool", "e"),
    ]  # fmt: skip
    assert to_chat(found) == [
        {"role": "user", "content": "one"},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": "three"},
        {"role": "user", "content": "four"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "five"},
    ]
    assert to_chat(found[:-1])[-1] == {"role": "tool", "tool_call_id": "c", "content": "There is no result."}
    assert received("alone", lambda: "x") == [{"type": "human", "id": "x", "content": "alone"}]
    assert received(["user", "a pair"], lambda: "x")[0]["content"] == "a pair"
    for wrong in (1, [1], [{"type": "robot"}], [{}], [{"type": "tool", "content": ""}], [["a", "b", "c"]]):
        with pytest.raises(InvalidArgument):
            received(wrong, lambda: "x")


WORDS = st.sampled_from(
    [
        "type", "role", "content", "id", "lc", "kwargs", "tool_calls", "tool_call_id", "function", "args", "human",
        "ai", "tool", "system", "remove", "HumanMessage", "text", "image", "image_url", "file", "metadata", "url",
        "base64",
    ]
)  # fmt: skip
ANYTHING = st.recursive(
    st.none() | st.integers(-1, 2) | WORDS | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=5),
    max_leaves=12,
)


FORMS = st.fixed_dictionaries(
    {"type": st.sampled_from(["human", "ai", "tool", "AIMessageChunk", "remove"])},
    optional={
        "content": ANYTHING | st.lists(st.dictionaries(WORDS, ANYTHING, max_size=5), max_size=3),
        "tool_calls": ANYTHING | st.lists(st.dictionaries(WORDS, ANYTHING, max_size=4), max_size=3),
        "tool_call_id": WORDS,
        "id": ANYTHING,
        "lc": st.just(1),
        "kwargs": ANYTHING,
    },
)


@given(ANYTHING | st.lists(FORMS, max_size=4))
@settings(max_examples=500)
def test_whatever_comes_is_messages_or_refused(given_: object) -> None:
    """What a thread keeps is whole: every message has what the rest relies on."""
    try:
        found = received(given_, lambda: "new")
    except InvalidArgument:
        return
    assert all(isinstance(message["id"], str) and "content" in message for message in found)
    for message in to_chat(merged([], found)):
        assert message["role"] in ("user", "assistant", "system", "tool")


def test_images_and_files_reach_the_model() -> None:
    """Blocks of LangChain and of OpenAI; what no model can be told is left out."""
    content = [
        {"type": "text", "text": "see"},
        {"type": "image", "base64": "AA==", "mime_type": "image/png"},
        {"type": "image_url", "image_url": "https://example.org/a.png"},
        {"type": "file", "url": "https://example.org/a.pdf", "metadata": {"filename": "a.pdf"}},
        {"type": "reasoning", "reasoning": "hm"},
    ]
    assert to_chat([{"type": "human", "id": "a", "content": content}])[0]["content"] == [
        {"type": "text", "text": "see"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        {"type": "file", "file": {"file_data": "https://example.org/a.pdf", "filename": "a.pdf"}},
    ]


def test_messages_merge_by_their_ids() -> None:
    """As LangGraph's reducer: the same id replaces, `remove` removes one or all."""
    one, two = {"type": "human", "id": "1", "content": "one"}, {"type": "human", "id": "2", "content": "two"}
    new = {**one, "content": "new"}
    assert merged([one, two], [new]) == [new, two]
    assert merged([one, two], [{"type": "remove", "id": "1"}]) == [two]
    assert merged([one, two], [{"type": "remove", "id": "__remove_all__"}, new]) == [new]
