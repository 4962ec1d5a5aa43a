"""Back ends: each a store and a transport, chosen by URL or by a client object."""

from __future__ import annotations

from types import ModuleType
from urllib.parse import urlsplit

from unspool.backends.memory import MemoryStore, MemoryTransport
from unspool.errors import ConfigurationError
from unspool.options import Options
from unspool.protocols import EventTransport, JobStore


def connect(target: str | object, options: Options) -> tuple[JobStore, EventTransport]:
    """The store and the transport that a URL names, or around a client object, which stays open.

    Raises ConfigurationError for what no back end serves.
    """
    retention = max(options.retention, options.completed_retention or 0.0)
    if not isinstance(target, str):
        return _redis().from_client(target, retention=retention)
    parts = urlsplit(target)
    scheme = parts.scheme.partition("+")[0]
    if scheme in ("redis", "rediss", "valkey", "valkeys", "unix"):
        return _redis().from_url(target, retention=retention)
    if scheme != "memory":
        raise ConfigurationError(
            f"store: {parts.scheme or target!r} is not a back end of this version; use memory:// or redis://host:port"
        )
    if parts.netloc or parts.path.strip("/") or parts.query:
        raise ConfigurationError(f"store: memory:// takes nothing after it, got {target!r}")
    return MemoryStore(max_jobs=options.max_jobs), MemoryTransport()


def _redis() -> ModuleType:
    try:
        from unspool.backends import redis
    except ImportError as error:
        raise ConfigurationError(f"store: Redis needs the extra: pip install 'unspool[redis]' ({error})") from error
    return redis
