"""All targets by name. Loading them is what a coverage-guided run instruments, so nothing here is imported early."""

from __future__ import annotations

import importlib
from typing import Final

from tests.fuzz.target import Target

GROUPS: Final = {
    "wire": ("sse", "position", "body", "problem"),
    "content": ("events", "metadata", "usage", "checkpoint"),
    "models": ("chat", "openai", "anthropic"),
    "config": ("toml", "environment"),
    "routes": ("routes",),
    "sockets": ("sockets",),
    "dialects": ("dialects",),
}
NAMES: Final = [name for names in GROUPS.values() for name in names]

UNGUIDED: Final = ("routes", "sockets", "dialects")
"""What happens in threads of their own says nothing about coverage: these are always left to Hypothesis."""


def load(name: str) -> Target:
    """The target of this name."""
    (group,) = (group for group, names in GROUPS.items() if name in names)
    module = importlib.import_module(f"tests.fuzz.targets.{group}")
    (target,) = (target for target in module.TARGETS if target.name == name)
    return target
