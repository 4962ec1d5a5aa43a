"""The `unspool` command. Needs the extra `server`."""

from __future__ import annotations

import sys

from unspool.errors import ConfigurationError

__all__ = ["main"]

_EXTRA = frozenset({"httptools", "httpx2", "pydantic", "pydantic_settings", "rich", "starlette", "typer", "uvicorn"})


def main() -> None:
    """Run the command that the arguments name, and exit with its code.

    0: it did what it was asked to; 1: it was refused or failed; 2: the arguments or settings are wrong; 3: `tail` saw
    a generation end before its answer was complete; 130: interrupted from the keyboard.
    """
    try:
        from unspool.cli.app import run
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRA:
            raise
        sys.exit(_explain(missing))
    except ConfigurationError as error:  # how the HTTP layer says the same
        sys.exit(_explain(str(error)))
    sys.exit(run())


def _explain(missing: str) -> str:
    return f"unspool: the command line needs the extra 'server' ({missing}): pip install 'unspool[server]'"
