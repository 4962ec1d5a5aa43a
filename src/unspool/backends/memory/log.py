"""The records of one generation: a list while it grows; packed once it is sealed, since few are read again."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Final

import msgspec

from unspool.events import Record

SEGMENT: Final = 512
"""Records that are packed together: reading a page unpacks two such segments at most."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Record]).decode


class Log:
    """Records with the offsets `first` to `last`, without holes."""

    __slots__ = ("_records", "_segments", "first", "last")

    def __init__(self) -> None:
        self.first = 1
        self.last = 0
        self._records: list[Record] = []
        self._segments: list[bytes] | None = None

    def extend(self, records: Sequence[Record]) -> None:
        self._records.extend(records)
        self.last += len(records)

    def after(self, offset: int, limit: int) -> list[Record]:
        """Up to `limit` records above this offset."""
        start = max(offset + 1 - self.first, 0)
        if self._segments is None:
            return self._records[start : start + limit]
        first, final = start // SEGMENT, (start + limit - 1) // SEGMENT
        found = [record for packed in self._segments[first : final + 1] for record in _decode(zlib.decompress(packed))]
        return found[start - first * SEGMENT :][:limit]

    def trim(self, up_to: int) -> None:
        """Forget the records up to this offset."""
        if up_to >= self.first:
            del self._records[: up_to + 1 - self.first]
            self.first = up_to + 1

    def pack(self) -> None:
        """Keep the records compressed from now on; nothing can be added any more."""
        records, self._records = self._records, []
        starts = range(0, len(records), SEGMENT)
        self._segments = [zlib.compress(_encode(records[start : start + SEGMENT]), 1) for start in starts]
