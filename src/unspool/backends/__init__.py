"""Back ends: each a store and a transport, chosen by URL or by a client object."""

from __future__ import annotations

from types import ModuleType
from urllib.parse import urlsplit

from unspool.backends.memory import MemoryStore, MemoryTransport
from unspool.errors import ConfigurationError
from unspool.options import Options
from unspool.protocols import EventTransport, JobStore


def from_url(url: str, options: Options) -> tuple[JobStore, EventTransport]:
    """The store and the transport that a URL names. Raises ConfigurationError for one that no back end serves."""
    parts = urlsplit(url)
    scheme = parts.scheme.partition("+")[0]
    if scheme in ("redis", "rediss", "valkey", "valkeys", "unix"):
        return _redis().from_url(url, retention=_longest_retention(options))
    if scheme != "memory":
        raise ConfigurationError(
            f"store: {parts.scheme or url!r} is not a back end of this version; use memory:// or redis://host:port"
        )
    if parts.netloc or parts.path.strip("/") or parts.query:
        raise ConfigurationError(f"store: memory:// takes nothing after it, got {url!r}")
    return MemoryStore(max_jobs=options.max_jobs), MemoryTransport()


def from_client(client: object, prefix: str, options: Options) -> tuple[JobStore, EventTransport]:
    """The same around a client of redis-py, which stays open. Raises ConfigurationError for any other object."""
    return _redis().from_client(client, prefix=prefix, retention=_longest_retention(options))


def _redis() -> ModuleType:
    try:
        from unspool.backends import redis
    except ImportError as error:
        raise ConfigurationError(f"store: Redis needs the extra: pip install 'unspool[redis]' ({error})") from error
    return redis


def _longest_retention(options: Options) -> float:
    return max(options.retention, options.completed_retention or 0.0)
