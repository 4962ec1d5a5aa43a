"""The requests of the native dialect and what their answers mean, without any I/O."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from unspool.client.answers import Started, Summary
from unspool.client.errors import UnexpectedAnswer
from unspool.errors import ConfigurationError

T = TypeVar("T")

ATTEMPTS: Final = 6
"""How many attempts of one call may fail in a row."""
SILENCE: Final = 40.0
"""Seconds without a byte after which a connection is dead: the server breaks every silence of 15."""


class Call(NamedTuple):
    """One request: a path below the server's URL, what goes into the query and the body."""

    method: str
    path: str
    params: Mapping[str, str]
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = {}


class _Streams(msgspec.Struct):
    streams: list[Summary]


def start(
    stream_id: str,
    messages: str | Sequence[Mapping[str, Any]],
    *,
    model: str | None,
    request_id: str | None,
    expect_generation: int | None,
    metadata: Mapping[str, Any] | None,
) -> Call:
    """The request that starts a generation; the same id however often it has to be sent."""
    listed = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
    body = {
        "messages": listed,
        "request_id": request_id if request_id is not None else secrets.token_urlsafe(16),
        **_set(model=model, expect_generation=expect_generation, metadata=metadata),
    }
    return Call("POST", f"{_path(stream_id)}/generations", {}, body)


def stop(stream_id: str, generation: int, reason: str | None) -> Call:
    return Call("POST", f"{_path(stream_id)}/abort", {}, {"generation": generation, **_set(reason=reason)})


def status(stream_id: str, generation: int | None) -> Call:
    return Call("GET", _path(stream_id), _query(generation=generation))


def listing(status: str | None, limit: int | None) -> Call:
    return Call("GET", "/v1/streams", _query(status=status, limit=limit))


def events(stream_id: str, *, generation: int | None, after: int, snapshot: bool, log: str | None = None) -> Call:
    """The event stream. Once the generation is known, the position goes where a browser puts it."""
    position: dict[str, str] = {}
    if after and generation is not None:
        position["last-event-id"] = f"{generation}-{after}"
    query = _query(generation=generation, snapshot=1 if snapshot else None, log=log or None)
    if after and generation is None:
        query["after"] = str(after)
    headers = {"accept": "text/event-stream", "accept-encoding": "identity", "cache-control": "no-store", **position}
    return Call("GET", f"{_path(stream_id)}/events", query, headers=headers)


def started(url: str, status: int, body: bytes) -> Started:
    return msgspec.structs.replace(answer(url, body, Started), attached=status == 200)


def listed(url: str, body: bytes) -> list[Summary]:
    return answer(url, body, _Streams).streams


def answer(url: str, body: bytes, kind: type[T]) -> T:
    """A JSON answer. Raises UnexpectedAnswer."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnexpectedAnswer(f"{url} does not answer as expected ({error}): is this an unspool server?") from error


def check_url(url: str) -> str:
    """The server's URL without a slash at its end. Raises ConfigurationError."""
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound:
        raise ConfigurationError(f"url {url!r} is not an http or https URL, such as http://127.0.0.1:8000")
    return url.rstrip("/")


def check_token(token: str | None) -> Mapping[str, str]:
    """The header that carries a bearer token. Raises ConfigurationError."""
    if not token:
        return {}
    if not token.isascii() or not token.isprintable():
        raise ConfigurationError("token has a character that a header cannot carry")
    return {"authorization": f"Bearer {token}"}


def is_local(url: str) -> bool:
    """Whether it is this machine, which is not behind a proxy, whatever the environment says about the others."""
    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")


def _path(stream_id: str) -> str:
    return f"/v1/streams/{quote(stream_id, safe='')}"


def _set(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _query(**values: Any) -> dict[str, str]:
    return {name: str(value) for name, value in _set(**values).items()}
