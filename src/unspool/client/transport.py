"""What the HTTP library raises, as the client's own errors."""

from __future__ import annotations

import httpx2

from unspool.client.errors import UnexpectedAnswer, Unreachable
from unspool.errors import ConfigurationError, UnspoolError


def lost_connection(url: str, error: httpx2.HTTPError | httpx2.InvalidURL) -> UnspoolError:
    """The error that a caller meets."""
    cause = str(error) or type(error).__name__
    if isinstance(error, httpx2.InvalidURL):
        return ConfigurationError(f"url {url!r} is not valid: {cause}")
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        return Unreachable(f"no server answers at {url}", connected=False)
    if isinstance(error, httpx2.TransportError):
        return Unreachable(f"the connection to {url} broke: {cause}")
    return UnexpectedAnswer(f"{url}: {cause}")
