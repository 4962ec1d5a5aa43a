"""The fold of a stream's log, and what is accepted: against a model, with anything that producers may send."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unspool.durable.entries import (
    APPENDED,
    OPENED,
    Config,
    Entry,
    Producer,
    content_of,
    is_text,
    media_type,
    messages_of,
    record_of,
)
from unspool.durable.errors import ContentTypeMismatch, ProducerFenced, ProducerGap, SequenceConflict, StreamClosed
from unspool.durable.offsets import number_of, token
from unspool.durable.state import PRODUCERS, Append, State
from unspool.errors import BadRequest, UnspoolError
from unspool.events import Record

CONFIG = Config("p", "text/plain")
HELLO: dict[str, Any] = {"content": b"hello", "content_type": "text/plain"}

appends = st.builds(
    Append,
    content=st.sampled_from([None, b"x", b"\xff\x00"]),
    content_type=st.just("text/plain"),
    producer=st.none() | st.builds(Producer, st.sampled_from("ab"), st.integers(0, 2), st.integers(0, 3)),
    seq=st.none() | st.sampled_from(["1", "10", "2", "a", "B"]),
    close=st.integers(0, 9).map(lambda die: die == 0),
)


def opened() -> State:
    state = State()
    state.apply(record_of(1, OPENED, Entry(nonce="0", config=CONFIG)))
    return state


def write(state: State, append: Append, records: list[Record]) -> bool:
    """Append if it is admitted."""
    if not state.admit(append, 0):
        return False
    record = record_of(state.offset + 1, APPENDED, append.entry(str(state.offset)), append.content)
    state.apply(record)
    records.append(record)
    return True


@given(st.lists(appends, max_size=30))
def test_what_is_accepted(wanted: Sequence[Append]) -> None:
    """Each batch of a producer once and in order, `Stream-Seq` rising, nothing after the close."""
    state = opened()
    records: list[Record] = []
    accepted: list[Append] = []
    for append in wanted:
        try:
            if write(state, append, records):
                accepted.append(append)
        except UnspoolError:
            continue
    assert [append.close for append in accepted[:-1]] == [False] * (len(accepted) - bool(accepted))
    seqs = [append.seq for append in accepted if append.seq is not None]
    assert seqs == sorted(set(seqs))
    for name in "ab":
        told = [append.producer for append in accepted if append.producer and append.producer.id == name]
        places = [(producer.epoch, producer.seq) for producer in told]
        assert places == sorted(set(places))
        for epoch in {epoch for epoch, _ in places}:
            mine = [seq for known, seq in places if known == epoch]
            assert mine == list(range(len(mine)))
    assert [content_of(record) for record in records] == [append.content for append in accepted]


@given(st.lists(appends, max_size=30), st.integers(0, 30))
def test_a_dump_and_what_follows_is_the_whole(wanted: Sequence[Append], cut: int) -> None:
    whole = opened()
    records = [record_of(1, OPENED, Entry(nonce="0", config=CONFIG))]
    for append in wanted:
        try:
            write(whole, append, records)
        except UnspoolError:
            continue
    state = State()
    for record in records[:cut]:
        state.apply(record)
    state = State.load(state.dump())
    for record in records[max(cut - 3, 0) :]:  # some of them again: they are passed over
        state.apply(record)
    assert state == whole
    assert list(state.producers) == list(whole.producers)


def test_refusals() -> None:
    state = opened()
    records: list[Record] = []
    assert write(state, Append(**HELLO, producer=Producer("a", 1, 0), seq="b"), records)
    with pytest.raises(ProducerFenced) as fenced:
        state.admit(Append(**HELLO, producer=Producer("a", 0, 5)), 0)
    assert fenced.value.details == {"producer_epoch": 1}
    with pytest.raises(ProducerGap) as gap:
        state.admit(Append(**HELLO, producer=Producer("a", 1, 2)), 0)
    assert gap.value.details == {"expected_seq": 1, "received_seq": 2}
    with pytest.raises(ProducerGap):
        state.admit(Append(**HELLO, producer=Producer("new", 0, 1)), 0)
    with pytest.raises(BadRequest):
        state.admit(Append(**HELLO, producer=Producer("a", 2, 1)), 0)
    with pytest.raises(SequenceConflict):
        state.admit(Append(**HELLO, seq="b"), 0)
    with pytest.raises(ContentTypeMismatch):
        state.admit(Append(content=b"x", content_type="text/html"), 0)
    assert not state.admit(Append(content=b"x", content_type="text/html", producer=Producer("a", 1, 0)), 0)
    assert write(state, Append(close=True, producer=Producer("a", 1, 1)), records)
    with pytest.raises(StreamClosed) as closed:
        state.admit(Append(**HELLO), 0)
    assert closed.value.details == {"next_offset": token(2), "closed": True}
    assert not state.admit(Append(close=True), 0)  # closing twice is once
    with pytest.raises(StreamClosed):
        state.admit(Append(close=True, producer=Producer("b", 0, 0)), 0)


def test_producers_are_bounded() -> None:
    """The one that was silent longest is forgotten."""
    state = opened()
    records: list[Record] = []
    for number in range(PRODUCERS):
        write(state, Append(**HELLO, producer=Producer(str(number), 0, 0)), records)
    write(state, Append(**HELLO, producer=Producer("0", 0, 1)), records)
    write(state, Append(**HELLO, producer=Producer("late", 0, 0)), records)
    assert len(state.producers) == PRODUCERS
    assert "0" in state.producers
    assert "1" not in state.producers


@given(st.binary(min_size=1))
def test_bytes_come_back(data: bytes) -> None:
    record = record_of(1, APPENDED, Entry(nonce="n"), data)
    assert content_of(record) == data
    assert b"\n" not in record.payload


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.lists(json_values, min_size=1), st.sampled_from([0, 2]))
def test_messages_come_back(values: list[object], indent: int) -> None:
    """One level of an array is taken apart; each message is one line, however the client wrote it."""
    body = msgspec.json.format(msgspec.json.encode(values), indent=indent)
    record = record_of(1, APPENDED, Entry(nonce="n"), messages_of(body))
    found = content_of(record)
    assert found is not None
    assert not isinstance(found, bytes)
    assert [msgspec.json.decode(one) for one in found] == msgspec.json.decode(body)
    assert b"\n" not in record.payload


@pytest.mark.parametrize("body", [b"", b"{", b"[1,]", b"1 2", b"\xff", b'"\xff"', b"nul", b"[" * 100_000])
def test_what_is_no_json(body: bytes) -> None:
    with pytest.raises(BadRequest):
        messages_of(body)


def test_numbers_stay_as_they_were_written() -> None:
    assert [bytes(one) for one in messages_of(b"[1.0, 12345678901234567890123, 1e3]")] == [
        b"1.0", b"12345678901234567890123", b"1e3",
    ]  # fmt: skip


@given(st.integers(0, 10**15), st.integers(0, 10**15))
def test_offsets_sort_as_text(one: int, other: int) -> None:
    assert (token(one) < token(other)) == (one < other)
    assert number_of(token(one)) == one


@pytest.mark.parametrize(
    "offset", ["", "-1", "now", "1", f"{1:016d}_{1:016d}", f"{1:016d}_{0:016d}\n", "١" * 16 + "_" + "0" * 16]
)
def test_what_is_no_offset(offset: str) -> None:
    with pytest.raises(BadRequest):
        number_of(offset)


def test_content_types() -> None:
    assert media_type("Text/Plain; charset=UTF-8") == "text/plain"
    assert is_text("application/JSON; charset=utf-8")
    assert not is_text("application/octet-stream")
    for wrong in ("", "text", "text/", "text/plain\r\nx: y", "a b/c"):
        with pytest.raises(BadRequest):
            media_type(wrong)
