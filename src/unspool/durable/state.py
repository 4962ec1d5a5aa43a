"""A durable stream as it stands, folded from its log; and the decision whether an append is accepted. No I/O.

The law of an append, in this order: a producer that was overtaken by a higher epoch is refused; what a producer has
appended before is a duplicate, and nothing happens; a closed stream takes nothing; the content type is the stream's;
a producer begins each epoch at 0 and leaves no gap; `Stream-Seq` rises.
"""

from __future__ import annotations

from typing import Final

import msgspec

from unspool.durable.entries import (
    DELETED,
    LINKED,
    OPENED,
    UNLINKED,
    Config,
    Content,
    Entry,
    Producer,
    Ref,
    entry_of,
    media_type,
)
from unspool.durable.errors import (
    ContentTypeMismatch,
    ProducerFenced,
    ProducerGap,
    SequenceConflict,
    StreamClosed,
    StreamFull,
)
from unspool.durable.offsets import token
from unspool.errors import BadRequest
from unspool.events import Record

PRODUCERS: Final = 10_000
"""Producers that a stream remembers; the one that was silent longest is forgotten, and may begin anew."""


class Append(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody wants to append. `content` None: nothing, only close. `seq`: the `Stream-Seq`, where it has one."""

    content: Content | None = None
    content_type: str | None = None
    producer: Producer | None = None
    seq: str | None = None
    close: bool = False

    def entry(self, nonce: str) -> Entry:
        return Entry(nonce=nonce, producer=self.producer, seq=self.seq, closed=self.close)


class State(msgspec.Struct):
    """The fold of records 1 to `offset`, the last of which has this `nonce`. `tail`: the number of the last one with
    content, inherited ones included."""

    offset: int = 0
    nonce: str = ""
    config: Config | None = None
    tail: int = 0
    bytes: int = 0
    closed: bool = False
    seq: str | None = None
    producers: dict[str, tuple[int, int]] = {}
    forks: list[Ref] = []
    deleted: bool = False
    sealed: bool = False

    @property
    def there(self) -> Config:
        """The configuration of a stream that exists."""
        assert self.config is not None
        return self.config

    @property
    def last(self) -> int:
        """The number of the last record, with content or without."""
        return (self.config.base if self.config is not None else 0) + self.offset

    def leads_to(self, record: Record) -> bool:
        """Whether a record that stands next in the log was written after just what this is the fold of."""
        return not self.offset or record.terminal or entry_of(record).after == self.nonce

    def apply(self, record: Record) -> None:
        """Take the next record in; those that are in are passed over."""
        if record.offset <= self.offset:
            return
        self.offset = record.offset
        self.bytes += len(record.payload)
        if record.terminal:
            self.sealed = True
            return
        entry = entry_of(record)
        self.nonce = entry.nonce
        if record.type == OPENED and entry.config is not None:
            self.config = entry.config
            self.tail = entry.config.base
        elif record.type == DELETED:
            self.deleted = True
        elif record.type == LINKED and entry.fork is not None:
            self.forks = [*self.forks, entry.fork]
        elif record.type == UNLINKED:
            self.forks = [ref for ref in self.forks if ref != entry.fork]
        if entry.size:
            self.tail = self.last
        if entry.producer is not None:
            self._remember(entry.producer)
        if entry.seq is not None:
            self.seq = entry.seq
        self.closed = self.closed or entry.closed

    def _remember(self, producer: Producer) -> None:
        self.producers.pop(producer.id, None)
        self.producers[producer.id] = (producer.epoch, producer.seq)  # the latest stand last
        if len(self.producers) > PRODUCERS:
            del self.producers[next(iter(self.producers))]

    def admit(self, append: Append, limit: int) -> bool:
        """True when it is to be appended, False for what was done before. Raises what it is refused with.

        `limit`: the bytes up to which a stream may grow; 0: any number.
        """
        known = None
        if append.producer is not None:
            known = self.producers.get(append.producer.id)
            if known is not None and append.producer.epoch < known[0]:
                raise ProducerFenced(producer_epoch=known[0])
            if known is not None and append.producer.epoch == known[0] and append.producer.seq <= known[1]:
                return False
        if self.closed:
            if append.content is None and append.producer is None:
                return False
            raise StreamClosed(next_offset=token(self.tail), closed=True)
        if append.content is not None:
            self._check_type(append.content_type)
        if append.producer is not None:
            _check_sequence(append.producer, known)
        if append.seq is not None and self.seq is not None and append.seq <= self.seq:
            raise SequenceConflict(f"Stream-Seq {append.seq!r} does not follow on {self.seq!r}")
        if limit and append.content is not None and self.bytes + _size(append.content) > limit:
            raise StreamFull(f"the stream has {self.bytes} of at most {limit} bytes")
        return True

    def _check_type(self, content_type: str | None) -> None:
        if content_type is None:
            raise BadRequest("an append needs a Content-Type", field="Content-Type")
        if media_type(content_type) != media_type(self.there.content_type):
            raise ContentTypeMismatch(f"the stream is {self.there.content_type}, not {content_type[:80]}")

    def dump(self) -> bytes:
        """Bytes from which `load` makes an equal state."""
        return _encode(self)

    @classmethod
    def load(cls, data: bytes) -> State:
        return _decode(data)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(State).decode


def _check_sequence(producer: Producer, known: tuple[int, int] | None) -> None:
    if known is not None and producer.epoch > known[0] and producer.seq != 0:
        raise BadRequest("a new epoch of a producer begins at Producer-Seq 0", field="Producer-Seq")
    expected = known[1] + 1 if known is not None and known[0] == producer.epoch else 0
    if producer.seq != expected:
        raise ProducerGap(expected_seq=expected, received_seq=producer.seq)


def _size(content: Content) -> int:
    return len(content) if isinstance(content, bytes) else sum(len(bytes(message)) for message in content)
