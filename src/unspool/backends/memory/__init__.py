"""The memory back end: one process, nothing to install, everything bounded."""

from unspool.backends.memory.store import MemoryStore
from unspool.backends.memory.transport import MemoryTransport

__all__ = ["MemoryStore", "MemoryTransport"]
