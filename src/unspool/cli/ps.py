"""`unspool ps`: the generations of a server, once or as a live view."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final, NoReturn

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from unspool.cli.output import USAGE, CommandError, console, print_json, seconds, visible
from unspool.cli.remote import DEFAULT_URL, Json, Remote, Token, Unreachable, Url, talk
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

    With --json the server's answer is printed, with --watch one line for each look.
    """
    if status != "all" and status not in list(Status):
        raise CommandError(f"--status must be one of {', '.join(Status)} or all, not {status!r}", USAGE)
    params: dict[str, str | int] = {"limit": limit} if status == "all" else {"limit": limit, "status": status}

    async def look(remote: Remote) -> None:
        answer = await remote.get("/v1/streams", params)
        out = console()
        if watch and out.is_terminal and not json:
            await _live(remote, params, status, interval, answer)
        while True:
            if json:
                print_json(answer)
            else:
                out.print(table_of(answer, status), soft_wrap=False)
            if not watch:
                return
            await asyncio.sleep(interval)
            answer = await remote.get("/v1/streams", params)

    talk(url, token, look)


async def _live(
    remote: Remote, params: dict[str, str | int], status: str, interval: float, answer: dict[str, Any]
) -> NoReturn:
    """A table that keeps itself up to date; a server that is away for a while is waited for."""
    with Live(table_of(answer, status), console=console(), auto_refresh=False, screen=True) as live:
        while True:
            await asyncio.sleep(interval)
            note = Text("Ctrl-C ends it.", style="dim")
            try:
                answer = await remote.get("/v1/streams", params)
            except Unreachable as error:
                note = Text(f"{error}; trying again", style="yellow")
            live.update(Group(table_of(answer, status), note), refresh=True)


def table_of(answer: dict[str, Any], status: str) -> Table:
    """The server's answer as a table."""
    streams: list[dict[str, Any]] = answer.get("streams") or []
    table = Table(box=None, pad_edge=False, header_style="bold", caption_justify="left")
    table.add_column("STREAM", overflow="fold")
    for name in ("GEN", "STATUS", "AGE", "EVENTS"):
        table.add_column(name, no_wrap=True, justify="left" if name == "STATUS" else "right")
    table.add_column("MODEL", overflow="ellipsis", no_wrap=True)
    for stream in streams:
        told = str(stream.get("status"))
        metadata: dict[str, Any] = stream.get("metadata") or {}
        table.add_row(
            visible(str(stream.get("stream_id"))),
            str(stream.get("generation")),
            Text(visible(told), style=_STYLES.get(told, "")),
            seconds(float(stream.get("elapsed") or 0)),
            str(stream.get("last_offset")),
            visible(str(metadata.get("model") or "")),
        )
    if not streams:
        table.caption = "no generations" if status == "all" else f"no generations with status {status}"
    return table
