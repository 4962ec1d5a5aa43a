"""The Python client: start, follow and stop generations of a server, through whatever happens to the connection."""

from __future__ import annotations

from importlib.util import find_spec

if find_spec("httpx2") is None:
    from unspool.errors import ConfigurationError

    raise ConfigurationError("the client needs the extra 'client' (httpx2): pip install 'unspool[client]'")

from unspool.client.answers import Outcome, Received, Started, StreamState, Summary
from unspool.client.asynchronous import Client
from unspool.client.blocking import SyncClient
from unspool.client.errors import Refused, UnexpectedAnswer, Unreachable
from unspool.client.follow import State

__all__ = [
    "Client",
    "Outcome",
    "Received",
    "Refused",
    "Started",
    "State",
    "StreamState",
    "Summary",
    "SyncClient",
    "UnexpectedAnswer",
    "Unreachable",
]
