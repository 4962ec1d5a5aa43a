"""A running server, as the commands see it: where it is, and one line of error for each way it can go wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Annotated, Final, TypeVar

import typer

from unspool.cli.output import USAGE, CommandError, visible
from unspool.client import Client, Unreachable
from unspool.errors import ConfigurationError, UnspoolError

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

_SHOWN: Final = 300

T = TypeVar("T")


def talk(url: str, token: str | None, conversation: Callable[[Client], Awaitable[T]]) -> T:
    """Run one conversation with a server to its end. Raises CommandError."""

    async def whole() -> T:
        # The variable may hold several for the server; any of them opens the door. A person tries again by hand.
        async with Client(url, token=(token or "").partition(",")[0].strip(), attempts=1) as client:
            return await conversation(client)

    with one_line():
        return asyncio.run(whole())


@contextmanager
def one_line() -> Generator[None]:
    """What the client raises becomes a CommandError."""
    try:
        yield
    except ConfigurationError as error:
        raise CommandError(f"--{error}", USAGE) from error
    except UnspoolError as error:
        raise CommandError(line_of(error)) from error


def line_of(error: UnspoolError) -> str:
    """An error as one line that says what to do."""
    message = visible(" ".join(error.message.split()))[:_SHOWN]
    if isinstance(error, Unreachable) and error.details.get("connected") is False:
        message += "; start one with: unspool serve (or say where it is with --url)"
    if error.details.get("http_status") in (401, 403):
        message += " Give a token with --token or UNSPOOL_TOKEN."
    return message
