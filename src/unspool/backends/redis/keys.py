"""The names of things in Redis: everything of one stream lies in one slot, indexes are spread over several."""

from __future__ import annotations

from typing import Final
from zlib import crc32

from unspool.jobs import GenerationKey

SHARDS: Final = 8
"""Parts of each index, so that the nodes of a cluster share them."""


class Keys:
    """Names under one prefix, so that several applications can share a database."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.channels = f"{prefix}:replica:".encode()

    def stream(self, stream_id: str) -> bytes:
        """The stream's hash, and its channel. Its id is the hash tag, so braces in it are written otherwise."""
        tag = stream_id.replace("%", "%25").replace("{", "%7B").replace("}", "%7D")
        return f"{self.prefix}:{{{tag}}}".encode()

    def replica(self, name: str) -> bytes:
        """The channel on which a replica is called."""
        return self.channels + name.encode()

    def leases(self, shard: int) -> bytes:
        """Streams by the time at which the lease of their running generation ends."""
        return f"{self.prefix}:leases:{{{shard}}}".encode()

    def completed(self, shard: int) -> bytes:
        """Generations that completed, by the time at which they were sealed."""
        return f"{self.prefix}:completed:{{{shard}}}".encode()

    def unfinished(self, shard: int) -> bytes:
        """Generations that ended in any other way, likewise."""
        return f"{self.prefix}:unfinished:{{{shard}}}".encode()

    def streams(self, shard: int) -> bytes:
        """Streams by the time at which something was last created on them."""
        return f"{self.prefix}:streams:{{{shard}}}".encode()

    def owner(self, owner: bytes) -> bytes:
        """The streams of one owner, likewise."""
        return self.prefix.encode() + b":owner:" + owner


def shard_of(stream_id: str) -> int:
    return crc32(stream_id.encode()) % SHARDS


def member_of(key: GenerationKey) -> bytes:
    """A generation as a member of an index."""
    return f"{key.generation}:{key.stream_id}".encode()


def key_of(member: bytes) -> GenerationKey:
    number, _, stream_id = member.decode().partition(":")
    return GenerationKey(stream_id, int(number))
