"""Prices: the worked examples, each to the nano-USD, and against another price list."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from openai_cost_calculator import Usage as Counted
from openai_cost_calculator import calculate_cost, set_offline_mode

from unspool.errors import InvalidArgument, UnknownPrice
from unspool.ledger import Price, Prices, Rates, Usage, normalise
from unspool.ledger.usage import LARGEST

AT = 1_795_000_000.0
ANTHROPIC = ("anthropic", "claude-opus-4-5")


def anthropic(fresh: int, written: int, read: int, output: int) -> dict[str, int]:
    return {
        "input_tokens": fresh, "cache_creation_input_tokens": written, "cache_read_input_tokens": read,
        "output_tokens": output,
    }  # fmt: skip


EXAMPLES = {
    "Anthropic, written to the cache": (*ANTHROPIC, anthropic(788, 30_808, 0, 163), "200565"),
    "Anthropic, read and written": (*ANTHROPIC, anthropic(3_802, 768, 30_808, 149), "42939"),
    "OpenAI, cached tokens lie within the input": (
        "openai", "gpt-5",
        {"prompt_tokens": 1000, "completion_tokens": 100, "prompt_tokens_details": {"cached_tokens": 800}}, "1350",
    ),
    "LangChain": (
        "anthropic", "claude-sonnet-4-5",
        {
            "input_tokens": 4424, "output_tokens": 0,
            "input_token_details": {"cache_creation": 0, "ephemeral_5m_input_tokens": 4410, "cache_read": 0},
        }, "16579.5",
    ),
    "below the tier": ("openai", "gpt-5.4", {"prompt_tokens": 272_000, "completion_tokens": 1000}, "695000"),
    "above it": ("openai", "gpt-5.4", {"prompt_tokens": 272_001, "completion_tokens": 1000}, "1382505"),
}  # fmt: skip


def priced(pricer: Prices, provider: str, model: str, usage: Usage) -> Price:
    price = pricer.price(usage, provider=provider, model=model, at=AT)
    assert price is not None
    return price


@pytest.mark.parametrize(("provider", "model", "raw", "micro"), EXAMPLES.values(), ids=EXAMPLES)
def test_worked_example(provider: str, model: str, raw: dict[str, Any], micro: str) -> None:
    price = priced(Prices(), provider, model, normalise(raw))
    assert price.amount == int(Decimal(micro) * 1000)
    assert price.version.startswith("genai-prices ")


# At exactly 272,000 tokens the two lists differ: the other one begins the tier there, ours above.
ALIKE = {name: example for name, example in EXAMPLES.items() if name != "below the tier"}


@pytest.mark.parametrize(("provider", "model", "raw", "micro"), ALIKE.values(), ids=ALIKE)
def test_another_price_list_says_the_same(provider: str, model: str, raw: dict[str, Any], micro: str) -> None:
    set_offline_mode(True)
    usage = normalise(raw)
    counted = Counted(
        input_tokens=usage.input_tokens - usage.cache_read_tokens - usage.cache_write_tokens,
        cached_input_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        output_tokens=usage.output_tokens,
    )
    found = calculate_cost(provider, model, usage=counted)
    assert found.total == Decimal(micro) / 1_000_000


def test_the_unit_prices_are_those_of_the_tier() -> None:
    low = priced(Prices(), "openai", "gpt-5.4", Usage(input_tokens=272_000)).unit_prices
    high = priced(Prices(), "openai", "gpt-5.4", Usage(input_tokens=272_001)).unit_prices
    assert (low["input"], high["input"]) == ("2.5", "5")


def test_an_hours_cache_write_has_its_own_price() -> None:
    usage = Usage(input_tokens=1000, cache_write_tokens=1000, cache_write_1h_tokens=400)
    assert priced(Prices(), *ANTHROPIC, usage).amount == (600 * 6_250) + (400 * 10_000)


def test_overrides_come_first_the_narrowest_of_all() -> None:
    rates = {
        name: Rates(input=Decimal(n), output=Decimal(n)) for n, name in enumerate(("openai/*", "gpt-5", "x/gpt-5"))
    }
    pricer = Prices(rates)
    found = [
        priced(pricer, provider, model, Usage(input_tokens=1)).version
        for provider, model in (
            ("x", "gpt-5"),
            ("openai", "gpt-5"),
            ("openai", "gpt-5.4"),
            ("anthropic", "claude-opus-4-5"),
        )
    ]
    assert found[:3] == ["override x/gpt-5", "override gpt-5", "override openai/*"]
    assert found[3].startswith("genai-prices")


def test_rates_price_each_part() -> None:
    rates = Rates(
        input=Decimal(10),
        output=Decimal(20),
        cache_read=Decimal(1),
        cache_write=Decimal(12),
        cache_write_1h=Decimal(15),
    )
    usage = Usage(
        input_tokens=100, cache_read_tokens=50, cache_write_tokens=30, cache_write_1h_tokens=10, output_tokens=5
    )
    price = priced(Prices({"m": rates}), "p", "m", usage)
    assert price.amount == (20 * 10 + 50 * 1 + 20 * 12 + 10 * 15 + 5 * 20) * 1000
    plain = Prices({"m": Rates(input=Decimal(10), output=Decimal(20))})
    assert priced(plain, "p", "m", usage).amount == (100 * 10 + 5 * 20) * 1000


@pytest.mark.parametrize("rate", [1, "1", Decimal("NaN"), Decimal(-1), None])
def test_rates_are_decimals(rate: object) -> None:
    with pytest.raises(InvalidArgument):
        Rates(input=rate, output=Decimal(1))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("provider", "model"), [("openai", "no-such-model"), ("nowhere", "gpt-5")])
def test_a_model_that_nobody_knows(provider: str, model: str) -> None:
    """It is never taken for another provider's, and never free in silence."""
    usage = Usage(input_tokens=10)
    assert Prices().price(usage, provider=provider, model=model, at=AT) is None
    with pytest.raises(UnknownPrice):
        Prices(unknown="fail").price(usage, provider=provider, model=model, at=AT)
    default = Prices(unknown=Rates(input=Decimal(3), output=Decimal(3)))
    assert priced(default, provider, model, usage) == Price(
        30_000, "default rate", dict.fromkeys(("input", "cache_read", "cache_write", "cache_write_1h", "output"), "3")
    )


def test_a_usage_that_no_call_can_have_is_not_believed() -> None:
    with pytest.raises(InvalidArgument):
        Prices().price(Usage(input_tokens=LARGEST), provider="openai", model="gpt-5", at=AT)
