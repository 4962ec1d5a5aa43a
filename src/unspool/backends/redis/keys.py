"""The names of things in Redis: everything of one stream lies in one slot, indexes are spread over several."""

from __future__ import annotations

from typing import Final
from zlib import crc32

from unspool.jobs import GenerationKey

SHARDS: Final = 8
"""Parts of each index, so that the nodes of a cluster share them."""


class Keys:
    """Names under one prefix of one database, so that several applications can share a server."""

    def __init__(self, prefix: str, database: int = 0) -> None:
        self.prefix = prefix
        # A server's channels are shared by all of its databases: a hint from another database is about other streams.
        self._spoken = f"{prefix}:@{database}" if database else prefix
        self.channels = f"{self._spoken}:replica:".encode()

    def stream(self, name: str) -> bytes:
        """The stream's hash. Its internal name is the hash tag, so braces in it are written otherwise."""
        return _named(self.prefix, name)

    def channel(self, name: str) -> bytes:
        """The stream's channel, in the slot of its hash: what the scripts announce there concerns this database."""
        return _named(self._spoken, name)

    def replica(self, name: str) -> bytes:
        """The channel on which a replica is called."""
        return self.channels + name.encode()

    @property
    def numbers(self) -> bytes:
        """A hash of the number above which generations count where the database has lost some, and of the last note of
        each process: see `floor.py`."""
        return f"{self.prefix}:numbers:{{0}}".encode()

    def leases(self, shard: int) -> bytes:
        """Streams by the time at which the lease of their running generation ends."""
        return f"{self.prefix}:leases:{{{shard}}}".encode()

    def completed(self, shard: int) -> bytes:
        """Generations that completed, by the time at which they were sealed."""
        return f"{self.prefix}:completed:{{{shard}}}".encode()

    def unfinished(self, shard: int) -> bytes:
        """Generations that ended in any other way, by the time at which they were sealed."""
        return f"{self.prefix}:unfinished:{{{shard}}}".encode()

    def streams(self, shard: int) -> bytes:
        """Streams by the time at which something was last created on them."""
        return f"{self.prefix}:streams:{{{shard}}}".encode()

    def owner(self, owner: bytes) -> bytes:
        """The streams of one owner by the time at which something was last created on them."""
        return self.prefix.encode() + b":owner:" + owner


def _named(prefix: str, name: str) -> bytes:
    tag = name.replace("%", "%25").replace("{", "%7B").replace("}", "%7D")
    return f"{prefix}:{{{tag}}}".encode()


def shard_of(name: str) -> int:
    return crc32(name.encode()) % SHARDS


def member_of(key: GenerationKey) -> bytes:
    """A generation as a member of an index."""
    return f"{key.generation}:{key.stream_id}".encode()


def key_of(member: bytes) -> GenerationKey:
    number, _, name = member.decode().partition(":")
    return GenerationKey(name, int(number))
