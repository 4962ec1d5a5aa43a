"""AG-UI 1.0, as `@ag-ui/client` speaks it, and the routes of CopilotKit's runtime, which are how that world resumes.

A thread is a stream, a run is a generation. The protocol has no positions: who comes back is told what the messages are
now, and what follows. Source: `@ag-ui/core` 1.0.0, `@copilotkit/core` 1.75.0.
"""

from __future__ import annotations

from starlette.routing import BaseRoute

from unspool.http.dialects.ag_ui import copilotkit
from unspool.http.dialects.ag_ui import routes as own
from unspool.http.dialects.ag_ui.projection import AgUi
from unspool.http.door import Door


def routes(door: Door) -> list[BaseRoute]:
    """The routes of this dialect."""
    door.keep(AgUi)  # also what AgUiOld begins with: it is the same state
    runs = own.Runs(door)
    return [*own.routes(runs), *copilotkit.routes(runs)]
