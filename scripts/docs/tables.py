"""Tables of the documentation that the code itself knows: settings, errors. As Markdown."""

from __future__ import annotations

import inspect
from typing import Any

from unspool import errors
from unspool.cli.settings import PREFIX, Settings, flag_of
from unspool.errors import UnspoolError

_NO_FLAG = frozenset({"api_key"})


def settings_table() -> str:
    """Every setting of `unspool serve`: its flag, its variable, its default, what it is for."""
    lines = ["| flag, variable | default | |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        flag = "" if name in _NO_FLAG else f"`{flag_of(name)}`<br>"
        default = "" if field.default in (None, ()) else f"`{_plain(field.default)}`"
        lines.append(f"| {flag}`{PREFIX}{name.upper()}` | {default} | {field.description} |")
    return "\n".join(lines)


def errors_table() -> str:
    """Every error with its code, its HTTP status, whose fault it is, and what it says."""
    lines = ["| error, its `code` | HTTP | fault | meaning |", "|---|---|---|---|"]
    for error in all_errors():
        says = inspect.cleandoc(error.__doc__ or "").partition("\n")[0]
        lines.append(f"| `{error.__name__}`<br>`{error.code}` | {error.status} | {error.fault} | {says} |")
    return "\n".join(lines)


def all_errors() -> list[type[UnspoolError]]:
    """The errors, in the order in which they are written down."""
    found = [one for one in vars(errors).values() if inspect.isclass(one) and issubclass(one, UnspoolError)]
    return [one for one in found if one is not UnspoolError]


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
