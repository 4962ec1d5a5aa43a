"""Prices of model calls: overrides first, then the price list of `genai-prices`, offline; exact decimals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, localcontext
from typing import Any, Final, Literal, Protocol

import msgspec

from unspool.errors import ConfigurationError, InvalidArgument, UnknownPrice
from unspool.ledger.money import EXACT, rounded
from unspool.ledger.usage import Usage

MILLION: Final = 1_000_000

LARGEST_CHARGE: Final = 10**15
"""Nano-USD above which the usage of one call is not believed: a million USD."""


class Price(msgspec.Struct, frozen=True):
    """The price of one call: nano-USD, the version of the list, and the USD per million tokens that were applied."""

    amount: int
    version: str
    unit_prices: dict[str, str]


class Pricer(Protocol):
    """A source of prices. It must neither wait nor use the network: it is called inside a transaction."""

    def price(self, usage: Usage, *, provider: str, model: str, at: float) -> Price | None:
        """The price of this usage at a time (Unix seconds); None where the model is unknown and that is recorded.

        Raises UnknownPrice where it is unknown and that is refused; the ledger asks so, with a usage of nothing,
        before a call leaves. InvalidArgument for a usage that no call can have.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Prices of your own, USD per million tokens. What is None costs what fresh input does; an hour's cache write
    what a shorter one does.

    Raises InvalidArgument for what is no decimal of 0 or more.
    """

    input: Decimal
    output: Decimal
    cache_read: Decimal | None = None
    cache_write: Decimal | None = None
    cache_write_1h: Decimal | None = None

    def __post_init__(self) -> None:
        for name in self.__slots__:
            rate = getattr(self, name)
            if rate is None and name not in ("input", "output"):
                continue
            if not isinstance(rate, Decimal) or not rate.is_finite() or rate < 0:
                raise InvalidArgument(f"the rate {name} must be a Decimal of 0 or more USD per million tokens")


Unknown = Literal["record_unpriced", "fail"] | Rates


class Prices:
    """The default pricer.

    `overrides`: rates by `provider/model`, by `model`, or by `provider/*`; the first of these that is there counts.
    `unknown`: what becomes of a model that is in neither: `record_unpriced` settles its calls with the usage and
    without a cost, for a later re-rating, and warns; `fail` refuses the call before it leaves; rates are applied.

    Raises ConfigurationError where `genai-prices` is not installed.
    """

    def __init__(self, overrides: Mapping[str, Rates] | None = None, *, unknown: Unknown = "record_unpriced") -> None:
        try:
            import genai_prices
        except ImportError as error:
            raise ConfigurationError(
                f"ledger: prices need the extra: pip install 'unspool[ledger]' ({error})"
            ) from error
        self._calculate = genai_prices.calc_price
        self._usage = genai_prices.Usage
        self._version = f"genai-prices {genai_prices.__version__}"
        self._overrides = dict(overrides or {})
        self._unknown = unknown

    def price(self, usage: Usage, *, provider: str, model: str, at: float) -> Price | None:
        with localcontext(EXACT):
            price = self._price(usage, provider, model, at)
        if price is not None and price.amount > LARGEST_CHARGE:
            raise InvalidArgument(f"a usage of {usage.input_tokens} + {usage.output_tokens} tokens is not believed")
        return price

    def _price(self, usage: Usage, provider: str, model: str, at: float) -> Price | None:
        for name in (f"{provider}/{model}", model, f"{provider}/*"):
            if (rates := self._overrides.get(name)) is not None:
                return by_rates(usage, rates, f"override {name}")
        try:
            return self._listed(usage, provider, model, at)
        except LookupError:
            pass
        if isinstance(self._unknown, Rates):
            return by_rates(usage, self._unknown, "default rate")
        if self._unknown == "fail":
            raise UnknownPrice(
                f"there is no price for {provider}/{model}: add an override, or let unpriced calls be recorded",
                provider=provider,
                model=model,
            )
        return None

    def _listed(self, usage: Usage, provider: str, model: str, at: float) -> Price:
        counted = self._usage(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cache_read_tokens=usage.cache_read_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            cache_write_1h_tokens=usage.cache_write_1h_tokens,
        )
        when = datetime.fromtimestamp(at, UTC)
        found = self._calculate(counted, model, provider_id=provider, genai_request_timestamp=when)
        return Price(rounded(found.total_price), self._version, _applied(found.model_price, usage.input_tokens))


def by_rates(usage: Usage, rates: Rates, version: str) -> Price:
    """The price of a usage by rates of your own."""
    read = rates.input if rates.cache_read is None else rates.cache_read
    write = rates.input if rates.cache_write is None else rates.cache_write
    hour = write if rates.cache_write_1h is None else rates.cache_write_1h
    fresh = usage.input_tokens - usage.cache_read_tokens - usage.cache_write_tokens
    short = usage.cache_write_tokens - usage.cache_write_1h_tokens
    total = (
        fresh * rates.input
        + usage.cache_read_tokens * read
        + short * write
        + usage.cache_write_1h_tokens * hour
        + usage.output_tokens * rates.output
    )
    applied = {"input": rates.input, "cache_read": read, "cache_write": write, "cache_write_1h": hour}
    units = {name: str(rate) for name, rate in {**applied, "output": rates.output}.items()}
    return Price(rounded(total / MILLION), version, units)


_PARTS: Final = ("input", "cache_read", "cache_write", "cache_write_1h", "output")


def _applied(prices: Any, input_tokens: int) -> dict[str, str]:
    """The list's prices per million tokens, of the tier that this much input falls into."""
    found: dict[str, str] = {}
    for part in _PARTS:
        price = getattr(prices, f"{part}_mtok", None)
        if price is None:
            continue
        if not isinstance(price, Decimal):  # tiers: the highest that starts below counts for all tokens
            started = [tier.price for tier in price.tiers if input_tokens > tier.start]
            price = started[-1] if started else price.base
        found[part] = str(price)
    return found
