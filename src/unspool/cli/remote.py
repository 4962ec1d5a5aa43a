"""A running server, as the commands see it: HTTP with one line of error for each way it can go wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import quote, urlsplit

import httpx2
import typer

from unspool.cli.output import USAGE, CommandError, visible

DEFAULT_URL: Final = "http://127.0.0.1:8000"

Url = Annotated[
    str,
    typer.Option("--url", metavar="URL", envvar="UNSPOOL_URL", show_envvar=True, help="Base URL of the server."),
]
Token = Annotated[
    str | None,
    typer.Option(
        "--token", metavar="TOKEN", envvar="UNSPOOL_TOKEN", show_envvar=True, help="Bearer token that it wants."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
StreamId = Annotated[str, typer.Argument(metavar="STREAM", help="Id of the stream.", show_default=False)]

_PATIENCE: Final = httpx2.Timeout(30.0, connect=5.0)
_HEARTBEAT: Final = httpx2.Timeout(45.0, connect=5.0)  # of silence: a server says something every 15 seconds
_SHOWN: Final = 300

T = TypeVar("T")


class Refused(CommandError):
    """The server answered, and the answer was no. `status` is the HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Unreachable(CommandError):
    """There was no answer, or one that a later try may better. `retry_after`: seconds that the server asked for."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Remote:
    """A server at `url`. An async context manager. Every verb raises Refused or Unreachable."""

    def __init__(self, url: str, token: str | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise CommandError(f"--url {url!r} is not an http or https URL, such as {DEFAULT_URL}", USAGE)
        self.url = url.rstrip("/")
        # The variable may hold several for the server; any of them opens the door.
        token = (token or "").partition(",")[0].strip()
        if not token.isascii() or not token.isprintable():
            raise CommandError("--token has a character that a header cannot carry", USAGE)
        self._client = httpx2.AsyncClient(
            headers={"authorization": f"Bearer {token}"} if token else {},
            timeout=_PATIENCE,
            # What runs on this machine is not behind a proxy, whatever the environment says about the others.
            trust_env=parts.hostname not in ("127.0.0.1", "localhost", "::1"),
        )

    async def __aenter__(self) -> Remote:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def get(self, path: str, params: Mapping[str, str | int] | None = None) -> dict[str, Any]:
        """The JSON object at `path`."""
        async with self._request("GET", path, params=params) as response:
            return await _object_of(response)

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """What the server answers to `body`."""
        async with self._request("POST", path, json=body) as response:
            return await _object_of(response)

    @asynccontextmanager
    async def events(
        self, path: str, params: Mapping[str, str | int], last_event_id: str
    ) -> AsyncGenerator[httpx2.Response | None, None]:
        """An open event stream; None when the server says that there is nothing to come.

        What breaks while it is read raises Unreachable, too.
        """
        headers = {"accept": "text/event-stream", "accept-encoding": "identity", "cache-control": "no-store"}
        if last_event_id:
            headers["last-event-id"] = last_event_id
        async with self._request("GET", path, params=params, headers=headers, timeout=_HEARTBEAT) as response:
            if response.status_code == 204:
                yield None
                return
            media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            if media_type != "text/event-stream":
                raise Refused(f"{response.url} is not an event stream: is this an unspool server?", 200)
            yield response

    @asynccontextmanager
    async def _request(self, method: str, path: str, **options: Any) -> AsyncGenerator[httpx2.Response, None]:
        try:
            async with self._client.stream(method, self.url + path, **options) as response:
                if not response.is_success:
                    await response.aread()
                    raise _refusal(response)
                yield response
        except httpx2.ConnectError as error:
            raise Unreachable(
                f"no server answers at {self.url}; start one with: unspool serve (or say where it is with --url)"
            ) from error
        except httpx2.TransportError as error:
            raise Unreachable(f"the connection to {self.url} broke: {_cause(error)}") from error
        except (httpx2.InvalidURL, httpx2.HTTPError) as error:
            raise CommandError(f"{self.url}: {_cause(error)}", USAGE) from error


def stream_path(stream_id: str, verb: str = "") -> str:
    """The path of a stream, or of one of its verbs."""
    return f"/v1/streams/{quote(stream_id, safe='')}" + (f"/{verb}" if verb else "")


def talk(url: str, token: str | None, conversation: Callable[[Remote], Awaitable[T]]) -> T:
    """Run one conversation with a server to its end."""

    async def whole() -> T:
        async with Remote(url, token) as remote:
            return await conversation(remote)

    return asyncio.run(whole())


async def _object_of(response: httpx2.Response) -> dict[str, Any]:
    try:
        found: object = json.loads(await response.aread())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Refused(f"{response.url} does not answer with a JSON object: is this an unspool server?", 200)
    return found  # pyright: ignore[reportUnknownVariableType]


def _refusal(response: httpx2.Response) -> CommandError:
    """An error response as one line: what the problem document says, else its status."""
    status = response.status_code
    try:
        problem: object = json.loads(response.content)
    except (ValueError, RecursionError):
        problem = None
    if isinstance(problem, dict):
        known: dict[str, Any] = problem  # pyright: ignore[reportUnknownVariableType]
        message = str(known.get("detail") or known.get("title") or f"the server answered {status}")
    else:
        message = f"{response.url} answered {status} {response.reason_phrase}: is this an unspool server?"
    message = visible(" ".join(message.split()))[:_SHOWN]
    if status in (401, 403):
        message += " Give a token with --token or UNSPOOL_TOKEN."
    if status == 429 or status >= 500:
        wait = response.headers.get("retry-after", "")
        return Unreachable(message, float(wait) if wait.isdecimal() else None)
    return Refused(message, status)


def _cause(error: Exception) -> str:
    return str(error) or type(error).__name__
