"""Dialects: one wire protocol a file. Each is a projection of the log, pure and deterministic, and the routes that its
clients know.

A new one is a module with `routes(door)`, a line in DIALECTS, and a test module.
"""

from __future__ import annotations

from collections.abc import Collection
from importlib import import_module
from typing import TYPE_CHECKING, Final

from starlette.routing import BaseRoute

from unspool.errors import ConfigurationError

if TYPE_CHECKING:
    from unspool.http.door import Door

DIALECTS: Final = {
    "ai-sdk": "ai_sdk",
    "librechat": "librechat",
    "langgraph": "langgraph",
    "responses": "responses",
    "chat-completions": "chat_completions",
    "ag-ui": "ag_ui",
    "durable-streams": "durable_streams",
}
"""The dialects beside the native one: their names, and the modules that they are in."""


def dialect_routes(door: Door, names: Collection[str] | None) -> list[BaseRoute]:
    """The routes of these dialects (None: of all). Raises ConfigurationError for a name that is none."""
    routes: list[BaseRoute] = []
    for name in DIALECTS if names is None else names:
        if name not in DIALECTS:
            raise ConfigurationError(f"no dialect is called {name!r}; known are {', '.join(DIALECTS)}")
        routes += import_module(f"unspool.http.dialects.{DIALECTS[name]}").routes(door)
    return routes
