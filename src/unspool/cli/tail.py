"""`unspool tail`: follow a stream in the terminal, through every reconnect."""

from __future__ import annotations

from contextlib import aclosing
from typing import Annotated, Any, Final

import typer
from rich.markup import escape

from unspool.cli.output import FAILED, INCOMPLETE, INTERRUPTED, OK, console, errors, print_json, visible
from unspool.cli.remote import DEFAULT_URL, Json, StreamId, Token, Url, talk
from unspool.cli.transcript import Transcript
from unspool.client import Client, Received, State
from unspool.events import ABORTED, COMPLETED, REPLACED, TERMINAL
from unspool.events import FAILED as FAILED_EVENT
from unspool.jobs import Status

_EXIT: Final = {COMPLETED: OK, FAILED_EVENT: FAILED, ABORTED: INCOMPLETE, REPLACED: INCOMPLETE}
_ENDED_BY: Final[dict[Status, str]] = {
    Status.COMPLETE: COMPLETED,
    Status.ERROR: FAILED_EVENT,
    Status.ABORTED: ABORTED,
    Status.REPLACED: REPLACED,
}


def tail(
    stream_id: StreamId,
    generation: Annotated[
        int | None, typer.Option(min=1, metavar="NUMBER", help="An older generation; else the stream's last.")
    ] = None,
    after: Annotated[int, typer.Option(min=0, metavar="OFFSET", help="Begin after this offset.")] = 0,
    patience: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Give up after so long without the server.")
    ] = 60.0,
    json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
) -> None:
    """Follow a stream: text as it comes, reasoning dim, tools as lines, and how it ended.

    A lost connection is taken up again where it broke. With --json each event is one line. Exit code: 0 when the
    generation completed, 1 when it failed, 3 when it was aborted or replaced. Ctrl-C leaves; the generation runs on.
    """
    try:
        code = talk(url, token, lambda client: _tail(client, stream_id, generation, after, patience, json))
    except KeyboardInterrupt:
        errors().print(f"\nleft; the generation runs on. To stop it: [bold]unspool stop {escape(stream_id)}[/]")
        code = INTERRUPTED
    raise typer.Exit(code)


async def _tail(client: Client, stream_id: str, generation: int | None, after: int, patience: float, json: bool) -> int:
    out, notes = console(), errors()
    transcript = Transcript(out)
    lost = False

    def tell(state: State) -> None:
        nonlocal lost
        if state.name == "connecting" or lost == (state.name == "waiting"):
            return
        lost = state.name == "waiting"
        if out.is_terminal and not json:
            transcript.end_line()  # there the note stands between the lines; a pipe keeps the text whole
        note = f"connection lost at offset {state.offset}, reconnecting …"
        notes.print(note if lost else f"connected again, resumed at offset {state.offset}", style="yellow")

    # A server that is not there, or does not know the stream, is told at once; only what was there is waited for.
    known = await client.status(stream_id, generation=generation)
    following = client.follow(stream_id, generation=known.generation, after=after, patience=patience, on_state=tell)
    async with aclosing(following) as received:
        async for event in received:
            if json:
                print_json({"id": event.id, "type": event.type, "data": event.data})
            else:
                transcript.show(event)
            if event.type in TERMINAL:
                break
        else:
            event = await _settled(client, stream_id, known.generation)
    if not json:
        transcript.end_line()
        style = "green" if event.type == COMPLETED else "red" if event.type == FAILED_EVENT else "yellow"
        notes.print(escape(visible(describe_end(event, transcript.usage))), style=style)
    return _EXIT[event.type]


async def _settled(client: Client, stream_id: str, generation: int) -> Received:
    """How a generation ended whose terminal event lies before the position that was asked for."""
    state = await client.status(stream_id, generation=generation)
    return Received(state.last_offset, _ENDED_BY.get(state.status, COMPLETED), b"{}", generation=generation)


def describe_end(event: Received, usage: list[dict[str, Any]]) -> str:
    """The status line: how the generation ended, where, and what it used."""
    data = event.data
    match event.type:
        case "completed":
            reason = data.get("finish_reason")
            told = "completed" if reason in (None, "stop") else f"completed ({reason})"
        case "failed":
            told = f"failed: {data.get('message') or 'no reason was given'}"
            told += f" ({data['code']})" if data.get("code") else ""
        case "aborted":
            told = "stopped" + (f" by {data['by']}" if data.get("by") else "")
            told += f": {data['reason']}" if data.get("reason") else ""
        case _:
            successor = data.get("by_generation")
            told = "replaced" + (f" by generation {successor}" if successor is not None else "")
    tokens = sum(int(entry.get("output_tokens") or 0) for entry in usage)
    return f"[{event.id}] {told}" + (f" · {tokens} tokens written" if tokens else "")
