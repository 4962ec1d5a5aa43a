"""`unspool stop`: stop a generation, and say what became of it."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from unspool.cli.output import FAILED, OK, console, errors, print_json, visible
from unspool.cli.remote import DEFAULT_URL, Json, StreamId, Token, Url, talk
from unspool.client import Outcome


def stop(
    stream_id: StreamId,
    generation: Annotated[
        int | None,
        typer.Option(min=1, metavar="NUMBER", help="Only if this is the generation meant; else the stream's last."),
    ] = None,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Why; its viewers are told.")] = None,
    json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
) -> None:
    """Stop a generation. The partial answer is kept.

    Exit code: 0 when it does not run any more, whether this stopped it or it had ended before; 1 when the partial
    answer could not be saved, or the server refused.
    """
    answer = talk(url, token, lambda client: client.stop(stream_id, generation=generation, reason=reason))
    if json:
        print_json(answer)
    else:
        _tell(answer)
    raise typer.Exit(FAILED if answer.outcome == "save_failed" else OK)


def _tell(answer: Outcome) -> None:
    which = escape(visible(f"{answer.stream_id}/{answer.generation}"))
    kept = f"{len(answer.text):,} characters"
    match answer.outcome:
        case "stopped":
            console().print(f"[green]stopped[/] {which}, {kept} kept")
        case "already_settled":
            status = escape(visible(answer.status))
            console().print(f"[yellow]already ended[/] {which}: {status}, {kept}")
        case "save_failed":
            errors().print(f"[red]stopped[/] {which}, but its {kept} could not be saved; stop it again to retry")
        case outcome:
            errors().print(f"{which}: {escape(visible(outcome))}")
