"""Where the packages from npm are that the tests need."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent
MODULES = HERE / "node_modules"
MISSING = "the npm packages of tests/js are missing: run `sh scripts/node_modules.sh`, as make test does"


def installed() -> bool:
    """Whether `npm ci` has come to its end: it writes this file last."""
    return (MODULES / ".package-lock.json").is_file()
