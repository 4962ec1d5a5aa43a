"""The settings of a server: a TOML file and the environment."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import strategies as st

from tests.fuzz.inputs import texts
from tests.fuzz.target import Target, pieces
from unspool.cli.output import USAGE, CommandError
from unspool.cli.settings import PREFIX, Settings, load


def _load(toml: bytes | None, environment: dict[str, str]) -> Settings | None:
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, environment, clear=True):
        path = Path(folder, "unspool.toml")
        path.write_bytes(toml or b"")
        try:
            return load({}, config=path)
        except CommandError as error:
            code, told = error.code, str(error)
    assert (code, bool(told)) == (USAGE, True)
    return None


def check_toml(toml: bytes) -> None:
    """A file is taken as it is, or refused with one sentence; a value of the wrong kind is never bent into place."""
    settings = _load(toml, {})
    if settings is not None:
        Settings.model_validate(settings.model_dump())


def check_environment(environment: dict[str, str]) -> None:
    """Likewise for the variables."""
    _load(None, environment)


_fields = [name.encode() for name in Settings.model_fields]

TOML = Target(
    name="toml",
    claim="a settings file is taken, or refused with one sentence",
    inputs=pieces(
        *_fields, b" = ", b"\n", b'"', b'"x"', b"1", b"-1", b"1e400", b"nan", b"inf", b"true", b"[", b"]", b"[a]\n",
        b"{", b"}", b"'", b"9" * 30, b"9" * 5000, b"1979-05-27", b'["t", "u"]', b"\xff", b'"\\u0000"',
    )
    | st.lists(st.tuples(st.sampled_from(_fields), st.sampled_from(
        [b"1", b'"1"', b'"x"', b"-0.5", b"nan", b"inf", b"true", b"[]", b'["a"]', b"{}", b'"http://["', b'"http://x"',
         b'""', b"9e99"]
    )), max_size=3).map(lambda rows: b"".join(b"%b = %b\n" % row for row in rows)),
    check=check_toml,
    raw=True,
    seeds=[b'host = "127.0.0.1"\nport = 8000\ntoken = "a,b"\n', b'upstream = "http://[::1]:80/v1"\nlease = 1.5\n'],
)  # fmt: skip

_values: Any = (
    st.sampled_from(["1", "-1", "nan", "inf", "1e400", "true", "x", "http://[", "{}", "[", "9" * 5000, " "]) | texts
)

ENVIRONMENT = Target(
    name="environment",
    claim="a variable is taken, or refused with one sentence",
    inputs=st.dictionaries(
        st.sampled_from([PREFIX + name.upper() for name in Settings.model_fields]),
        _values.filter(lambda value: "\0" not in value and value.isprintable()),
        max_size=3,
    ),
    check=check_environment,
)

TARGETS = [TOML, ENVIRONMENT]
