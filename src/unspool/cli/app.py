"""The commands put together."""

from __future__ import annotations

import io
import platform
import sys
from importlib.metadata import version as version_of
from typing import Annotated

import typer

from unspool.cli.ledger import ledger
from unspool.cli.output import INTERRUPTED, OK, CommandError, complain, print_json
from unspool.cli.ps import ps
from unspool.cli.serve import serve
from unspool.cli.stop import stop
from unspool.cli.tail import tail

app = typer.Typer(
    name="unspool",
    help="LLM generations that outlive the connection.",
    epilog="Commands that talk to a server find it at --url, or UNSPOOL_URL, or http://127.0.0.1:8000.",
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def unspool(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def version(
    json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Print the version."""
    number = version_of("unspool")
    if json:
        print_json({"name": "unspool", "version": number, "python": platform.python_version()})
    else:
        typer.echo(f"unspool {number}")


app.command()(serve)
app.command()(ps)
app.command()(tail)
app.command()(stop)
app.command()(version)
app.add_typer(ledger)


def run() -> int:
    """Run the command line and answer the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # an answer may hold what the terminal's encoding cannot
    try:
        app()
    except CommandError as error:
        complain(str(error))
        return error.code
    except KeyboardInterrupt:
        return INTERRUPTED
    return OK
