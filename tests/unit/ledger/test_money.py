"""Money: exact on its way in and out, floats refused."""

from __future__ import annotations

from decimal import Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unspool.errors import InvalidArgument
from unspool.ledger.money import LARGEST_AMOUNT, check_amount, in_usd, nano, rounded


@pytest.mark.parametrize(
    ("usd", "amount"),
    [
        ("0.10", 100_000_000), (Decimal("1e-9"), 1), (3, 3_000_000_000), ("-0.000000001", -1), (" 2 ", 2 * 10**9),
        ("1000000000", LARGEST_AMOUNT),
    ],
)  # fmt: skip
def test_usd_becomes_nano_usd(usd: Decimal | int | str, amount: int) -> None:
    assert nano(usd) == amount


@pytest.mark.parametrize("usd", [0.1, True, None, "", "NaN", "inf", "1e-10", "ten", "1000000001", "1e999999", b"1"])
def test_what_is_no_exact_amount_is_refused(usd: object) -> None:
    with pytest.raises(InvalidArgument):
        nano(usd)  # pyright: ignore[reportArgumentType]


@given(st.integers(-LARGEST_AMOUNT, LARGEST_AMOUNT))
def test_what_people_read_is_exact(amount: int) -> None:
    assert nano(in_usd(amount)) == amount


def test_the_applications_decimal_context_changes_nothing() -> None:
    with localcontext() as context:
        context.prec = 3
        assert nano("123456.789012345") == 123_456_789_012_345
        assert rounded(Decimal("0.0165795")) == 16_579_500


@pytest.mark.parametrize(("usd", "amount"), [("0.0000000005", 0), ("0.0000000015", 2), ("0.0000000025", 2)])
def test_a_cost_is_rounded_half_to_even(usd: str, amount: int) -> None:
    assert rounded(Decimal(usd)) == amount


@pytest.mark.parametrize("amount", [1.0, "1", True, LARGEST_AMOUNT + 1])
def test_only_whole_nano_usd_within_bounds_pass(amount: object) -> None:
    with pytest.raises(InvalidArgument):
        check_amount(amount)  # pyright: ignore[reportArgumentType]
