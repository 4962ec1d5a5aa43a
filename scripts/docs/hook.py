"""What mkdocs cannot do by itself: pictures inside the page, so that they follow its colours, and what the code knows.

A line `<!-- generated: NAME -->` in a page stands for what the function of that name in GENERATED gives. An image of an
SVG file of our own becomes that file's content.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT: Final = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # mkdocs loads this file by its path

from scripts.docs.http_reference import http_reference  # noqa: E402
from scripts.docs.status_diagram import status_diagram  # noqa: E402
from scripts.docs.tables import errors_table, settings_table  # noqa: E402

GENERATED: Final[dict[str, Callable[[], str]]] = {
    "status-diagram": lambda: figure(status_diagram()),
    "http-reference": http_reference,
    "settings": settings_table,
    "errors": errors_table,
}
_MARKER: Final = re.compile(r"^<!-- generated: (\S+) -->$", re.MULTILINE)
_PICTURE: Final = re.compile(r"^!\[[^\]]*\]\((\S+\.svg)\)$", re.MULTILINE)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Called by mkdocs once it knows the files: the page's logo is ours, too."""
    files.append(File.generated(config, "logo.svg", content=(ROOT / "src/unspool/web/logo.svg").read_text()))
    return files


def figure(svg: str) -> str:
    """A picture as a block of the page."""
    return f'<figure class="picture">\n{svg.strip()}\n</figure>'


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Called by mkdocs for every page, before it is rendered."""

    def generated(match: re.Match[str]) -> str:
        if match[1] not in GENERATED:
            raise PluginError(f"{page.file.src_uri}: nothing generates {match[1]!r}; known are {', '.join(GENERATED)}")
        return GENERATED[match[1]]()

    def inlined(match: re.Match[str]) -> str:
        return figure((Path(page.file.abs_src_path).parent / match[1]).read_text())

    return _PICTURE.sub(inlined, _MARKER.sub(generated, markdown))
