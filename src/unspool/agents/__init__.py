"""Agents: what they are configured with, and the memory that they share."""

from unspool.agents.memory import Agent, SharedContext, share_memory

__all__ = ["Agent", "SharedContext", "share_memory"]
