"""Every error a caller can meet. One root; each says whose fault it is and which HTTP status it becomes.

An error's docstring is its default message and its title in problem JSON.
"""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, Literal

Fault = Literal["caller", "system"]


class UnspoolError(Exception):
    """Something went wrong in unspool."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    fault: ClassVar[Fault] = "system"

    def __init__(self, message: str | None = None, **details: Any) -> None:
        self.message = message or inspect.cleandoc(type(self).__doc__ or "")
        self.details: dict[str, Any] = details
        super().__init__(self.message)


class NotFound(UnspoolError):
    """There is no such stream or generation."""

    code, status, fault = "not_found", 404, "caller"


class Gone(UnspoolError):
    """The generation ended and its retention time is over; read the answer where your application saved it."""

    code, status, fault = "gone", 410, "caller"


class GenerationConflict(UnspoolError):
    """The stream has moved on: its last generation is not the one that you expected."""

    code, status, fault = "generation_conflict", 409, "caller"


class InvalidPosition(UnspoolError):
    """The position lies beyond the end of the log, or belongs to another generation."""

    code, status, fault = "invalid_position", 409, "caller"


class InvalidEvent(UnspoolError, ValueError):
    """The event cannot be stored: its type or its data is not valid."""

    code, status, fault = "invalid_event", 422, "caller"


class InvalidArgument(UnspoolError, ValueError):
    """An argument is not valid."""

    code, status, fault = "invalid_argument", 422, "caller"


class BadRequest(UnspoolError):
    """The request is not valid."""

    code, status, fault = "bad_request", 400, "caller"


class Unauthenticated(UnspoolError):
    """Say who you are: this server wants credentials."""

    code, status, fault = "unauthenticated", 401, "caller"


class ForeignOrigin(UnspoolError):
    """A page of another origin may change nothing here."""

    code, status, fault = "foreign_origin", 403, "caller"


class BodyTooLarge(UnspoolError):
    """The body is larger than this server takes."""

    code, status, fault = "body_too_large", 413, "caller"


class UnsupportedMediaType(UnspoolError):
    """The body must be JSON: send `Content-Type: application/json`."""

    code, status, fault = "unsupported_media_type", 415, "caller"


class CapacityExceeded(UnspoolError):
    """All places are taken by running generations; try again later."""

    code, status, fault = "capacity_exceeded", 503, "system"


class ShuttingDown(UnspoolError):
    """This replica is shutting down and starts nothing new."""

    code, status, fault = "shutting_down", 503, "system"


class ViewerReleased(UnspoolError):
    """This replica let its viewers go; follow again from your last position."""

    code, status, fault = "viewer_released", 503, "system"


class GenerationStopped(UnspoolError):
    """The generation was stopped or has ended; it takes no further events."""

    code, status, fault = "generation_stopped", 409, "system"


class Fenced(GenerationStopped):
    """Another owner holds the lease, or the log is sealed: this writer was refused."""

    code, status, fault = "fenced", 409, "system"


class StoreUnavailable(UnspoolError):
    """The store cannot be reached."""

    code, status, fault = "store_unavailable", 503, "system"


class TooLarge(UnspoolError):
    """The store takes no value of this size."""

    code, status, fault = "too_large", 413, "caller"


class UnreadableRecord(UnspoolError):
    """This version cannot read what a newer version of unspool has stored; upgrade this replica."""

    code, status, fault = "unreadable_record", 503, "system"


class TooManyGenerations(UnspoolError):
    """As many generations are running as may; stop one, or wait for its end. Details: `limit`, `running`."""

    code, status, fault = "too_many_generations", 429, "caller"


class InsufficientBalance(UnspoolError):
    """The account's balance does not cover what this may cost.

    Details, in nano-USD: `balance` (posted), `held` by what runs, `needed` and `floor`; and the `account`. Refused when
    `balance - held - needed` would fall below `floor`.
    """

    code, status, fault = "insufficient_balance", 402, "caller"


class CallStarted(UnspoolError):
    """This model call was started before and must not be sent again; a retry is a new attempt."""

    code, status, fault = "call_started", 409, "caller"


class LedgerConflict(UnspoolError):
    """The ledger has something else under this key; nothing was changed."""

    code, status, fault = "ledger_conflict", 409, "caller"


class UsageConflict(LedgerConflict):
    """The provider's usage of this model call was reported before, with other figures; no money moved."""

    code, status, fault = "usage_conflict", 409, "system"


class UnknownPrice(UnspoolError):
    """There is no price for this model."""

    code, status, fault = "unknown_price", 422, "caller"


class ConfigurationError(UnspoolError):
    """The configuration is not valid."""

    code, status, fault = "configuration", 500, "caller"


class RunFailed(UnspoolError):
    """The run failed.

    Raise it from a run to choose what its viewers are told; every other exception is reported to them by its
    class name alone, since its text may hold secrets.
    """

    code, status, fault = "run_failed", 502, "system"

    def __init__(self, message: str, *, code: str = "run_failed", retryable: bool = False) -> None:
        super().__init__(message)
        self.reason = code
        self.retryable = retryable
