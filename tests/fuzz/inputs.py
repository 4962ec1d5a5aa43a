"""What is fed: JSON values of every kind, and events of the whole vocabulary, as Hypothesis draws them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from unspool.events import Event

Json = st.SearchStrategy[Any]

texts = st.text(max_size=8)
"""Text as a log may hold it: anything but lone surrogates."""

numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)

json_values: Json = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)

json_objects = st.dictionaries(texts, json_values, max_size=4)

ids = st.sampled_from(["1", "2", "3"])

marks = st.fixed_dictionaries(
    {}, optional={"agent": st.sampled_from(["x", "y"]), "group": st.sampled_from(["g", "h"]), "step": ids}
)


def _event(
    type_: str, /, optional: dict[str, Json] | None = None, **fields: st.SearchStrategy[Any]
) -> st.SearchStrategy[Event]:
    data = st.tuples(marks, st.fixed_dictionaries(fields, optional=optional or {})).map(lambda two: two[0] | two[1])
    # An event may say that it is internal in two ways; once in four times one of them does.
    said = st.sampled_from([(False, {}), (False, {}), (False, {}), (True, {}), (False, {"internal": True})])
    return st.builds(lambda data, how: Event(type_, data | how[1], how[0]), data, said)


_created = st.fixed_dictionaries(
    {},
    optional={
        "conversation_id": texts,
        "response_id": texts,
        "sender": texts,
        "model": texts,
        "user_message": st.fixed_dictionaries({}, optional={"id": texts, "text": texts}),
    },
)

deltas = st.one_of(
    _event("text.delta", {"part_id": ids}, text=texts),
    _event("reasoning.delta", {"part_id": ids}, text=texts),
    _event("tool.args.delta", call_id=ids, text=texts),
)

vocabulary = st.one_of(
    deltas,
    _event("tool.call", {"arguments": json_values}, call_id=ids, name=texts),
    _event("tool.result", {"output": json_values}, call_id=ids),
    _event("tool.error", call_id=ids, message=texts),
    _event("tool.auth", {"expires_at": numbers}, call_id=ids, url=texts),
    _event("step.started", {"kind": texts, "status": json_values}, id=ids, index=st.integers(0, 9)),
    _event("step.finished", {"finish_reason": texts | numbers, "name": texts}, id=ids),
    _event("approval.requested", {"what": json_values}, action_id=ids),
    _event("approval.resolved", {"by": texts}, action_id=ids, decision=texts),
    _event("steer.queued", id=ids, text=texts),
    _event("steer.applied", id=ids, text=texts),
    _event("file", {"part_id": ids, "type": texts, "text": json_values}, url=texts),
    _event("source", {"title": texts}, url=texts),
    _event("title", text=texts),
    _event("usage", {"input_tokens": st.integers(0, 9), "model": texts}, call_id=ids),
    _event("custom", {"value": json_values}, name=texts),
    _event("my.own", anything=json_values),
    st.builds(lambda data, message: Event("agent.update", {"agent": data, "message": message}), texts, json_values),
    st.builds(lambda data: Event("created", data), _created),
)
"""Every type that a run may emit, with data that its log must take."""
