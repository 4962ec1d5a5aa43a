"""Redis and Valkey: many replicas over one server, over the master that Sentinel names, or over a cluster."""

from __future__ import annotations

from unspool.backends.redis.store import RedisStore
from unspool.backends.redis.topology import Topology, of_client, of_url
from unspool.backends.redis.transport import RedisTransport


def from_url(url: str, *, retention: float) -> tuple[RedisStore, RedisTransport]:
    """A back end at the address that `of_url` describes. Raises ConfigurationError."""
    return _over(*of_url(url), retention)


def from_client(client: object, *, retention: float, prefix: str = "unspool") -> tuple[RedisStore, RedisTransport]:
    """A back end over a client of redis-py, which stays open. Raises ConfigurationError for any other object."""
    return _over(of_client(client), prefix, retention)


def _over(topology: Topology, prefix: str, retention: float) -> tuple[RedisStore, RedisTransport]:
    return RedisStore(topology, prefix=prefix, retention=retention), RedisTransport(topology, prefix=prefix)


__all__ = ["RedisStore", "RedisTransport", "Topology", "from_client", "from_url", "of_client", "of_url"]
