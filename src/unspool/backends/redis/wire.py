"""The stored form of records and jobs in Redis. Pure.

A log entry and the hint that announces it are the same bytes, JSON: `[generation, first offset, [[type, data], …],
mark]`, with a third item `true` where a record is internal; without records, as a mere notice, `[generation, last
offset, [], mark]`. The mark tells logs of one number apart (`mark_of`). Payloads are embedded as they are and come back
byte by byte. `redis-cli` shows them as text.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple, get_type_hints

import msgspec

from unspool.errors import UnreadableRecord
from unspool.events import Record
from unspool.jobs import (
    AbortRequest,
    GenerationKey,
    Job,
    Lease,
    Limits,
    Metadata,
    Owner,
    Status,
    Task,
    patched,
    stream_of,
)

_encode: Final = msgspec.json.encode
_log = logging.getLogger("unspool.redis")


class _Item(msgspec.Struct, array_like=True, gc=False):
    type: str
    payload: msgspec.Raw
    internal: bool = False


class _Entry(msgspec.Struct, array_like=True, gc=False):
    generation: int
    first: int
    items: list[_Item] = []
    mark: int = 0


# This version passes over items that a newer one appends to these, and fields of objects that it does not know.
class _Owner(msgspec.Struct, array_like=True):
    user: str | None
    tenant: str | None


class _Abort(msgspec.Struct, array_like=True):
    by: str
    reason: str | None
    at: float


_entry: Final = msgspec.json.Decoder(_Entry)
_call: Final = msgspec.json.Decoder(tuple[str, int])
_owner: Final = msgspec.json.Decoder(_Owner)
_abort: Final = msgspec.json.Decoder(_Abort)
_limits: Final = msgspec.json.Decoder(Limits)
_task: Final = msgspec.json.Decoder(Task)
_metadata: Final[Mapping[bytes, tuple[str, msgspec.json.Decoder[Any]]]] = {
    f"m:{name}".encode(): (name, msgspec.json.Decoder(kind)) for name, kind in get_type_hints(Metadata).items()
}


EXTRA: Final = b"m:extra"
"""The field of the metadata that changes are merged into."""


@lru_cache(1024)
def _name(type: str) -> bytes:
    return _encode(type)


# records


_EPOCHS: Final = 100_000
"""Epochs of one generation, at most."""


@lru_cache(4096)
def mark_of(log: str) -> int:
    """A number that tells a log from any other of the same generation number; 0 for a job of an older version."""
    return zlib.crc32(log.encode()) % 999_999 + 1 if log else 0


def epoch_of(log: str, epoch: int) -> int:
    """An epoch as it stands in the fence: those of two logs of one number never agree."""
    return epoch_under(mark_of(log), epoch)


def epoch_under(mark: int, epoch: int) -> int:
    """Put the mark of a log before an epoch."""
    return mark * _EPOCHS + epoch


def mark_in(epoch: int) -> int:
    """The mark of the log whose epoch this is, as it stands in the fence."""
    return epoch // _EPOCHS


def entry_of(generation: int, records: Sequence[Record], mark: int) -> bytes:
    """A log entry of records that follow on one another."""
    items = [
        b"[%b,%b,true]" % (_name(record.type), record.payload)
        if record.internal
        else b"[%b,%b]" % (_name(record.type), record.payload)
        for record in records
    ]
    return b"[%d,%d,[%b],%d]" % (generation, records[0].offset, b",".join(items), mark)


def notice_of(generation: int, last: int, mark: int) -> bytes:
    """A hint without records, for batches that are too large to be published."""
    return b"[%d,%d,[],%d]" % (generation, last, mark)


def hint_of(data: bytes) -> tuple[int, int, int, list[Record]]:
    """The generation, the mark, the last offset and the records of an entry or a notice."""
    entry = _entry.decode(data)
    records = [
        Record(offset, item.type, bytes(item.payload), item.internal)
        for offset, item in enumerate(entry.items, entry.first)
    ]
    return entry.generation, entry.mark, _last(entry), records


def records_of(entry: bytes) -> list[Record]:
    """The records of an entry."""
    return hint_of(entry)[3]


def last_of(entry: bytes) -> int:
    """The last offset of an entry."""
    return _last(_entry.decode(entry))


def _last(entry: _Entry) -> int:
    return entry.first + max(len(entry.items) - 1, 0)


def packed(entries: Sequence[bytes]) -> bytes:
    """A whole log in one piece, a line for each entry: JSON as it is made here has no line breaks."""
    return zlib.compress(b"\n".join(entries), 6)


def unpacked(data: bytes) -> list[bytes]:
    return zlib.decompress(data).split(b"\n")


def call_of(data: bytes) -> tuple[str, int]:
    """The generation that an owner is called about: the stream's internal name, the number."""
    return _call.decode(data)


