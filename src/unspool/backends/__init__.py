"""Back ends: each a store and a transport, chosen by URL."""

from __future__ import annotations

from urllib.parse import urlsplit

from unspool.backends.memory import MemoryStore, MemoryTransport
from unspool.errors import ConfigurationError
from unspool.protocols import EventTransport, JobStore


def from_url(url: str, *, max_jobs: int) -> tuple[JobStore, EventTransport]:
    """The store and the transport that a URL names. Raises ConfigurationError for one that no back end here serves."""
    parts = urlsplit(url)
    if parts.scheme != "memory":
        raise ConfigurationError(f"store: {parts.scheme or url!r} is not a back end of this version; use memory://")
    if parts.netloc or parts.path.strip("/") or parts.query:
        raise ConfigurationError(f"store: memory:// takes nothing after it, got {url!r}")
    return MemoryStore(max_jobs=max_jobs), MemoryTransport()
