"""Projections: a wire protocol as a pure function of the log, for protocols that number what they send themselves.

A projection is fed the records of one log in order and gives frames for the wire. What it gives for record k depends on
records 1..k and on nothing else, so the same position has the same bytes on every replica. Its fields are its state,
and are JSON: a checkpoint carries them, and so a position can be found again where the records before it were trimmed.
"""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Final, Self, TypeVar

import msgspec

from unspool.errors import UnspoolError
from unspool.events import Record
from unspool.jobs import GenerationKey, Job, stamp, stream_name

REQUEST: Final = "request"
"""The type of the internal record that a dialect begins a log with: what it was asked for, in its own words."""


class _Abstract(msgspec.StructMeta, ABCMeta):
    pass


class Projection(msgspec.Struct, kw_only=True, metaclass=_Abstract):
    """One dialect's view of one log. `offset`: the last record it was fed; `count`: the frames that it gave so far,
    which is the dialect's own position. `stream_id`, `tenant`, `log`, `created_at`: of the job.

    A subclass has a `name`, implements `project`, and adds what it must remember as fields with defaults.
    """

    name: ClassVar[str]
    stream_id: str
    generation: int
    created_at: float
    tenant: str | None = None
    log: str = ""
    offset: int = 0
    count: int = 0

    @abstractmethod
    def project(self, record: Record) -> Sequence[bytes]:
        """The frames that the next record becomes. The only internal one that comes here is the dialect's request."""
        ...

    def feed(self, record: Record) -> Sequence[bytes]:
        """Take the next record in; the frames that it becomes."""
        if record.offset != self.offset + 1:
            raise UnspoolError(f"{self.name} was fed record {record.offset} after {self.offset}")
        self.offset = record.offset
        if record.internal and record.type != REQUEST:
            return ()
        frames = self.project(record)
        self.count += len(frames)
        return frames

    @property
    def key(self) -> GenerationKey:
        return GenerationKey(stream_name(self.stream_id, self.tenant), self.generation)

    @property
    def label(self) -> str:
        """The generation as clients may see it, as `Job.label`."""
        return f"{self.stream_id}/{self.generation}"

    @property
    def stamp(self) -> str:
        """The generation in ids that clients keep, as `Job.stamp`."""
        return stamp(self.generation, self.log)

    @classmethod
    def begin(cls, job: Job) -> Self:
        """Before the first record."""
        return cls(
            stream_id=job.stream_id, generation=job.generation, created_at=job.created_at, tenant=job.tenant,
            log=job.log,
        )  # fmt: skip

    def dump(self) -> bytes:
        """JSON from which `load` makes an equal projection."""
        return msgspec.json.encode(self)

    @classmethod
    def load(cls, state: bytes) -> Self:
        """What was dumped. Raises UnspoolError for anything else."""
        try:
            return msgspec.json.decode(state, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UnspoolError(f"this is not a state of {cls.name}: {error}") from error

    def copy(self) -> Self:
        """An equal one, which goes its own way from here."""
        return self.load(self.dump())


P = TypeVar("P", bound=Projection)


class _Checkpoint(msgspec.Struct):
    dialects: dict[str, msgspec.Raw] = {}


def stored(checkpoint: bytes, projection: type[P]) -> P | None:
    """A dialect's state as the state of a checkpoint has it; None where it has none. Raises UnspoolError."""
    states = msgspec.json.decode(checkpoint, type=_Checkpoint).dialects
    state = states.get(projection.name)
    return None if state is None else projection.load(bytes(state))


class Projector:
    """What one viewer gets its frames through: a projection of its own, until it stands where others of the same
    dialect stand, and shares theirs."""

    __slots__ = ("projection",)

    def __init__(self, projection: Projection) -> None:
        self.projection = projection

    def __call__(self, _: GenerationKey, record: Record) -> bytes:
        return b"".join(self.projection.feed(record))