# jobs: a hash, and the fence that stands beside it


def owner_bytes(owner: Owner) -> bytes:
    return _encode(tuple(owner))


def limits_bytes(limits: Limits) -> bytes:
    return _encode(limits)


def json_bytes(value: object) -> bytes:
    return _encode(value)


def metadata_fields(changes: Mapping[str, Any]) -> tuple[list[bytes], list[bytes]]:
    """Fields and values to set, one after the other, and fields to clear."""
    sets: list[bytes] = []
    clears: list[bytes] = []
    for name, value in changes.items():
        if value is None:
            clears.append(f"m:{name}".encode())
        else:
            sets += [f"m:{name}".encode(), _encode(value)]
    return sets, clears


def merged(extra: bytes | None, patch: Mapping[str, Any]) -> Any:
    """The metadata's `extra`, from its field, after a JSON merge patch. Raises UnreadableRecord."""
    try:
        return patched(None if extra is None else _metadata[EXTRA][1].decode(extra), patch)
    except msgspec.DecodeError as error:
        raise UnreadableRecord(f"the metadata cannot be read by this version of unspool: {error}") from error


def known_metadata(metadata: Metadata) -> list[bytes]:
    """Fields and values of a whole Metadata."""
    return metadata_fields(msgspec.structs.asdict(metadata))[0]


class Fence(NamedTuple):
    """The value beside a job: the mark of its log, the epoch, the last offset, and whether it is sealed."""

    mark: int
    epoch: int
    last: int
    sealed: bool

    @classmethod
    def of(cls, data: bytes) -> Fence:
        epoch, last, *sealed = data.split(b":")
        return cls(*divmod(int(epoch), _EPOCHS), int(last), bool(sealed))

    def is_of(self, key: GenerationKey) -> bool:
        """Check that it is the fence of this log; True where one of the two has no mark."""
        return not (self.mark and key.log) or self.mark == mark_of(key.log)


def abort_of(data: bytes | None) -> AbortRequest | None:
    """The Stop that was asked for, if one was."""
    if data is None:
        return None
    found = _abort.decode(data)
    return AbortRequest(found.by, found.reason, found.at)


def job_of(name: str, reply: Sequence[Any]) -> Job:
    """A job of the stream of this name, from what a script answers: the number, fields and values, the fence.

    Raises UnreadableRecord.
    """
    number, flat, fence = reply
    fields: dict[bytes, bytes] = dict(zip(flat[::2], flat[1::2], strict=True))
    try:
        return _job_of(name, int(number), fields, fence)
    except (msgspec.DecodeError, KeyError, ValueError) as error:
        raise UnreadableRecord(
            f"the job {stream_of(name)[0]}/{int(number)} cannot be read by this version of unspool: {error!r}; "
            "upgrade this replica if a newer version shares its store"
        ) from error


def _job_of(name: str, number: int, fields: Mapping[bytes, bytes], fence: bytes) -> Job:
    _, epoch, last, _ = Fence.of(fence)
    owner = _owner.decode(fields[b"owner"])
    settled = fields.get(b"settled")
    request = fields[b"request"]
    return Job(
        stream_id=stream_of(name)[0],
        generation=number,
        status=Status(fields[b"status"].decode()),
        lease=Lease(fields[b"replica"].decode(), epoch, float(fields[b"until"])),
        created_at=float(fields[b"created"]),
        active_at=float(fields[b"active"]),
        user=owner.user,
        tenant=owner.tenant,
        settled_at=float(settled) if settled is not None else None,
        first_offset=int(fields.get(b"first", 1)),
        last_offset=last,
        request_id=request.decode() if request else None,
        token=fields.get(b"token", b"").decode(),
        abort=abort_of(fields.get(b"abort")),
        metadata=_metadata_of(fields),
        limits=_limits.decode(fields[b"limits"]),
        task=_task.decode(fields[b"task"]) if b"task" in fields else None,
        account=fields[b"account"].decode() if b"account" in fields else None,
        synced=fields.get(b"synced") == b"1",
        terminal=Record(last, fields[b"kind"].decode(), fields[b"payload"]) if settled is not None else None,
    )


def _metadata_of(fields: Mapping[bytes, bytes]) -> Metadata:
    """The metadata of a job, without fields of a type that this version does not know: no run depends on them."""
    known: dict[str, Any] = {}
    for field, (name, decoder) in _metadata.items():
        if field in fields:
            try:
                known[name] = decoder.decode(fields[field])
            except msgspec.DecodeError:
                _log.debug("the metadata field %s has a type that this version does not know", name)
    return Metadata(**known)
