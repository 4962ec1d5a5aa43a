"""`unspool ps`: the generations of a server, once or as a live view."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Final, NoReturn

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from unspool.cli.output import USAGE, CommandError, console, print_json, seconds, visible
from unspool.cli.remote import DEFAULT_URL, Json, Token, Url, line_of, talk
from unspool.client import Client, Summary, Unreachable
from unspool.jobs import Status

_STYLES: Final = {
    "running": "green",
    "requires_action": "yellow",
    "complete": "dim",
    "error": "red",
    "aborted": "magenta",
    "replaced": "dim",
}


def ps(
    status: Annotated[
        str, typer.Option(metavar="STATUS", help=f"One of {', '.join(Status)}; or all.")
    ] = Status.RUNNING.value,
    limit: Annotated[int, typer.Option(min=1, max=1000, metavar="COUNT", help="How many at most.")] = 100,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Keep looking, until Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="Between two looks of --watch.")] = 1.0,
    json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
) -> None:
    """List generations, the running ones by default, newest first.

    With --json they are printed as one JSON object, with --watch one line for each look.
    """
    if status != "all" and status not in list(Status):
        raise CommandError(f"--status must be one of {', '.join(Status)} or all, not {status!r}", USAGE)
    wanted = None if status == "all" else Status(status)

    async def look(client: Client) -> None:
        listed = await client.list(status=wanted, limit=limit)
        out = console()
        if watch and out.is_terminal and not json:
            await _live(client, wanted, limit, interval, listed)
        while True:
            if json:
                print_json({"streams": listed})
            else:
                out.print(table_of(listed, wanted), soft_wrap=False)
            if not watch:
                return
            await asyncio.sleep(interval)
            listed = await client.list(status=wanted, limit=limit)

    talk(url, token, look)


async def _live(
    client: Client, status: Status | None, limit: int, interval: float, listed: Sequence[Summary]
) -> NoReturn:
    """A table that keeps itself up to date; a server that is away for a while is waited for."""
    with Live(table_of(listed, status), console=console(), auto_refresh=False, screen=True) as live:
        while True:
            await asyncio.sleep(interval)
            note = Text("Ctrl-C ends it.", style="dim")
            try:
                listed = await client.list(status=status, limit=limit)
            except Unreachable as error:
                note = Text(f"{line_of(error)}; trying again", style="yellow")
            live.update(Group(table_of(listed, status), note), refresh=True)


def table_of(listed: Sequence[Summary], status: Status | None) -> Table:
    """The server's answer as a table."""
    table = Table(box=None, pad_edge=False, header_style="bold", caption_justify="left")
    table.add_column("STREAM", overflow="fold")
    for name in ("GEN", "STATUS", "AGE", "EVENTS"):
        table.add_column(name, no_wrap=True, justify="left" if name == "STATUS" else "right")
    table.add_column("MODEL", overflow="ellipsis", no_wrap=True)
    for stream in listed:
        table.add_row(
            visible(stream.stream_id),
            str(stream.generation),
            Text(stream.status, style=_STYLES.get(stream.status, "")),
            seconds(stream.elapsed),
            str(stream.last_offset),
            visible(str(stream.metadata.get("model") or "")),
        )
    if not listed:
        table.caption = "no generations" if status is None else f"no generations with status {status}"
    return table
