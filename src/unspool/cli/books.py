"""The ledger of a server: where its one account is charged, and what its own models cost."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from unspool.cli.settings import Settings
from unspool.ledger import Ledger, Prices, Rates, nano
from unspool.providers.base import Model

BUILT_IN: Final = ("local", "scripted")
"""Providers whose models run here, and cost nobody anything: they are given a small price, so that it can be seen."""


def open_books(url: str, model: Model) -> Ledger:
    """The ledger at a URL, not yet open. Raises ConfigurationError."""
    overrides: dict[str, Rates] = {}
    if model.provider in BUILT_IN:
        overrides[f"{model.provider}/*"] = Rates(input=Decimal("0.10"), output=Decimal("0.40"))
    return Ledger.from_url(url, pricer=Prices(overrides))


async def grant_once(ledger: Ledger, settings: Settings) -> None:
    """Give the account its first credit, if it is to have one, and never again."""
    if settings.credit:
        await ledger.grant(settings.account, nano(settings.credit), id=f"credit:{settings.account}")
