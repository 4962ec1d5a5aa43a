"""The fold: one law, kept for every sequence of events and every place to cut it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unspool.content import Fold, Snapshot, fold
from unspool.errors import UnspoolError
from unspool.events import Record, encode_data
from unspool.jobs import Job, Lease, Status
from unspool.resume import sync_record

_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
_id = st.sampled_from(["1", "2", "3"])
_marks = st.fixed_dictionaries(
    {}, optional={"agent": st.sampled_from(["x", "y"]), "group": st.sampled_from(["g", "h"]), "step": _id}
)


def _event(type_: str, /, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    return st.tuples(
        st.just(type_), st.tuples(st.fixed_dictionaries(fields), _marks).map(lambda two: {**two[1], **two[0]})
    )


_text = st.text(max_size=6)
_events = st.one_of(
    _event("text.delta", part_id=_id, text=_text),
    _event("reasoning.delta", part_id=_id, text=_text),
    _event("tool.call", call_id=_id, name=_text),
    _event("tool.call", call_id=_id, name=_text, arguments=_json),
    _event("tool.args.delta", call_id=_id, text=_text),
    _event("tool.result", call_id=_id, output=_json),
    _event("tool.error", call_id=_id, message=_text),
    _event("tool.auth", call_id=_id, url=_text),
    _event("step.started", id=_id, index=st.integers(0, 9), kind=_text),
    _event("step.finished", id=_id, name=_text),
    _event("approval.requested", action_id=_id, what=_json),
    _event("approval.resolved", action_id=_id, decision=_text),
    _event("steer.queued", id=_id, text=_text),
    _event("steer.applied", id=_id, text=_text),
    _event("agent.update", agent=_id, message=_json),
    _event("file", url=_text),
    _event("source", url=_text, title=_text, type=_text),
    _event("title", text=_text),
    _event("usage", call_id=_id, input_tokens=st.integers(0, 9)),
    _event("custom", name=_text, value=_json),
    _event("my.own", anything=_json),
    _event("created", user_message=_json),
)
_logs = st.lists(st.tuples(_events, st.sampled_from([False, False, False, True])), max_size=15)
_FAILED = ("failed", {"code": "c", "message": "m"})
_terminals = st.sampled_from([None, _FAILED, ("completed", {"finish_reason": "stop"})])
_Log = list[tuple[tuple[str, dict[str, Any]], bool]]


def records(log: _Log, end: tuple[str, dict[str, Any]] | None = None) -> list[Record]:
    made = [Record(n, kind, encode_data(data), internal) for n, ((kind, data), internal) in enumerate(log, 1)]
    if end is not None:
        made.append(Record(len(made) + 1, end[0], encode_data(end[1])))
    return made


@settings(max_examples=150, deadline=None)
@given(log=_logs, end=_terminals, data=st.data())
def test_a_fold_can_be_cut_anywhere(log: Any, end: Any, data: st.DataObject) -> None:
    """Invariant 5: records 1..k, through `dump` and `load`, then those after k, make what 1..n make."""
    whole = records(log, end)
    cut = data.draw(st.integers(0, len(whole)))
    first = Fold()
    first.apply_all(whole[:cut])
    second = Fold.load(first.dump())
    second.apply_all(whole[cut:])
    assert second.snapshot() == fold(whole)


@settings(max_examples=150, deadline=None)
@given(log=_logs, data=st.data())
def test_a_sync_record_stands_for_what_it_covers(log: Any, data: st.DataObject) -> None:
    """Invariant 5, as a client sees it: a `sync` record of 1..k, then those after k that are shown, make the whole."""
    whole = records(log)
    cut = data.draw(st.integers(0, len(whole)))
    job = Job(stream_id="s", generation=1, status=Status.RUNNING, lease=Lease("a", 1, 1), created_at=1, active_at=1)
    client = Fold()
    client.apply(Record(1, "text.delta", b'{"part_id":"old","text":"what was shown before"}'))
    client.apply(sync_record(job, fold(whole[:cut]), None))
    client.apply_all(record for record in whole[cut:] if not record.internal)
    expected = msgspec.structs.replace(fold(whole).public(), offset=0)
    assert msgspec.structs.replace(client.snapshot(), offset=0) == expected


@settings(max_examples=100, deadline=None)
@given(log=_logs, data=st.data())
def test_looking_changes_nothing(log: Any, data: st.DataObject) -> None:
    """Snapshots taken along the way, and repeated records, leave the result as it is; a snapshot is no alias."""
    whole = records(log)
    looked = Fold()
    kept: list[tuple[Snapshot, Snapshot]] = []
    for record in whole:
        looked.apply(record)
        if data.draw(st.booleans()):
            looked.apply(record)
            kept.append((looked.snapshot(), looked.snapshot()))
            kept[-1][0].parts.append({"type": "spoiled"})
    assert looked.snapshot() == fold(whole)
    for spoiled, clean in kept:
        assert clean == fold(whole[: clean.offset])
        assert spoiled != clean


@pytest.mark.parametrize(
    "state",
    [
        b"",
        b"null",
        b"[" * 5000,
        b"{}",
        Fold().dump().replace(b'"offset":0', b'"offset":-1'),
        Fold().dump().replace(b'"parts":[]', b'"parts":[{"type":"text"}]'),
        Fold().dump().replace(b'"parts":[]', b'"parts":[{"type":"tool","call_id":[],"arguments":""}]'),
        Fold().dump().replace(b'"steps":[]', b'"steps":[{}]'),
        Fold().dump().replace(b'"usage":[]', b'"usage":[1]'),
        Fold().dump().replace(b'"prompts":[]', b'"prompts":[{"call_id":7}]'),
    ],
)
def test_a_checkpoint_that_is_none_is_refused(state: bytes) -> None:
    """Content must never be half there: a state that is not a dumped fold is an error, and says so."""
    with pytest.raises(UnspoolError, match="not a dumped fold"):
        Fold.load(state)


def test_parallel_agents_keep_their_parts_apart() -> None:
    """The same part id of two agents is two parts; each grows on its own."""
    log = [
        (("text.delta", {"part_id": "p", "agent": agent, "group": "g", "text": text}), False)
        for agent, text in (("x", "1"), ("y", "2"), ("x", "3"), ("y", "4"))
    ]
    assert [(part["agent"], part["text"]) for part in fold(records(log)).parts] == [("x", "13"), ("y", "24")]


@pytest.mark.parametrize(
    ("log", "part"),
    [
        ([("tool.call", {"call_id": "t", "name": "n"})], {"status": "running", "arguments": "", "name": "n"}),
        (
            [("tool.call", {"call_id": "t", "name": "n"}), ("tool.args.delta", {"call_id": "t", "text": '{"a"'})],
            {"arguments": '{"a"'},
        ),
        ([("tool.args.delta", {"call_id": "t", "text": "x"}), ("tool.call", {"call_id": "t", "name": "n"})],
         {"arguments": "x", "name": "n"}),
        ([("tool.call", {"call_id": "t", "name": "n", "arguments": {"a": [1]}})], {"arguments": '{"a":[1]}'}),
        ([("tool.result", {"call_id": "t", "output": {"a": 1}})], {"status": "done", "output": {"a": 1}}),
        ([("tool.error", {"call_id": "t", "message": "no"})], {"status": "error", "error": "no"}),
        ([("failed", {"code": "c", "message": "m"})], {"type": "error", "code": "c", "message": "m"}),
        ([("steer.applied", {"id": "1", "text": "also"})], {"type": "user", "id": "1", "text": "also"}),
        ([("file", {"url": "u", "media_type": "image/png"})], {"type": "file", "url": "u", "media_type": "image/png"}),
    ],
)  # fmt: skip
def test_events_fold_into_parts(log: list[tuple[str, dict[str, Any]]], part: dict[str, Any]) -> None:
    """The table of the vocabulary, row by row."""
    (found,) = fold(records([(event, False) for event in log])).parts
    assert found | part == found


def test_a_long_text_costs_its_length() -> None:
    """A hundred thousand deltas fold in one pass: text is joined when someone looks, not at every delta."""
    state = Fold()
    payload = b'{"part_id":"p","text":"ab"}'
    for offset in range(1, 100_001):
        state.apply(Record(offset, "text.delta", payload))
    assert len(state.snapshot().text) == 200_000
