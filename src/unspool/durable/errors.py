"""What can be wrong with a call on a durable stream. `details` carry what a client needs to go on."""

from __future__ import annotations

from unspool.errors import UnspoolError


class StreamDeleted(UnspoolError):
    """The stream was deleted; it is kept only for the streams that were forked from it."""

    code, status, fault = "stream_deleted", 410, "caller"


class StreamConflict(UnspoolError):
    """There is a stream at this path already, with another configuration."""

    code, status, fault = "stream_conflict", 409, "caller"


class StreamClosed(UnspoolError):
    """The stream is closed: nothing can be appended to it any more. Details: `next_offset`, its final one."""

    code, status, fault = "stream_closed", 409, "caller"


class ContentTypeMismatch(UnspoolError):
    """The content type is not the one of the stream."""

    code, status, fault = "content_type_mismatch", 409, "caller"


class SequenceConflict(UnspoolError):
    """`Stream-Seq` must be greater, byte by byte, than the last one that was accepted."""

    code, status, fault = "sequence_conflict", 409, "caller"


class ProducerGap(UnspoolError):
    """An append of this producer is missing in between. Details: `expected_seq`, `received_seq`."""

    code, status, fault = "producer_gap", 409, "caller"


class ProducerFenced(UnspoolError):
    """A producer of the same id has a higher epoch. Details: `producer_epoch`, the current one."""

    code, status, fault = "producer_fenced", 403, "caller"


class StreamFull(UnspoolError):
    """The append would make the stream larger than this server lets one become."""

    code, status, fault = "stream_full", 413, "caller"


class Trimmed(UnspoolError):
    """What follows this offset is no longer kept."""

    code, status, fault = "trimmed", 410, "caller"
