"""The site: it builds without a warning, asks nobody else for anything, and its diagram is the table in `jobs.py`."""

from __future__ import annotations

import os
import re
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import pytest

from scripts.docs.http_reference import http_reference
from scripts.docs.status_diagram import status_diagram
from scripts.docs.tables import errors_table, settings_table
from tests.docs.blocks import ROOT
from tests.docs.servers import ran
from unspool.cli.settings import Settings
from unspool.http.openapi import document
from unspool.jobs import TRANSITIONS, Status, Trigger

SVG = "{http://www.w3.org/2000/svg}"
LOADED = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "embed": "src",
}


class Foreign(HTMLParser):
    """Collects what a page loads from elsewhere. Links that a reader may click are none of that."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        name = "href" if tag == "link" else LOADED.get(tag)
        target = attributes.get(name or "") or ""
        if re.match(r"(https?:)?//", target) and attributes.get("rel") != "canonical":
            self.found.append(f"<{tag}> {target}")


async def test_the_site_builds_and_asks_nobody_else(tmp_path: Path) -> None:
    """Strictly, with every page; neither its pages nor its styles load anything from another host."""
    if find_spec("mkdocs") is None or find_spec("mkdocstrings") is None or find_spec("material") is None:
        pytest.skip("THE SITE WAS NOT BUILT: pip install 'unspool[docs]', or make docs")
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = ("-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site"))
    await ran(sys.executable, *command, folder=ROOT, env=env)
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        text = page.read_text()
        parser = Foreign()
        parser.feed(text)
        assert not parser.found, (page, parser.found)
        assert "<!-- generated:" not in text, page
    for style in (tmp_path / "site").rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", style.read_text()), style
    concepts = (tmp_path / "site/concepts/index.html").read_text()
    assert concepts.count("<svg class=") == 2, "both pictures are in the page itself"


def test_the_diagram_is_the_table() -> None:
    """It names every transition, draws a box for every status and a label for every trigger."""
    tree = ET.fromstring(status_diagram())
    said = tree.findtext(f"{SVG}desc") or ""
    assert said.split("; ") == [
        f"{one} becomes {next_} when {trigger}" for (one, trigger), next_ in TRANSITIONS.items()
    ]
    labels = [text.text for text in tree.iter(f"{SVG}text") if text.get("class") is None]
    assert sorted(map(str, labels)) == sorted(Status)
    triggers = [text.text for text in tree.iter(f"{SVG}text") if text.get("class") == "trigger"]
    assert sorted(map(str, triggers)) == sorted(Trigger), "those that all active ones share are drawn once"


def test_the_diagram_follows_the_table() -> None:
    """A transition that only one of the active statuses has is drawn from that one alone."""
    changed = {key: value for key, value in TRANSITIONS.items() if key != (Status.REQUIRES_ACTION, Trigger.FAILED)}
    assert status_diagram(changed) != status_diagram()
    assert f"{Status.REQUIRES_ACTION} becomes {Status.ERROR}" not in status_diagram(changed)
    with pytest.raises(ValueError, match="no place"):
        status_diagram({(Status.RUNNING, Trigger.PAUSE): Status.RUNNING})


def test_the_http_reference_has_all_that_is_declared() -> None:
    """Every path, parameter, schema, field and status of the OpenAPI document, and no link that leads nowhere."""
    text, described = http_reference(), document(bearer=True)
    for path, item in described["paths"].items():
        for method, operation in item.items():
            section = text.split(f"### `{method.upper()} {path}`")[1].split("\n### ")[0]
            for one in operation.get("parameters", ()):
                assert f"`{one['name']}`" in section
            for status in operation["responses"]:
                assert status in section
    for name, schema in described["components"]["schemas"].items():
        section = text.split(f"#### {name} ")[1].split("\n#### ")[0]
        for field in schema["properties"]:
            assert f"| `{field}` |" in section
    assert set(re.findall(r"\(#(schema-\w+)\)", text)) <= set(re.findall(r"\{ #(schema-\w+) \}", text))


def test_tables_have_every_setting_and_every_error() -> None:
    for name in Settings.model_fields:
        assert f"`UNSPOOL_{name.upper()}`" in settings_table()
    for code in ("not_found", "gone", "store_unavailable", "run_failed"):
        assert f"`{code}`" in errors_table()
