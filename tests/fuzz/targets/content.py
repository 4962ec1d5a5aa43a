"""What a log may hold: events, metadata, usage, and the checkpoint of a fold."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
from hypothesis import strategies as st

from tests.fuzz.inputs import json_objects, json_values, texts, vocabulary
from tests.fuzz.target import Target, pieces
from unspool.backends.memory import MemoryStore
from unspool.billing import Billing
from unspool.content import Fold, fold
from unspool.errors import InvalidArgument, InvalidEvent, UnspoolError
from unspool.events import REQUIRED, Event, Record, encode_data
from unspool.jobs import Job, Metadata, Owner
from unspool.ledger.usage import LARGEST, normalise, usage_event
from unspool.producer import Generation
from unspool.protocols import NewJob
from unspool.resume import sync_record
from unspool.turns import Turns
from unspool.writer import LogWriter

_odd: st.SearchStrategy[Any] = st.sampled_from(
    [float("nan"), float("inf"), 2**70, -(2**70), "\ud800", b"bytes", {1, 2}, object(), Ellipsis, (1, 2), {1: 2}]
)
_anything = st.recursive(
    json_values | _odd,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts | st.integers() | st.none(), inner, max_size=3),
    max_leaves=5,
)

# events

_types = st.sampled_from([*REQUIRED, "created", "file", "source", "sync", "completed", "my.own"]) | texts | _anything
_fields = st.sampled_from(
    ["text", "part_id", "call_id", "id", "agent", "group", "step", "internal", "name", "arguments", "output", "url",
     "action_id", "decision", "message", "status", "type", "finish_reason", "user_message", "response_id", "title"]
)  # fmt: skip
_data = st.dictionaries(_fields | texts, texts | _anything, max_size=6) | _anything
_known = st.tuples(vocabulary, st.dictionaries(_fields, texts | _anything, max_size=2)).map(
    lambda two: Event(two[0].type, two[0].data | two[1], two[0].internal)
)


async def _emit(events: Sequence[Event]) -> tuple[Job, list[Record]]:
    store, written = MemoryStore(), list[Record]()
    job = (await store.create(NewJob(stream_id="s", owner=Owner(), replica="a", lease=10.0))).job
    lost: list[Exception] = []
    writer = LogWriter(
        store, job.key, 1, written.extend, lost.append, lambda _: None, Turns(),
        last=0, backlog=1000, log_bytes=0,
    )  # fmt: skip

    async def snapshot() -> Any:
        return fold(written)

    generation = Generation(job, writer, snapshot, Billing(None, store, 10.0))
    faults: list[UnspoolError] = []
    for event in events:
        try:
            await generation.emit_event(event)
        except UnspoolError as error:
            faults.append(error)
    await generation.snapshot()
    assert not lost, lost
    assert all(fault.fault == "caller" and fault.message for fault in faults), faults
    return await store.get("s"), written


def check_events(events: list[Event]) -> None:
    """What a log takes, every reader can use: it folds, it can be cut anywhere, it fits into a snapshot."""
    job, records = asyncio.run(_emit(events))
    assert [record.offset for record in records] == list(range(1, len(records) + 1))
    whole = fold(records)
    for cut in {0, len(records) // 2, len(records)}:
        half = Fold()
        half.apply_all(records[:cut])
        again = Fold.load(half.dump())
        again.apply_all(records[cut:])
        assert again.snapshot() == whole
    client = Fold()
    client.apply(sync_record(job, whole, None))
    assert client.snapshot().parts == whole.parts
    for record in records:
        assert isinstance(record.data, dict)
        assert b"\n" not in record.payload


EVENTS = Target(
    name="events",
    claim="what a log takes, every reader can use; all else is refused by a typed error",
    inputs=st.lists(st.one_of(_known, st.builds(Event, _types, _data, st.booleans()), vocabulary), max_size=5),
    check=check_events,
)

# metadata


def check_metadata(fields: dict[str, Any]) -> None:
    """Metadata is taken as it is, or refused by name; what was taken is taken again."""
    try:
        known = Metadata.of(fields)
    except InvalidArgument:
        return
    except InvalidEvent:
        known = None
    if known is None:
        assert not _is_json(fields)
        return
    assert type(known) is Metadata
    told = msgspec.json.encode(known)
    assert msgspec.json.decode(told, type=Metadata) == known
    assert Metadata.of(msgspec.json.decode(told)) == known
    assert Metadata.changes(fields) == {name: getattr(known, name) for name in fields}


def _is_json(value: object) -> bool:
    try:
        encode_data(value)
    except UnspoolError:
        return False
    return True


_names = st.sampled_from(list(Metadata.__struct_fields__))

METADATA = Target(
    name="metadata",
    claim="metadata is taken as it is, or refused by name",
    inputs=st.dictionaries(_names, texts | json_objects | st.integers() | _anything, max_size=5)
    | st.dictionaries(_names | texts, _anything, max_size=3),
    check=check_metadata,
)

# usage


def check_usage(raw: Any) -> None:
    """Figures of any provider become consistent ones, or are refused by name."""
    try:
        usage = normalise(raw)
    except InvalidArgument:
        return
    assert 0 <= usage.cache_read_tokens + usage.cache_write_tokens <= usage.input_tokens <= LARGEST
    assert 0 <= usage.cache_write_1h_tokens <= usage.cache_write_tokens
    assert 0 <= usage.reasoning_tokens <= usage.output_tokens <= LARGEST
    assert usage.raw == raw
    again = normalise({name: value for name, value in msgspec.structs.asdict(usage).items() if name != "raw"})
    assert msgspec.structs.replace(again, raw=None, suspect=usage.suspect) == msgspec.structs.replace(usage, raw=None)
    Record(1, "usage", encode_data(usage_event(usage, call_id="c", model="m", provider="p").data))


_counts = st.integers(0, 1000) | st.none() | st.sampled_from([LARGEST, LARGEST + 1, -1, 1.5, True, "7"]) | json_values
_usage_names = [
    "prompt_tokens", "completion_tokens", "input_tokens", "output_tokens", "total_tokens", "cache_read_tokens",
    "cache_write_tokens", "cache_write_1h_tokens", "reasoning_tokens", "cache_creation_input_tokens",
    "cache_read_input_tokens", "promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount",
    "toolUsePromptTokenCount", "cachedContentTokenCount", "inputTokens", "outputTokens", "cacheReadInputTokens",
    "cacheWriteInputTokens",
]  # fmt: skip
_detail_names = [
    "cached_tokens", "cache_write_tokens", "reasoning_tokens", "thinking_tokens", "cache_read", "cache_creation",
    "ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens", "priority_cache_read", "flex_cache_read",
]  # fmt: skip
_details = st.dictionaries(st.sampled_from(_detail_names), _counts, max_size=3) | json_values
_nested = st.dictionaries(
    st.sampled_from(
        ["prompt_tokens_details", "completion_tokens_details", "input_tokens_details", "output_tokens_details",
         "input_token_details", "output_token_details", "cache_creation", "details"]
    ),
    _details,
    max_size=3,
)  # fmt: skip
_entry = st.fixed_dictionaries({}, optional={"ttl": st.sampled_from(["5m", "1h", 1, None]), "inputTokens": _counts})
_bedrock = st.fixed_dictionaries({}, optional={"cacheDetails": st.lists(_entry, max_size=3) | json_values})

USAGE = Target(
    name="usage",
    claim="figures of any provider become consistent ones, or are refused by name",
    inputs=st.tuples(st.dictionaries(st.sampled_from(_usage_names), _counts, max_size=6), _nested, _bedrock).map(
        lambda three: three[0] | three[1] | three[2]
    )
    | json_values,
    check=check_usage,
)

# checkpoints


def check_checkpoint(state: bytes) -> None:
    """A checkpoint is a dumped fold, or is refused; one that was taken goes on like any other."""
    try:
        taken = Fold.load(state)
    except UnspoolError:
        return
    dumped = taken.dump()
    assert Fold.load(dumped).dump() == dumped
    taken.snapshot()
    for offset, event in enumerate(_CONTINUED, taken.offset + 1):
        taken.apply(Record(offset, event.type, encode_data(event.data)))
    assert Fold.load(taken.dump()).snapshot() == taken.snapshot()


_CONTINUED = [
    Event("text.delta", {"part_id": "1", "text": "a"}),
    Event("reasoning.delta", {"part_id": "1", "text": "a"}),
    Event("tool.args.delta", {"call_id": "1", "text": "a"}),
    Event("tool.result", {"call_id": "1", "output": 1}),
    Event("step.started", {"id": "1"}),
    Event("step.finished", {"id": "1"}),
    Event("tool.auth", {"call_id": "2", "url": "u"}),
    Event("steer.applied", {"id": "1", "text": "a"}),
    Event("approval.resolved", {"action_id": "1", "decision": "yes"}),
]


def _dumped(events: list[Event]) -> dict[str, Any]:
    made = Fold()
    for offset, event in enumerate(events, 1):
        data = (
            {"part_id": "1", **event.data}
            if event.type.endswith("g.delta") or event.type == "text.delta"
            else event.data
        )
        made.apply(Record(offset, event.type, encode_data(data), event.internal))
    return msgspec.json.decode(made.dump())


@st.composite
def _broken(draw: st.DrawFn) -> bytes:
    """A good checkpoint with some values of it replaced, dropped or added, at any depth."""
    state: Any = _dumped(draw(st.lists(vocabulary, max_size=4)))
    for _ in range(draw(st.integers(0, 2))):
        place = state
        while isinstance(place, dict | list) and place:
            key = draw(st.sampled_from(list(place) if isinstance(place, dict) else list(range(len(place)))))
            inner: Any = place[key]
            if not isinstance(inner, dict | list) or not inner or draw(st.booleans()):
                if draw(st.booleans()):
                    place[key] = draw(json_values)
                else:
                    del place[key]
                break
            place = inner
    return encode_data(state)


CHECKPOINT = Target(
    name="checkpoint",
    claim="a checkpoint is a dumped fold, or is refused by a typed error",
    inputs=_broken() | json_values.map(encode_data) | pieces(b"{", b"}", b'"parts":[', b'"offset":', b"[" * 2000),
    check=check_checkpoint,
    raw=True,
    seeds=[encode_data(_dumped(_CONTINUED))],
)

TARGETS = [EVENTS, METADATA, USAGE, CHECKPOINT]
