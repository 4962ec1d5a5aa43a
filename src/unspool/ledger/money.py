"""Money: integer nano-USD everywhere, decimals where people read and write, floats nowhere."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from typing import Final

from unspool.errors import InvalidArgument

NANO: Final = 10**9
"""Nano-USD in one USD."""

LARGEST_AMOUNT: Final = 10**18
"""The largest amount of one entry, in nano-USD: a thousand million USD."""

EXACT: Final = Context(prec=60, rounding=ROUND_HALF_EVEN)
"""The decimal context of prices, independent of the application's."""


def nano(usd: Decimal | int | str) -> int:
    """Nano-USD from an amount in USD: `nano("0.10")` is 100,000,000.

    Raises InvalidArgument for a float, for what is no number, for more than nine decimals and for too large an amount.
    """
    if isinstance(usd, bool) or not isinstance(usd, Decimal | int | str):
        raise InvalidArgument(f"an amount must be a Decimal, an int or a string, not {type(usd).__name__}")
    try:
        with localcontext(EXACT):
            amount = Decimal(usd) * NANO
            whole = amount.to_integral_value()
    except ArithmeticError:
        amount = whole = Decimal("NaN")
    if not amount.is_finite() or amount != whole:
        raise InvalidArgument("an amount must be a number of USD with at most nine decimals")
    return check_amount(int(whole))


def check_amount(amount: int, name: str = "amount", *, least: int = -LARGEST_AMOUNT) -> int:
    """`amount` itself when it is an int of nano-USD within the bounds. Raises InvalidArgument."""
    if isinstance(amount, bool) or not isinstance(amount, int) or not least <= amount <= LARGEST_AMOUNT:
        raise InvalidArgument(f"{name} must be whole nano-USD, {least:,} to {LARGEST_AMOUNT:,}")
    return amount


def rounded(usd: Decimal) -> int:
    """Nano-USD from a computed price, half to even: the one place where a call's cost is rounded."""
    with localcontext(EXACT):
        return int((usd * NANO).to_integral_value(ROUND_HALF_EVEN))


def in_usd(amount: int) -> str:
    """An amount of nano-USD as people read it: `-0.00135`, `12.5`, `3.00`. Exact."""
    whole, part = divmod(abs(amount), NANO)
    decimals = f"{part:09d}".rstrip("0").ljust(2, "0")
    return f"{'-' if amount < 0 else ''}{whole}.{decimals}"
