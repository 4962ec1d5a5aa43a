"""`unspool stop`: stop a generation, and say what became of it."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape

from unspool.cli.output import FAILED, OK, console, errors, print_json, visible
from unspool.cli.remote import DEFAULT_URL, Json, Remote, StreamId, Token, Url, stream_path, talk


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
    asked = {"generation": generation, "reason": reason}
    body = {name: value for name, value in asked.items() if value is not None}

    async def ask(remote: Remote) -> dict[str, Any]:
        return await remote.post(stream_path(stream_id, "abort"), body)

    answer = talk(url, token, ask)
    if json:
        print_json(answer)
    else:
        _tell(stream_id, answer)
    raise typer.Exit(FAILED if answer.get("outcome") == "save_failed" else OK)


def _tell(stream_id: str, answer: dict[str, Any]) -> None:
    which = escape(visible(f"{stream_id}/{answer.get('generation', '?')}"))
    kept = f"{len(str(answer.get('text') or '')):,} characters"
    match answer.get("outcome"):
        case "stopped":
            console().print(f"[green]stopped[/] {which}, {kept} kept")
        case "already_settled":
            status = escape(visible(str(answer.get("status"))))
            console().print(f"[yellow]already ended[/] {which}: {status}, {kept}")
        case "save_failed":
            errors().print(f"[red]stopped[/] {which}, but its {kept} could not be saved; stop it again to retry")
        case outcome:
            errors().print(f"{which}: {escape(visible(str(outcome)))}")
