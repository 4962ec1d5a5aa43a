"""The encoder and the decoder, by tables: each case fed whole, byte by byte, and split at every place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unspool.events import Record
from unspool.jobs import GenerationKey
from unspool.sse import KEEP_ALIVE, Decoder, Message, native_frame, with_retry

TWO_LINES = Message("message", "a\nb", None)
WITH_ID = Message("message", "a", "1")

CASES = {
    "one message": (b"data: a\n\n", [Message("message", "a", None)]),
    "type and id": (b"event: x\ndata: a\nid: 7\n\n", [Message("x", "a", "7")]),
    "several data lines": (b"data: a\ndata: b\ndata:\n\n", [Message("message", "a\nb\n", None)]),
    "empty data is a message": (b"data\n\n", [Message("message", "", None)]),
    "no data, no message": (b"event: x\n\ndata: b\n\n", [Message("message", "b", None)]),
    "an id-only block moves the position": (b"id: 9\n\ndata: b\n\n", [Message("message", "b", "9")]),
    "carriage returns": (b"data: a\rdata: b\r\rdata: c\r\r", [TWO_LINES, Message("message", "c", None)]),
    "both": (b"data: a\r\ndata: b\r\n\r\n", [Message("message", "a\nb", None)]),
    "a byte order mark": (b"\xef\xbb\xbfdata: a\n\n", [Message("message", "a", None)]),
    "one space after the colon goes": (b"data:  a\ndata:b\n\n", [Message("message", " a\nb", None)]),
    "comments": (b": ka\ndata: a\n: ka\n\n", [Message("message", "a", None)]),
    "unknown fields": (b"foo: 1\ndata: a\nbar\n\n", [Message("message", "a", None)]),
    "an id with NUL is ignored": (b"id: 1\0\ndata: a\n\n", [Message("message", "a", None)]),
    "an empty id resets": (b"id: 1\ndata: a\n\nid:\ndata: b\n\n", [WITH_ID, Message("message", "b", None)]),
    "retry in a block": (b"retry: 1500\ndata: a\n\n", [Message("message", "a", None, 1500)]),
    "retry must be digits": (b"retry: 1s\ndata: a\n\n", [Message("message", "a", None)]),
    "retry must be a time": (b"retry: " + b"9" * 5000 + b"\ndata: a\n\n", [Message("message", "a", None)]),
    "text beyond ASCII": ("data: ü€😀\n\n".encode(), [Message("message", "ü€😀", None)]),
    "what the end cuts off is thrown away": (b"data: a\n\ndata: b\n", [Message("message", "a", None)]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_decoding_does_not_depend_on_how_the_bytes_are_cut(case: str) -> None:
    """The messages are those of the standard, whole, byte by byte and at every single cut."""
    data, expected = CASES[case]
    assert Decoder().feed(data) == expected
    decoder = Decoder()
    assert [message for byte in data for message in decoder.feed(bytes([byte]))] == expected
    for cut in range(len(data)):
        decoder = Decoder()
        assert decoder.feed(data[:cut]) + decoder.feed(data[cut:]) == expected


def test_the_position_of_an_incomplete_block_does_not_count() -> None:
    """A block that is cut off after its id moves nothing: its event was never delivered."""
    decoder = Decoder("3-1")
    decoder.feed(b"data: a\nid: 3-2\n")
    assert decoder.last_event_id == "3-1"
    decoder.feed(b"\n")
    assert decoder.last_event_id == "3-2"


def test_a_frame_ends_with_its_id() -> None:
    """`id:` is the last field: clients that commit it early lose the event otherwise."""
    frame = native_frame(GenerationKey("s", 3), Record(17, "text.delta", b'{"text":"a"}'))
    assert frame == b'event: text.delta\ndata: {"text":"a"}\nid: 3-17\n\n'
    assert with_retry(frame, 1000).startswith(b"retry: 1000\nevent: ")


def test_a_keep_alive_is_no_block() -> None:
    """One comment line without a blank line: no client makes an empty message of it, and no block is broken by it."""
    assert KEEP_ALIVE.startswith(b":")
    assert KEEP_ALIVE.count(b"\n") == 1
    decoder = Decoder()
    assert decoder.feed(KEEP_ALIVE * 3 + b"data: a\n\n" + KEEP_ALIVE) == [Message("message", "a", None)]


@given(st.lists(st.tuples(st.text(), st.integers(1, 9), st.integers(1, 99))), st.data())
def test_what_is_encoded_is_decoded(records: list[tuple[str, int, int]], data: st.DataObject) -> None:
    """Any text, cut anywhere, comes out as it went in, with its position."""
    from unspool.events import encode_data

    texts = [text.encode(errors="replace").decode() for text, _, _ in records]
    stream = b"".join(
        native_frame(GenerationKey("s", generation), Record(offset, "text.delta", encode_data({"text": text})))
        for text, (_, generation, offset) in zip(texts, records, strict=True)
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    decoder = Decoder()
    messages = [m for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True) for m in decoder.feed(stream[a:b])]
    assert [message.data for message in messages] == [encode_data({"text": text}).decode() for text in texts]
    assert [message.id for message in messages] == [f"{generation}-{offset}" for _, generation, offset in records]
