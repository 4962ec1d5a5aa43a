"""The stream of a response as events of ours: taken up at any place of any log, nothing is lost or repeated."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.http.test_responses import ASKED, decoded, frames_of, records, steps
from unspool.content import fold
from unspool.errors import RunFailed
from unspool.events import DELTAS, Event, Record, encode_data
from unspool.http.dialects.responses.inputs import items_of, to_chat
from unspool.providers.call import ModelCall
from unspool.providers.responses_stream import Begun, Position, ResponseStream, begun_of, to_input, to_tools

Json = dict[str, Any]

CALL = "s/1/main/0/1"
ends = st.sampled_from([("completed", {"finish_reason": reason}) for reason in ("stop", "length")])
usages = st.just(("usage", {"call_id": "u", "model": "m", "input_tokens": 5, "output_tokens": 7}))


def upstream(middle: Sequence[tuple[str, Json]], end: tuple[str, Json]) -> list[Json]:
    """What the provider would send: our own dialect."""
    return decoded(frames_of(records([ASKED, *middle, end])))


def streamed(sent: Sequence[Json], begun: Begun | None, every: int) -> list[Event]:
    """What a run emits of it, from where it is taken up."""
    answer = ResponseStream(ModelCall("m", "openai", CALL), begun)
    told = [] if begun is not None else [answer.call.started()]
    for chunk in sent[answer.number + 1 :]:
        told += answer.feed(chunk)
        if answer.due(every):
            told.append(answer.position_event())
    assert answer.ended
    return told


def logged(events: Sequence[Event], random: Random, after: int = 0) -> list[Record]:
    """As a writer may have committed them: neighbours of the same part merge, or do not."""
    merged: list[Event] = []
    for event in events:
        if merged and joins(merged[-1], event) and random.random() < 0.6:
            text = merged[-1].data["text"] + event.data["text"]
            merged[-1] = Event(event.type, {**event.data, "text": text})
        else:
            merged.append(event)
    return [
        Record(offset, event.type, encode_data(event.data), event.internal)
        for offset, event in enumerate(merged, after + 1)
    ]


def joins(one: Event, other: Event) -> bool:
    place = DELTAS.get(other.type)
    return place is not None and one.type == other.type and one.data[place] == other.data[place]


def said(log: Sequence[Record]) -> list[tuple[str, Json]]:
    """The log as viewers see it, however it was cut into records."""
    found: list[Event] = []
    for record in log:
        if record.internal:
            continue
        event = record.event
        if found and joins(found[-1], event):
            event = Event(event.type, {**event.data, "text": found.pop().data["text"] + event.data["text"]})
        found.append(event)
    return [(event.type, event.data) for event in found]


@given(st.lists(steps | usages, max_size=40), ends, st.integers(1, 30), st.randoms(use_true_random=False), st.data())
def test_a_log_that_was_cut_anywhere_is_continued(
    middle: list[tuple[str, Json]], end: tuple[str, Json], every: int, random: Random, data: st.DataObject
) -> None:
    """Its owner dies after any record, and the one who continues it dies as well: together they wrote what one would
    have written, and the provider was never asked for what was before the position."""
    sent = upstream(middle, end)
    whole = streamed(sent, None, every)
    log = logged(whole, random)
    for _ in range(2):
        cut = log[: data.draw(st.integers(1, len(log)))]
        begun = begun_of(cut, "s/1/main/0/")
        assert begun is not None
        assert begun.call_id == CALL
        if begun.finished and (begun.usage_told or not any(event.type == "usage" for event in whole)):
            return
        log = [*cut, *logged(streamed(sent, begun, every), random, len(cut))]
        expected = sorted(map(repr, said(logged(whole, random))))
        assert sorted(map(repr, said(log))) == expected  # the usage may come at another place
        without = [event for event in said(log) if event[0] != "usage"]
        assert without == [event for event in said(logged(whole, random)) if event[0] != "usage"]
        assert fold(log).parts == fold(logged(whole, random)).parts


def test_positions_are_sparse() -> None:
    """A long text has one for every so many events; none says more than what is in the log."""
    sent = upstream(
        [("text.delta", {"text": f"{n} ", "part_id": "p"}) for n in range(1000)],
        ("completed", {"finish_reason": "stop"}),
    )
    told = streamed(sent, None, 64)
    positions = [event.data["sequence_number"] for event in told if event.internal]
    assert len(positions) <= 1000 / 64 + 3
    assert positions[0] == 0


@pytest.mark.parametrize("again", [["abcdef"], [*"abcdef"], ["a", "bcde", "f"], ["ab", "cd", "ef"], ["abc", "def"]])
def test_text_may_be_cut_elsewhere_the_second_time(again: list[str]) -> None:
    """What came is left out to the character, however the log and the provider cut it; each position says
    what the log has."""

    def sent(words: list[str]) -> list[Json]:
        deltas = [("text.delta", {"text": word, "part_id": "p"}) for word in words]
        return upstream(deltas, ("completed", {"finish_reason": "stop"}))

    start = ResponseStream(ModelCall("m", "openai", CALL))
    [chunk] = [chunk for chunk in sent(["abcd"]) if chunk["type"] == "response.output_text.delta"]
    begun = Begun(CALL, Position("resp_1", 1), list(start.feed(chunk)))
    chunks, text = sent(again), "abcd"
    for event in streamed(chunks, begun, 1):
        if event.type == "text.delta":
            text += event.data["text"]
        elif event.internal:
            before = chunks[: event.data["sequence_number"] + 1]
            assert text == "".join(chunk["delta"] for chunk in before if "delta" in chunk)
    assert text == "abcdef"


def test_what_was_sent_twice_is_taken_once() -> None:
    """A server that begins with the last number again, instead of after it."""
    answer = ResponseStream(ModelCall("m", "openai", CALL))
    sent = upstream([("text.delta", {"text": "abc", "part_id": "p"})], ("completed", {"finish_reason": "stop"}))
    told = [event for chunk in sent for event in (*answer.feed(chunk), *answer.feed(chunk))]
    assert [event.type for event in told] == ["text.delta", "step.finished"]


def test_another_answer_is_not_taken_for_the_same() -> None:
    """A provider that tells something else in the place of what is known is refused, not mixed in."""
    stop = ("completed", {"finish_reason": "stop"})
    log = logged(streamed(upstream([("text.delta", {"text": "abc", "part_id": "p"})], stop), None, 64), Random(1))
    at = next(place for place, record in enumerate(log) if record.type == "text.delta")
    begun = begun_of(log[: at + 1], "s/1/")
    with pytest.raises(RunFailed, match="another answer"):
        streamed(upstream([("text.delta", {"text": "xyz", "part_id": "p"})], stop), begun, 64)


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (("failed", {"code": "rate_limited", "message": "no"}), "rate_limited"),
        (("failed", {"code": "owner_lost", "message": "no"}), "provider_error"),
        (("aborted", {"by": "user"}), "provider_error"),
    ],
)
def test_a_response_that_did_not_come_to_its_end_fails(end: tuple[str, Json], code: str) -> None:
    """With what the run's viewers may know of why."""
    with pytest.raises(RunFailed) as error:
        streamed(upstream([], end), None, 64)
    assert error.value.reason == code


def test_messages_become_input_and_back() -> None:
    """What a run is given in the shape of the chat API arrives as the same conversation."""
    messages: list[Json] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [
            {"type": "text", "text": "Look:"},
            {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "low"}},
            {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA"}},
        ]},
        {"role": "assistant", "content": "I look.", "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "level", "arguments": "{}"}},
        ]},
        {"role": "tool", "tool_call_id": "a", "content": "3"},
        {"role": "user", "content": "And?"},
    ]  # fmt: skip
    assert to_chat(items_of(to_input(messages))) == messages
    tool = {"type": "function", "function": {"name": "level", "parameters": {}}}
    assert to_tools([tool]) == [{"type": "function", "name": "level", "parameters": {}, "strict": False}]
