"""The settings of a ledger, with their units and defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from unspool.errors import InvalidArgument
from unspool.ledger.money import check_amount

Policy = Literal["estimate", "drain", "input_only"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerOptions:
    """Settings of a ledger. Seconds, counts or nano-USD.

    Raises InvalidArgument, naming the field, for a figure that makes no sense.
    """

    hold: int = 0
    """Nano-USD set aside for a generation when it is admitted, and made up to before each call. 0: an account
    that is not in debt may run, and an estimate is not capped."""
    hold_lease: float = 60.0
    """Seconds for which a hold stays without being renewed; renewed at every third of it. Then what it holds is given
    back, until its owner makes a call: an owner may live on while the ledger is away."""
    policy: Policy = "estimate"
    """The charge for a call that ended before its usage was told. `estimate`: exact input where the provider told
    it, output counted from the text. `drain`: read on in the background for what it will tell. `input_only`: the
    input, as exactly as it is known."""
    drain_seconds: float = 60.0
    """Seconds that `drain` reads on."""
    drain_chunks: int = 20_000
    """Chunks that `drain` reads on."""
    settle_wait: float = 5.0
    """Seconds that leaving a call waits for its settlement; it goes on behind the caller's back after that."""
    stale_after: float = 30.0
    """Seconds after which a call that is not settled is reaped, once its generation has no open hold any more."""
    oldest_call: float = 3600.0
    """Seconds after which it is reaped in any case."""
    sweep: float = 10.0
    """Seconds between two sweeps: expired holds, stale calls."""
    deliver_every: float = 1.0
    """Seconds between two looks into the outbox."""
    drain_on_close: float = 10.0
    """Seconds that closing waits for settlements under way."""
    patience: float = 20.0
    """Seconds for which what writes is tried again while the database is away, or a model call waits for it. What only
    reads, or is asked on behalf of a start, a Stop or a seal, has bounds of its own, of three seconds and less."""
    target: str = "default"
    """The target of outbox rows, which names the exporter that delivers them."""

    def __post_init__(self) -> None:
        check_amount(self.hold, "hold", least=0)
        for name in ("hold_lease", "sweep", "deliver_every"):
            if getattr(self, name) <= 0:
                raise InvalidArgument(f"{name} must be more than 0 seconds")
        for name in ("drain_seconds", "settle_wait", "stale_after", "oldest_call", "drain_on_close", "patience"):
            if getattr(self, name) < 0:
                raise InvalidArgument(f"{name} must be 0 seconds or more")
        if self.drain_chunks < 1:
            raise InvalidArgument("drain_chunks must be 1 or more")
        if self.policy not in get_args(Policy):
            raise InvalidArgument(f"policy must be one of {', '.join(get_args(Policy))}")
