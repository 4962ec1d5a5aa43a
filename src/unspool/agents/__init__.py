"""Agents: what they are configured with, and the memory that they share."""

from unspool.agents.continued import continued_call
from unspool.agents.memory import Agent, SharedContext, share_memory

__all__ = ["Agent", "SharedContext", "continued_call", "share_memory"]
