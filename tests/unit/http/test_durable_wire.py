"""Durable Streams as bytes: what is read from requests, and what an event stream carries."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers, QueryParams

from unspool.durable import Chunk, token
from unspool.errors import BadRequest
from unspool.http.dialects.durable_wire import append_of, events_of, is_known, next_cursor, place_of, wish_of
from unspool.sse import Decoder

TEXT = {"content-type": "text/plain"}
JSON = {"content-type": "application/json"}


@given(st.lists(st.text(), min_size=1), st.booleans())
def test_text_in_an_event_stream(parts: list[str], closed: bool) -> None:
    """Whatever a stream holds, there are exactly the events that the server meant."""
    data = [part.encode() for part in parts]
    chunk = Chunk(1, "text/plain", data, 0, 5, up_to_date=True, closed=closed)
    events = Decoder().feed(events_of(chunk, 7))
    whole = "".join(parts).replace("\r\n", "\n").replace("\r", "\n")
    control = {"streamNextOffset": token(5), "upToDate": True}
    control |= {"streamClosed": True} if closed else {"streamCursor": "7"}
    got = [(event.event, event.data if event.event == "data" else json.loads(event.data)) for event in events]
    assert got == [("data", whole), ("control", control)]


@given(st.lists(st.binary(), min_size=1))
def test_bytes_in_an_event_stream(parts: list[bytes]) -> None:
    chunk = Chunk(1, "application/octet-stream", parts, 0, 5, up_to_date=False)
    events = Decoder().feed(events_of(chunk, 7))
    data = [event.data for event in events if event.event == "data"]
    assert base64.b64decode("".join(data)) == b"".join(parts)
    assert json.loads(events[-1].data) == {"streamNextOffset": token(5), "streamCursor": "7"}


@pytest.mark.parametrize(
    "headers",
    [
        {"stream-ttl": "1", "stream-expires-at": "2030-01-01T00:00:00Z"},
        {"stream-ttl": "01"}, {"stream-ttl": "+1"}, {"stream-ttl": "1e3"}, {"stream-ttl": ""}, {"stream-ttl": "9" * 20},
        {"stream-ttl": "١"}, {"stream-expires-at": "tomorrow"}, {"stream-expires-at": "2030-01-01T00:00:00"},
        {"stream-expires-at": "2030-01-01"}, {"stream-fork-offset": token(0)}, {"stream-fork-sub-offset": "0"},
        {"stream-forked-from": "/elsewhere/a"}, {"stream-forked-from": "/v1/stream/a", "stream-fork-offset": "now"},
        {"content-type": "nonsense"},
    ],
)  # fmt: skip
def test_what_no_stream_is_made_of(headers: dict[str, str]) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    with pytest.raises(BadRequest):
        wish_of(Headers(raw=raw), "/v1/stream/")


@pytest.mark.parametrize(
    "headers",
    [
        {"producer-id": "a"}, {"producer-id": "a", "producer-epoch": "0"},
        {"producer-id": "", "producer-epoch": "0", "producer-seq": "0"},
        {"producer-id": "a", "producer-epoch": "-1", "producer-seq": "0"},
        {"producer-id": "a", "producer-epoch": "0", "producer-seq": str(2**53)},
        {"producer-id": "a" * 257, "producer-epoch": "0", "producer-seq": "0"}, {"stream-seq": ""},
    ],
)  # fmt: skip
def test_what_is_no_append(headers: dict[str, str]) -> None:
    with pytest.raises(BadRequest):
        append_of(Headers({**TEXT, **headers}), b"x")
    with pytest.raises(BadRequest):
        append_of(Headers(TEXT), b"")


@pytest.mark.parametrize("query", ["offset=", "offset=-1&offset=-1", "live=sse", "live=x&offset=-1", "offset=-2"])
def test_what_is_no_place(query: str) -> None:
    with pytest.raises(BadRequest):
        place_of(QueryParams(query))


@given(st.none() | st.integers(0, 10**15))
def test_cursors_rise(given_cursor: int | None) -> None:
    found = next_cursor(given_cursor)
    assert found >= next_cursor(None)
    assert given_cursor is None or found > given_cursor or found >= next_cursor(None) > given_cursor


def test_entity_tags() -> None:
    assert is_known('"a", W/"b"', '"b"')
    assert is_known("*", '"b"')
    assert not is_known('"a"', '"b"')
    assert not is_known("", '"b"')
