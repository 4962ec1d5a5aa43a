"""`unspool ledger`: the real command, on a database of its own."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from tests.unit.cli.conftest import Ran
from unspool.jobs import GenerationKey
from unspool.ledger import Ledger, Prices, Rates

Run = Callable[..., Awaitable[Ran]]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/ledger.db"


async def call(url: str, pricer: Prices | None = None) -> None:
    """One call of a model that is in no list."""
    async with Ledger.from_url(url, pricer=pricer) as ledger:
        await ledger.admit(GenerationKey("c", 1), "team", amount=0)
        async with ledger.call(GenerationKey("c", 1), provider="acme", model="[red]foo") as metered:
            metered.observe({"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 1}})


async def test_from_migration_to_audit(unspool: Run, url: str, tmp_path: Path) -> None:
    env = {"UNSPOOL_LEDGER": url}
    assert (await unspool("ledger", "migrate", **env)).out == "migrated from nothing to version 0002\n"
    assert (await unspool("ledger", "migrate", **env)).out == "the tables are at version 0002 already\n"
    granted = await unspool("ledger", "grant", "team", "2.50", "--id", "invoice 1", **env)
    assert granted.out == "granted 2.50 USD to team: 2.50 USD now\n"
    again = await unspool("ledger", "grant", "team", "2.50", "--id", "invoice 1", "--json", **env)
    assert msgspec.json.decode(again.out)["new"] is False
    other = await unspool("ledger", "grant", "team", "3", "--id", "invoice 1", **env)
    assert (other.code, "invoice 1 was entered before" in other.err) == (1, True)

    await call(url)
    shown = await unspool("ledger", "balance", "team", "--json", **env)
    assert msgspec.json.decode(shown.out) == {
        "account": "team", "posted": 2_500_000_000, "held": 0, "floor": 0, "available": 2_500_000_000, "debt": 0,
    }  # fmt: skip
    listed = await unspool("ledger", "entries", "team", "--limit", "1", "--json", **env)
    page = msgspec.json.decode(listed.out)
    assert [entry["key"] for entry in page["entries"]] == ["call:c/1/main/0/1"]
    rest = await unspool("ledger", "entries", "--after", page["next"], **env)
    assert "grant:invoice 1" in rest.out
    assert "call:" not in rest.out

    good = await unspool("ledger", "audit", **env)
    assert (good.code, good.out.splitlines()[-1]) == (0, "the books balance")
    assert "1 without a cost" in good.out
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute("UPDATE account SET posted = posted + 7")
    connection.close()
    bad = await unspool("ledger", "audit", **env)
    assert bad.code == 1
    assert "team" in bad.out
    assert "posted is the sum of the entries" in bad.out
    told = await unspool("ledger", "audit", "--json", **env)
    assert told.code == 1
    assert msgspec.json.decode(told.out)["faults"][0]["account"] == "team"


async def test_rerate_enters_what_a_newer_list_says(unspool: Run, url: str) -> None:
    await call(url, Prices({"[red]foo": Rates(input=Decimal(1), output=Decimal(1))}))
    done = await unspool("ledger", "rerate", "--model", "[red]foo", "--url", url)
    assert (done.code, "nothing changes" in done.out) == (0, True)  # the installed list does not know it
    async with Ledger.from_url(url) as ledger:
        await ledger.admit(GenerationKey("c", 2), "other", amount=0)
        async with ledger.call(GenerationKey("c", 2), provider="openai", model="gpt-5") as metered:
            metered.observe({"choices": [], "usage": {"prompt_tokens": 1000, "completion_tokens": 0}})
    async with Ledger.from_url(url, pricer=Prices({"gpt-5": Rates(input=Decimal(1), output=Decimal(1))})) as ledger:
        await ledger.rerate("c/2/main/0/1")
    done = await unspool("ledger", "rerate", "--provider", "openai", "--json", "--url", url)
    [rerated] = msgspec.json.decode(done.out)["rerated"]
    assert (rerated["before"], rerated["after"], rerated["amount"]) == (1_000_000, 1_250_000, -250_000)


async def test_export_delivers_and_says_what_was_refused(unspool: Run, url: str) -> None:
    await call(url)
    answers = iter([b"503 Busy", b"200 OK"])
    bodies: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        bodies.append(await reader.readexactly(length))
        writer.write(b"HTTP/1.1 " + next(answers) + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    printed = await unspool("ledger", "export", "--url", url)
    assert msgspec.json.decode(printed.out)["key"] == "call:c/1/main/0/1"
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        webhook = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
        refused = await unspool("ledger", "export", "--webhook", webhook, "--url", url, "--json")
        assert (refused.code, msgspec.json.decode(refused.out)) == (1, {"delivered": 0, "refused": 1})
        with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
            connection.execute("UPDATE outbox SET next_at = 0")
        connection.close()
        done = await unspool("ledger", "export", "--webhook", webhook, "--url", url)
        assert (done.code, done.out) == (0, "delivered 1 entries\n")
    assert bodies[0] == bodies[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("balance", "team"), "which ledger? Say where it is with --url or UNSPOOL_LEDGER"),
        (("balance", "team", "--url", "mysql://x"), "the URL must be"),
        (("balance", "team", "--url", "sqlite:///no.db"), "there is no ledger at no.db; make one with"),
        (("grant", "team", "1.5e-10", "--id", "x", "--url", "sqlite://"), "at most nine decimals"),
        (("grant", "team", "0", "--id", "x", "--url", "sqlite://"), "amount must be"),
        (("export", "--stripe-meter", "m", "--url", "sqlite://"), "needs --stripe-key"),
        (("entries", "--after", "x", "--url", "sqlite://"), "the cursor is not one"),
    ],
)
async def test_mistakes_are_told_in_one_line(unspool: Run, arguments: tuple[str, ...], said: str) -> None:
    ran = await unspool("ledger", *arguments)
    assert ran.code == 2
    assert ran.out == ""
    assert said in ran.err
    assert ran.err.count("\n") == 1


async def test_a_database_that_is_away(unspool: Run) -> None:
    ran = await unspool("ledger", "audit", "--url", "postgresql://x@127.0.0.1:1/y")
    assert ran.code == 1
    assert "cannot be reached" in ran.err
