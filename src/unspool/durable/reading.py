"""What a reader is given at once."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from unspool.durable.entries import Content, is_json, is_text


class Chunk(msgspec.Struct, frozen=True):
    """What stands between two places of a stream: bytes in `parts` or, in a JSON stream, messages.

    `after`, `next`: the numbers before and after it. `up_to_date`: nothing more was there. `closed`: and nothing ever
    will be. `begins`, `last`: the last records that were looked at, with content or without, before it and in it.
    `ttl`: the seconds for which having read it keeps the stream; None: it is kept anyhow. `mark`: of its offsets.
    """

    generation: int
    content_type: str
    parts: Sequence[bytes]
    after: int
    next: int
    up_to_date: bool = False
    closed: bool = False
    begins: int = 0
    last: int = 0
    ttl: int | None = None
    mark: int = 0

    @property
    def json(self) -> bool:
        return is_json(self.content_type)

    @property
    def is_text(self) -> bool:
        """Whether it can travel in an event stream as it is."""
        return is_text(self.content_type)

    def body(self) -> bytes:
        """The body of an answer: the bytes, or an array of the messages."""
        return b"[%b]" % b",".join(self.parts) if self.json else b"".join(self.parts)


def add(parts: list[bytes], content: Content) -> int:
    """Put content behind what is there; answers how many bytes it has."""
    found = [content] if isinstance(content, bytes) else [bytes(message) for message in content]
    parts.extend(found)
    return sum(map(len, found))
