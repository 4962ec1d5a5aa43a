"""`unspool ledger`: accounts and charges, read from and written to the ledger's own database."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

from unspool.cli.output import FAILED, USAGE, CommandError, console, errors, print_json, visible
from unspool.errors import ConfigurationError, InvalidArgument, UnspoolError

ledger = typer.Typer(
    name="ledger",
    help="Accounts and charges: what was spent, by whom, and whether the books balance.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

T = TypeVar("T")

Url = Annotated[
    str,
    typer.Option(
        "--url",
        metavar="URL",
        envvar="UNSPOOL_LEDGER",
        show_envvar=True,
        help="The ledger's database: sqlite:///file.db or postgresql://user@host/database.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs. Amounts are nano-USD.")]
Account = Annotated[str, typer.Argument(metavar="ACCOUNT", help="Id of the account.", show_default=False)]

_SWEEPS: Final = 1e9  # seconds: a command does none of a server's periodic work


@ledger.command()
def migrate(url: Url = "", json: Json = False) -> None:
    """Bring the database's tables to the version that this unspool works with."""

    async def work() -> tuple[str | None, str]:
        from unspool.ledger import schema
        from unspool.ledger.database import Database
        from unspool.ledger.owned import OwnedTasks

        database = Database(_given(url), OwnedTasks())
        try:
            return await schema.migrate(database), schema.HEAD
        finally:
            await database.close()

    before, after = _run(work)
    if json:
        print_json({"before": before, "after": after})
    elif before == after:
        console().print(f"the tables are at version {after} already")
    else:
        console().print(f"[green]migrated[/] from {before or 'nothing'} to version {after}")


@ledger.command()
def balance(account: Account, url: Url = "", json: Json = False) -> None:
    """Print an account's balance, what is held of it, and what is available."""
    found = _with(url, lambda books: books.balance(account))
    if json:
        print_json(_plain(found) | {"available": found.available, "debt": found.debt})
        return
    table = _table("ACCOUNT", "POSTED", "HELD", "AVAILABLE", "FLOOR")
    table.add_row(_shown(account), *map(_usd, (found.posted, found.held, found.available, found.floor)))
    console().print(table)


@ledger.command()
def entries(
    account: Annotated[
        str | None, typer.Argument(metavar="[ACCOUNT]", help="Id of the account; else all.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, metavar="COUNT", help="How many at most.")] = 50,
    after: Annotated[str | None, typer.Option(metavar="CURSOR", help="Where the page before ended.")] = None,
    url: Url = "",
    json: Json = False,
) -> None:
    """List entries, newest first, page by page."""
    page = _with(url, lambda books: books.entries(account, after=after, limit=limit))
    if json:
        print_json(page)
        return
    table = _table("TIME", "ACCOUNT", "KIND", "AMOUNT", "BALANCE", "KEY", right=("AMOUNT", "BALANCE"))
    for entry in page.entries:
        table.add_row(
            _time(entry.created_at), _shown(entry.account), entry.kind, _usd(entry.amount),
            _usd(entry.balance_after), _shown(entry.key),
        )  # fmt: skip
    if not page.entries:
        table.caption = "no entries"
    console().print(table, soft_wrap=False)
    if page.next is not None:
        errors().print(f"[dim]more: --after {page.next}[/]")


@ledger.command()
def grant(
    account: Account,
    amount: Annotated[str, typer.Argument(metavar="USD", help="The amount in USD, such as 25 or 0.10.")],
    id: Annotated[
        str, typer.Option("--id", metavar="ID", help="What it is for, a payment's id: it is granted once for each.")
    ],
    url: Url = "",
    json: Json = False,
) -> None:
    """Add money to an account, once for each id; the account is made where there is none."""

    async def work(books: Any) -> tuple[Any, Any]:
        from unspool.ledger import nano

        return await books.grant(account, nano(amount), id=id), await books.balance(account)

    credit, found = _with(url, work)
    if json:
        print_json({"entry": credit.entry, "new": credit.new, "balance": found})
    elif credit.new:
        console().print(f"[green]granted[/] {_usd(credit.entry.amount)} to {_shown(account)}: {_usd(found.posted)} now")
    else:
        console().print(f"[yellow]granted before[/] under this id; {_shown(account)} has {_usd(found.posted)}")


@ledger.command()
def audit(url: Url = "", json: Json = False) -> None:
    """Check that the books balance.

    Exit code: 0 when they do; 1 when they do not, and the accounts and equations are named.
    """
    found = _with(url, lambda books: books.audit())
    if json:
        print_json(_plain(found) | {"balanced": found.balanced})
    else:
        out = console()
        out.print(
            f"{found.accounts:,} accounts, {found.entries:,} entries, {found.calls:,} calls: "
            f"{found.open_calls:,} open, {found.unpriced_calls:,} without a cost; "
            f"{found.undelivered:,} entries not delivered"
        )
        if found.balanced:
            out.print("[green]the books balance[/]")
        else:
            table = _table("ACCOUNT", "WHAT DOES NOT HOLD", "SHOULD BE", "IS", right=("SHOULD BE", "IS"))
            for fault in found.faults:
                table.add_row(_shown(fault.account), fault.equation, f"{fault.expected:,}", f"{fault.found:,}")
            out.print(table)
    if not found.balanced:
        raise typer.Exit(FAILED)


@ledger.command()
def rerate(
    provider: Annotated[str | None, typer.Option(metavar="NAME", help="Calls of this provider alone.")] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="Calls of this model alone.")] = None,
    unpriced: Annotated[bool, typer.Option("--unpriced", help="Only calls that have no cost yet.")] = False,
    url: Url = "",
    json: Json = False,
) -> None:
    """Price settled calls by the installed price list, as of when they started, and enter the differences."""

    async def work(books: Any) -> list[Any]:
        done: list[Any] = []
        after = ""
        while page := await books.settled_calls(after=after, provider=provider, model=model, unpriced=unpriced):
            done += [one for call in page if (one := await books.rerate(call.call_id)) is not None and one.key]
            after = page[-1].call_id
        return done

    rerated = _with(url, work)
    if json:
        print_json({"rerated": rerated})
        return
    table = _table("CALL", "BEFORE", "AFTER", "ENTERED", right=("BEFORE", "AFTER", "ENTERED"))
    for one in rerated:
        before = "unpriced" if one.before is None else _usd(one.before)
        table.add_row(_shown(one.call_id), before, _usd(one.after), _usd(one.amount))
    if not rerated:
        table.caption = "nothing changes"
    console().print(table, soft_wrap=False)


