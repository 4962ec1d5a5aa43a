"""LibreChat's frames: a client that joins anywhere, with a sync, has in the end what one has that saw it all."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.interop.dialects.test_librechat import Reader
from unspool.events import Record, encode_data
from unspool.http.dialects.librechat.projection import LibreChat
from unspool.sse import Decoder

_ids = st.sampled_from("ab")
_agents = st.sampled_from([{}, {"agent": "one"}, {"agent": "two"}])
_text = st.text(max_size=5)
_created = {"user_message": {"id": "u", "text": "?"}, "response_id": "r", "sender": "S"}


def _event(kind: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    return st.tuples(
        st.just(kind), st.builds(lambda data, marks: {**data, **marks}, st.fixed_dictionaries(fields), _agents)
    )


_events = st.lists(
    st.one_of(
        _event("text.delta", part_id=_ids, text=_text),
        _event("reasoning.delta", part_id=_ids, text=_text),
        _event("tool.call", call_id=_ids, name=_ids),
        _event("tool.call", call_id=_ids, name=_ids, arguments=st.just({"a": 1})),
        _event("tool.args.delta", call_id=_ids, text=_text),
        _event("tool.result", call_id=_ids, output=_text),
        _event("tool.error", call_id=_ids, message=_text),
        _event("tool.auth", call_id=_ids, url=_text),
        _event("source", url=_text),
        _event("title", text=_text),
        _event("usage", call_id=_ids),
        _event("of.my.own", value=_text),
        st.just(("created", _created)),
    ),
    max_size=25,
)
_terminals = st.sampled_from(
    [
        ("completed", {"finish_reason": "stop"}),
        ("failed", {"code": "x", "message": "m", "retryable": False}),
        ("aborted", {"by": "user", "early": False, "title": "T"}),
        ("replaced", {"by": 2}),
    ]
)


def read(reader: Reader, frames: list[bytes]) -> None:
    for message in Decoder().feed(b"".join(frames)):
        reader.take(message.event, json.loads(message.data))


@settings(max_examples=200, deadline=None)
@given(events=_events, terminal=_terminals)
def test_a_sync_anywhere_shows_what_there_is(
    events: list[tuple[str, dict[str, Any]]], terminal: tuple[str, dict[str, Any]]
) -> None:
    """Frames are numbered; a state that went through JSON goes on as if nothing had been."""
    records = [Record(n, kind, encode_data(data)) for n, (kind, data) in enumerate([*events, terminal], 1)]
    told = LibreChat(stream_id="s", generation=1, created_at=0.0)
    states = [told.copy()]
    frames: list[list[bytes]] = []
    for record in records:
        frames.append(list(told.feed(record)))
        states.append(told.copy())
    whole = Reader()
    read(whole, [frame for some in frames for frame in some])
    assert (whole.final is None) is (terminal[0] in ("failed", "replaced"))
    assert (whole.error is None) is (whole.final is not None)
    numbers = [message.id for message in Decoder().feed(b"".join(frame for some in frames for frame in some))]
    assert numbers == [str(n) for n in range(1, told.count + 1)]
    for at, state in enumerate(states[:-1]):
        late = Reader()
        read(late, [state.sync()])
        rest = [frame for record in records[at:] for frame in state.feed(record)]
        assert rest == [frame for some in frames[at:] for frame in some]
        read(late, rest)
        assert (late.content, late.final, late.error) == (whole.content, whole.final, whole.error)
