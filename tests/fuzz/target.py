"""What a fuzz target is: a name, inputs, and a check that raises when a promise is broken.

The same target runs in three ways: a moment of Hypothesis with a fixed seed in the normal suite, Hypothesis for as long
as one likes, and coverage-guided under atheris, which then either makes the bytes itself (`raw`) or makes the choices
from which Hypothesis draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

Check = Callable[[Any], None]
_SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


@dataclass(frozen=True, kw_only=True)
class Target:
    """`seeds`: inputs that a coverage-guided run begins with. `found`: inputs that broke something once."""

    name: str
    claim: str
    inputs: st.SearchStrategy[Any]
    check: Check
    raw: bool = False
    seeds: Sequence[bytes] = ()
    found: Sequence[Any] = ()

    def property(self, examples: int, *, fixed: bool = False, count: Callable[[], object] = int) -> Any:
        """A Hypothesis test that tries so many inputs. `fixed`: the same ones each time. `count`: called for each."""

        def once(value: Any) -> None:
            count()
            self.check(value)

        once.__name__ = once.__qualname__ = self.name
        phases = (Phase.generate,) if fixed else (Phase.generate, Phase.target, Phase.shrink)
        chosen = settings(
            max_examples=examples, derandomize=fixed, database=None, deadline=None, phases=phases, print_blob=True,
            suppress_health_check=_SLOW,
        )  # fmt: skip
        return chosen(given(self.inputs)(once))


def pieces(*tokens: bytes, most: int = 12) -> st.SearchStrategy[bytes]:
    """Bytes made of the words of a format, and of bytes that are not."""
    piece = st.sampled_from(tokens) | st.binary(max_size=6) | st.text(max_size=4).map(str.encode)
    return st.lists(piece, max_size=most).map(b"".join)
