"""The ledger: every model call charged exactly once. Needs the extra `ledger`; usage in one shape needs nothing.

`Usage`, `normalise` and `usage_event` need no extra. The other names are imported when they are first used, and
raise ConfigurationError, naming the extra, where it is not installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from unspool.errors import ConfigurationError
from unspool.ledger.usage import Usage, normalise, usage_event

if TYPE_CHECKING:
    from unspool.ledger.accounts import Credit, Rerate
    from unspool.ledger.audit import Audit, Fault
    from unspool.ledger.calls import Charge
    from unspool.ledger.entries import Entry
    from unspool.ledger.estimates import TokenCounter, tiktoken_counter
    from unspool.ledger.exporters import StripeMeter, Webhook
    from unspool.ledger.holds import Hold
    from unspool.ledger.ledger import Ledger
    from unspool.ledger.metered import MeteredCall
    from unspool.ledger.money import in_usd, nano
    from unspool.ledger.options import LedgerOptions
    from unspool.ledger.outbox import Delivery, Exporter, Parcel
    from unspool.ledger.prices import Price, Pricer, Prices, Rates
    from unspool.ledger.reads import Balance, CallRecord, GenerationUsage, Page, Totals

_HOMES: Final = {
    "accounts": ("Credit", "Rerate"),
    "audit": ("Audit", "Fault"),
    "calls": ("Charge",),
    "entries": ("Entry",),
    "estimates": ("TokenCounter", "tiktoken_counter"),
    "exporters": ("StripeMeter", "Webhook"),
    "holds": ("Hold",),
    "ledger": ("Ledger",),
    "metered": ("MeteredCall",),
    "money": ("in_usd", "nano"),
    "options": ("LedgerOptions",),
    "outbox": ("Delivery", "Exporter", "Parcel"),
    "prices": ("Price", "Pricer", "Prices", "Rates"),
    "reads": ("Balance", "CallRecord", "GenerationUsage", "Page", "Totals"),
}
_HOME_OF: Final = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Audit",
    "Balance",
    "CallRecord",
    "Charge",
    "Credit",
    "Delivery",
    "Entry",
    "Exporter",
    "Fault",
    "GenerationUsage",
    "Hold",
    "Ledger",
    "LedgerOptions",
    "MeteredCall",
    "Page",
    "Parcel",
    "Price",
    "Pricer",
    "Prices",
    "Rates",
    "Rerate",
    "StripeMeter",
    "TokenCounter",
    "Totals",
    "Usage",
    "Webhook",
    "in_usd",
    "nano",
    "normalise",
    "tiktoken_counter",
    "usage_event",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"unspool.ledger.{home}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "unspool":
            raise
        raise ConfigurationError(f"ledger: it needs the extra: pip install 'unspool[ledger]' ({error})") from error
