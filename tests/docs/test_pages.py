"""What pages say in prose and tables about the code is held against the code."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any, Final

import pytest

import unspool
import unspool.agents
import unspool.client
import unspool.http
import unspool.providers
from tests.docs.blocks import ROOT
from unspool import Limits, Options, errors, events
from unspool.http import StreamOptions
from unspool.http.metrics import _Replica
from unspool.http.requests import MAX_BODY
from unspool.ledger import Ledger
from unspool.terminals import INTERRUPTED, OWNER_LOST, REASON_CHARS, SAVE_FAILED

PAGES: Final = {path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "docs").rglob("*.md")}
SOURCES: Final = "".join(path.read_text() for path in sorted((ROOT / "src/unspool").rglob("*.py")))


def rows(page: str, heading: str) -> list[list[str]]:
    """The first table below a heading, without its head."""
    section = PAGES[page].split(f"{heading}\n", 1)[1]
    lines = section[section.index("\n|") :].lstrip("\n").split("\n")
    table = lines[: next(place for place, line in enumerate(lines) if not line.startswith("|"))]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def code(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def test_bounds_are_those_of_the_code() -> None:
    """Every bound of the table is there under that name, with that default; none of the settings is left out."""
    told: dict[str, float] = {}
    for names, default, _ in rows("docs/concepts.md", "## Bounds"):
        numbers = [float(number) for number in re.findall(r"\d+", default)]
        told |= dict(zip(code(names), numbers, strict=False))
    real: dict[str, Any] = {
        "MAX_BODY": MAX_BODY, "EVENT_BYTES": events.EVENT_BYTES, "EVENT_DEPTH": events.EVENT_DEPTH,
        "REASON_CHARS": REASON_CHARS,
    }  # fmt: skip
    for owner, made in ((Options, Options()), (Limits, Limits()), (StreamOptions, StreamOptions())):
        fields = getattr(owner, "__dataclass_fields__", None) or getattr(owner, "__struct_fields__", ())
        real |= {f"{owner.__name__}.{name}": getattr(made, name) for name in fields}
    assert told == {name: value for name, value in real.items() if name in told}
    beside_the_point = {  # how often something is looked at, not a bound; or a bound of another bound
        "Options.checkpoint_every", "Options.completed_retention", "Options.limits", "Options.poll", "Options.sweep",
        "StreamOptions.retry",
    }  # fmt: skip
    assert set(real) - set(told) == beside_the_point


def test_ends_are_those_of_the_code() -> None:
    """Statuses, terminal records and codes of failures are named as the code names them."""
    ends = {
        code(status)[0]: code(record)[0]
        for status, record, _ in rows("docs/concepts.md", "## The life of a generation")
    }
    assert set(ends.values()) == events.TERMINAL
    assert set(ends) == {status for status in unspool.Status if status.settled}
    section = PAGES["docs/concepts.md"].split("`failed` has a `code`")[1].split("\n## ")[0]
    listed = [name for line in section.split("\n") if line.startswith("| `") for name in code(line.split("|")[1])]
    assert {INTERRUPTED, OWNER_LOST, SAVE_FAILED} <= set(listed)
    for name in listed:
        assert f'"{name}"' in SOURCES, name


def test_events_are_those_of_the_code() -> None:
    """The table of events has every type of the vocabulary, with the fields that it cannot do without."""
    table = {kind: data for kinds, data in rows("docs/http.md", "### Events") for kind in code(kinds)}
    constants = {value for name, value in vars(events).items() if name.isupper() and isinstance(value, str)}
    assert set(table) == constants
    for kind, needed in events.REQUIRED.items():
        for field in needed:
            words = table[kind].replace("`", "")
            assert re.search(rf"\b{field}\b", words), f"{kind} needs {field}"


def test_log_lines_are_those_of_the_code() -> None:
    """What operators are told to look for is what is logged."""
    for line, *_ in rows("docs/operations.md", "## Logs"):
        assert code(line)[0] in SOURCES, line


async def test_metrics_are_those_of_the_code() -> None:
    """The table has every one that a replica tells; and what else operators are pointed at is there, too."""
    async with unspool.GenerationManager(ledger=Ledger("sqlite://")) as manager:
        samples = [sample.name for metric in _Replica(manager).collect() for sample in metric.samples]
    told = [name.partition("{")[0] for names, _ in rows("docs/operations.md", "### Metrics") for name in code(names)]
    assert sorted(told) == sorted(set(samples))
    of_redis = {"evicted_keys", "used_memory"}
    for heading in ("### Replicas", "### Redis"):
        for *_, seen in rows("docs/redis.md", heading):
            for name in code(seen):
                known = name.partition("{")[0] in {*told, *of_redis} or name in SOURCES
                assert known or name == "?timeout=", name


def test_extras_are_told() -> None:
    """Every extra that is for users stands in the table of extras."""
    extras = {extra for extra, _ in rows("docs/index.md", "## Extras") for extra in code(extra)}
    assert {"http", "server", "client", "redis", "openai", "anthropic", "local"} <= extras


@pytest.mark.parametrize("module", [unspool, unspool.http, unspool.client, unspool.providers, unspool.agents])
def test_the_reference_has_every_public_name(module: Any) -> None:
    """What a package exports has a place in the reference: an entry of its own, or in the table of errors."""
    entries = re.findall(
        r"^::: (\S+)$", "".join(PAGES[name] for name in PAGES if name.startswith("docs/api/")), re.MULTILINE
    )
    found = {entry.rpartition(".")[2] for entry in entries}
    found |= {name for name, one in vars(errors).items() if inspect.isclass(one)}
    assert set(module.__all__) <= found


def test_every_page_is_in_the_navigation() -> None:
    """mkdocs says so too, where it is installed."""
    nav = (ROOT / "mkdocs.yml").read_text()
    for page in PAGES:
        assert re.search(rf"\b{re.escape(Path(page).relative_to('docs').as_posix())}$", nav, re.MULTILINE), page
