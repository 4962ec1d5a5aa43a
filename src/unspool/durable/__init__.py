"""Durable streams: append-only streams at paths, written and followed by anybody who knows the path and may."""

from unspool.durable.entries import Fork, Producer, messages_of
from unspool.durable.forks import Wish
from unspool.durable.live import Live, Shared
from unspool.durable.offsets import marked, number_of, token
from unspool.durable.reading import Chunk
from unspool.durable.state import Append
from unspool.durable.streams import Appended, DurableOptions, DurableStreams, Info

__all__ = [
    "Append",
    "Appended",
    "Chunk",
    "DurableOptions",
    "DurableStreams",
    "Fork",
    "Info",
    "Live",
    "Producer",
    "Shared",
    "Wish",
    "marked",
    "messages_of",
    "number_of",
    "token",
]