@ledger.command()
def export(
    webhook: Annotated[str | None, typer.Option(metavar="URL", help="Post entries to this URL as JSON.")] = None,
    secret: Annotated[
        str | None,
        typer.Option(envvar="UNSPOOL_WEBHOOK_SECRET", metavar="TEXT", help="Sign what is posted.", show_default=False),
    ] = None,
    stripe_meter: Annotated[
        str | None, typer.Option(metavar="NAME", help="Report costs to this Stripe billing meter.")
    ] = None,
    stripe_key: Annotated[
        str | None, typer.Option(envvar="STRIPE_API_KEY", metavar="KEY", help="Stripe's key.", show_default=False)
    ] = None,
    stripe_url: Annotated[str, typer.Option(metavar="URL", help="Where Stripe's API is.")] = "https://api.stripe.com",
    value: Annotated[str, typer.Option(metavar="WHAT", help="What the meter counts: cost or tokens.")] = "cost",
    url: Url = "",
    json: Json = False,
) -> None:
    """Deliver the entries that are due to a webhook or a Stripe meter, or print them.

    Without a receiver the newest entries are printed as JSON lines, and stay undelivered. Exit code: 1 when a receiver
    refused some; they are sent again by the next export.
    """
    if webhook is not None and stripe_meter is not None:
        raise CommandError("give --webhook or --stripe-meter, not both", USAGE)
    if stripe_meter is not None and not stripe_key:
        raise CommandError("--stripe-meter needs --stripe-key or STRIPE_API_KEY", USAGE)
    if value not in ("cost", "tokens"):
        raise CommandError(f"--value must be cost or tokens, not {value!r}", USAGE)
    if webhook is None and stripe_meter is None:
        _with(url, _print_entries)
        return
    counted: Literal["cost", "tokens"] = "cost" if value == "cost" else "tokens"

    async def work(books: Any) -> tuple[int, int]:
        from unspool.ledger import StripeMeter, Webhook

        if webhook is not None:
            exporter = Webhook(webhook, secret=secret)
        else:
            exporter = StripeMeter(stripe_key or "", event_name=stripe_meter or "", value=counted, base_url=stripe_url)
        delivery = books.delivery(exporter)
        while await delivery.deliver():
            pass
        await exporter.close()
        return delivery.delivered, delivery.failed

    delivered, refused = _with(url, work)
    if json:
        print_json({"delivered": delivered, "refused": refused})
    else:
        console().print(
            f"[green]delivered[/] {delivered:,} entries" + (f", [red]refused[/] {refused:,}" if refused else "")
        )
    if refused:
        raise typer.Exit(FAILED)


async def _print_entries(books: Any) -> None:
    after = None
    while True:
        page = await books.entries(after=after, limit=1000)
        for entry in page.entries:
            print_json(entry)
        after = page.next
        if after is None:
            return


def _with(url: str, work: Callable[[Any], Awaitable[T]]) -> T:
    """Run `work` on the open ledger. Raises CommandError."""

    async def whole() -> T:
        from unspool.ledger import Ledger, LedgerOptions

        books = Ledger.from_url(_given(url), options=LedgerOptions(sweep=_SWEEPS, patience=2.0))
        file = books.database.file
        if file is not None and not file.exists():  # opening it would make one: a typing error must not
            await books.close()
            raise CommandError(f"there is no ledger at {file}; make one with: unspool ledger migrate", USAGE)
        async with books:
            return await work(books)

    return _run(whole)


def _run(work: Callable[[], Awaitable[T]]) -> T:
    async def whole() -> T:
        return await work()

    logging.getLogger("unspool.ledger").setLevel(logging.ERROR)  # what goes wrong is said once
    try:
        return asyncio.run(whole())
    except (ConfigurationError, InvalidArgument) as error:
        raise CommandError(error.message, USAGE) from error
    except UnspoolError as error:
        raise CommandError(" ".join(error.message.split())) from error


def _given(url: str) -> str:
    if not url:
        raise CommandError("which ledger? Say where it is with --url or UNSPOOL_LEDGER", USAGE)
    return url


def _shown(text: str) -> str:
    return escape(visible(text))


def _table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", caption_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold", justify="right" if column in right else "left")
    return table


def _usd(amount: int) -> str:
    from unspool.ledger import in_usd

    return f"{in_usd(amount)} USD"


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _plain(value: object) -> dict[str, Any]:
    return msgspec.to_builtins(value)
