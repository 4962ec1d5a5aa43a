"""Lanes: the frames of one dialect for the records that a tail holds, encoded once for all who follow it there."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Final

from unspool.events import Record
from unspool.jobs import GenerationKey
from unspool.projection import Projection, Projector

Encoder = Callable[[GenerationKey, Record], bytes]
"""A dialect's frame for one record; nothing for one that it does not show. A Projector where frames depend on what came
before."""

PIECE: Final = 256 * 1024
"""Bytes after which a piece for one write is large enough: what a viewer that does not read can make us hold."""


class Lane:
    """Frames for records from `first` on. `encode` is called for one record after the other."""

    __slots__ = ("_counts", "after", "encode", "first", "frames", "next", "piece", "upto")

    def __init__(self, encode: Encoder, first: int) -> None:
        self.encode = encode
        self.first = first
        self.next = first  # the offset of the first record that is not encoded yet
        self.frames: list[bytes] = []
        self.piece = (b"", -1)  # what was joined last, and the offset that it reaches
        self.after = self.upto = -1  # where it began, and the last record that there was then
        self._counts: list[int] | None = [encode.projection.count] if isinstance(encode, Projector) else None

    def extend(self, key: GenerationKey, records: Sequence[Record]) -> None:
        """Encode the next records."""
        self.next += len(records)
        encode, counts = self.encode, self._counts
        if counts is None:
            self.frames += [encode(key, record) if not record.internal else b"" for record in records]
            return
        for record in records:
            self.frames.append(encode(key, record))
            counts.append(encode.projection.count)  # pyright: ignore[reportFunctionMemberAccess]

    def drop_before(self, first: int) -> None:
        """Forget frames of older records."""
        cut = first - self.first
        del self.frames[:cut]
        if self._counts is not None:
            del self._counts[:cut]
        self.first = first

    def joined(self, after: int) -> tuple[bytes, int]:
        """Frames after this offset in one piece of bounded size, and the offset that they reach.

        It is kept: those who stand at the same place get the very same bytes.
        """
        if after == self.next - 2:
            data, count = self.frames[-1], 1
        else:
            data, count = join(self.frames[after + 1 - self.first :])
        self.after, self.upto = after, self.next - 1
        self.piece = piece = data, after + count
        return piece

    def find(self, position: int) -> int | None:
        """The offset after which the dialect's own position is this one; None where that is not known here."""
        counts = self._counts
        if counts is None or position < counts[0]:
            return None
        at = bisect_right(counts, position) - 1
        return self.first - 1 + at if counts[at] == position else None


def encoded(encode: Encoder, key: GenerationKey, record: Record) -> bytes:
    """One record's frame. Who encodes record by record is shown no internal ones."""
    if record.internal and not isinstance(encode, Projector):
        return b""
    return encode(key, record)


def lane_of(encode: Encoder) -> Encoder | type[Projection]:
    """What is the same for those who can share a lane."""
    return type(encode.projection) if isinstance(encode, Projector) else encode


def join(frames: Sequence[bytes]) -> tuple[bytes, int]:
    """Frames from the first on in one piece, until it is large enough, and how many they are."""
    size = count = 0
    for frame in frames:
        size += len(frame)
        count += 1
        if size >= PIECE:
            break
    return b"".join(frames[:count]), count
