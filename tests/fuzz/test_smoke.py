"""A moment of every fuzz target, with the same inputs each time; `make fuzz` goes on from here."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator

import pytest
from hypothesis import strategies as st

from tests.fuzz.catalogue import GROUPS, NAMES, load
from tests.fuzz.target import Target

EXAMPLES = {"sockets": 12, "routes": 40, "openai": 60, "anthropic": 60, "environment": 60}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What a target provokes is logged as it should be; here that is noise."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("group", GROUPS)
def test_every_target_is_in_the_catalogue(group: str) -> None:
    """None is written and then forgotten."""
    module = importlib.import_module(f"tests.fuzz.targets.{group}")
    assert tuple(target.name for target in module.TARGETS) == GROUPS[group]
    assert all(load(name).claim for name in GROUPS[group])


def test_a_finding_is_told() -> None:
    """What breaks a promise fails the run, with the input that did it."""

    def check(value: int) -> None:
        assert value < 100

    target = Target(name="planted", claim="no number is large", inputs=st.integers(0, 200), check=check)
    with pytest.raises(AssertionError) as found:
        target.property(200)()
    assert "100 < 100" in str(found.value)  # the smallest that does


@pytest.mark.parametrize("name", NAMES)
def test_a_moment_of(name: str) -> None:
    """Inputs that broke something once, and a few that are drawn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the libraries that send the requests
        target = load(name)
        for value in target.found:
            target.check(value)
        target.property(EXAMPLES.get(name, 100), fixed=True)()
