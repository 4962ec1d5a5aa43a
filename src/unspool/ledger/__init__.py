"""The ledger: what model calls used, in one shape."""

from unspool.ledger.usage import Usage, normalise, usage_event

__all__ = ["Usage", "normalise", "usage_event"]
