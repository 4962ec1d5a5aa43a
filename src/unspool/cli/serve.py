"""`unspool serve`: the whole server, from its settings."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from starlette.applications import Starlette

from unspool.cli.models import Chosen, answer_with, choose_model, continues
from unspool.cli.output import USAGE, CommandError, console
from unspool.cli.settings import DEFAULT_FILE, PREFIX, Settings, flag_of, load
from unspool.errors import UnspoolError
from unspool.http import bearer, create_app
from unspool.http import server as http_server
from unspool.jobs import Limits
from unspool.manager import GenerationManager
from unspool.options import Options
from unspool.providers.base import Model

_LOG_FORMAT = "%(asctime)s %(levelname)-8s %(name)s: %(message)s"


def _flag(field: str, *names: str, metavar: str | None = None) -> Any:
    """A flag for one of the settings, whose description and default it shows."""
    known = Settings.model_fields[field]
    # The flag's own default is "not given", so that the environment and the file are asked.
    default = "" if known.default in (None, (), False) else f" [default: {known.default}]"
    return typer.Option(
        *(names or (flag_of(field),)), help=f"{known.description}{default}", metavar=metavar, show_default=False
    )


def serve(
    context: typer.Context,
    host: Annotated[str | None, _flag("host", metavar="ADDRESS")] = None,
    port: Annotated[int | None, _flag("port")] = None,
    model: Annotated[str | None, _flag("model", metavar="NAME")] = None,
    upstream: Annotated[str | None, _flag("upstream", metavar="URL")] = None,
    provider: Annotated[str | None, _flag("provider", metavar="NAME")] = None,
    system: Annotated[str | None, _flag("system", metavar="PROMPT")] = None,
    store: Annotated[str | None, _flag("store", metavar="URL")] = None,
    token: Annotated[list[str] | None, _flag("token", metavar="TOKEN")] = None,
    allow_origin: Annotated[list[str] | None, _flag("allow_origin", metavar="ORIGIN")] = None,
    ledger: Annotated[str | None, _flag("ledger", metavar="URL")] = None,
    account: Annotated[str | None, _flag("account", metavar="NAME")] = None,
    credit: Annotated[str | None, _flag("credit", metavar="USD")] = None,
    retention: Annotated[float | None, _flag("retention", metavar="SECONDS")] = None,
    lease: Annotated[float | None, _flag("lease", metavar="SECONDS")] = None,
    abort_grace: Annotated[float | None, _flag("abort_grace", metavar="SECONDS")] = None,
    stall: Annotated[float | None, _flag("stall", metavar="SECONDS")] = None,
    max_jobs: Annotated[int | None, _flag("max_jobs", metavar="COUNT")] = None,
    drain: Annotated[float | None, _flag("drain", metavar="SECONDS")] = None,
    seed: Annotated[int | None, _flag("seed")] = None,
    delay: Annotated[float | None, _flag("delay", metavar="SECONDS")] = None,
    log_level: Annotated[str | None, _flag("log_level", metavar="LEVEL")] = None,
    access_log: Annotated[bool | None, _flag("access_log", "--access-log/--no-access-log")] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help=f"TOML file with settings; else {PREFIX}CONFIG, else ./{DEFAULT_FILE} if there is one."
        ),
    ] = None,
) -> None:
    """Serve generations over HTTP, with a chat page.

    Every option can also be set in the environment (--max-jobs as UNSPOOL_MAX_JOBS) or in the TOML file
    (max_jobs = 500). A flag comes before the environment, the environment before the file.

    The key of an upstream is taken from UNSPOOL_API_KEY, else from OPENAI_API_KEY or ANTHROPIC_API_KEY.
    """
    # A flag that may be repeated and was not given is an empty sequence: it must not hide the environment's tokens.
    given = {name: value for name, value in context.params.items() if value is not None and value not in ([], ())}
    given.pop("config", None)
    settings = load(given, config=config)
    if not settings.token and not http_server.is_loopback(settings.host):
        raise CommandError(
            f"host {settings.host} can be reached from other machines, and everybody there could read and stop every "
            f"generation: set --token (or {PREFIX}TOKEN), or listen on 127.0.0.1",
            USAGE,
        )
    logging.basicConfig(format=_LOG_FORMAT)
    logging.getLogger("unspool").setLevel(settings.log_level.upper())
    chosen = choose_model(settings)
    try:
        http_server.serve(
            build_app(settings, chosen),
            host=settings.host,
            port=settings.port,
            drain=settings.drain,
            authenticated=bool(settings.token),
            access_log=settings.access_log,
            ready=lambda url: _announce(url, chosen),
        )
    except UnspoolError as error:
        raise CommandError(str(error)) from error


def build_app(settings: Settings, chosen: Chosen) -> Starlette:
    """The application that these settings describe. Raises CommandError."""
    try:
        options = Options(
            lease=settings.lease,
            abort_grace=settings.abort_grace,
            retention=settings.retention,
            max_jobs=settings.max_jobs,
            drain=settings.drain,
            limits=Limits(stall=settings.stall),
        )
        ledger, begin = None, None
        if settings.ledger is not None:
            from unspool.cli.books import grant_once, open_books

            ledger = open_books(settings.ledger, chosen.model)
            begin = partial(grant_once, ledger, settings)
        manager = GenerationManager.from_url(settings.store, options=options, ledger=ledger)
    except UnspoolError as error:
        raise CommandError(str(error), USAGE) from error
    try:
        app = create_app(
            manager,
            run=answer_with(chosen.model, settings, manager),
            resumable="answer" if continues(chosen.model) else None,
            authenticate=bearer(settings.token) if settings.token else None,
            account=settings.account if ledger is not None else None,
            page=True,
            about={"model": chosen.model.name, "note": chosen.note},
            models=[chosen.model.name],
            # Without a token, a foreign web page must not reach this server under a host name of its own choice.
            allowed_hosts=None if settings.token else ["localhost", "127.0.0.1", "[::1]", "::1", settings.host],
            allowed_origins=settings.allow_origin,
        )
    except UnspoolError as error:
        raise CommandError(str(error), USAGE) from error
    _live_with(app, chosen.model, begin)
    return app


def _live_with(app: Starlette, model: Model, begin: Callable[[], Awaitable[None]] | None) -> None:
    """Close the model after the application, in the event loop that it lived in; begin with something else."""
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(served: Starlette) -> AsyncGenerator[Any, None]:
        try:
            async with inner(served) as state:
                if begin is not None:
                    await begin()
                yield state
        finally:
            await model.close()

    app.router.lifespan_context = lifespan


def _announce(url: str, chosen: Chosen) -> None:
    # The URL has a line of its own: scripts read it, terminals make it a link.
    out = console()
    out.print(f"[bold]unspool {version('unspool')}[/], model {escape(chosen.model.name)}")
    if chosen.note is not None:
        out.print(escape(chosen.note), style="yellow")
    out.print(f"[bold green]{url}[/]")
    out.print("Ctrl-C ends it.", style="dim")
    out.file.flush()
