"""Prices: the operator's, else the known ones; what nobody knows is None."""

from types import MappingProxyType

import pytest

from mcp_gateway.config.models import Price, ProviderConfig
from mcp_gateway.domain import Usage
from mcp_gateway.models import prices
from mcp_gateway.models.prices import cost_of

USAGE = Usage(input=1000, output=100, cache_read=200, cache_write=100)
OPENAI = ProviderConfig("o", "openai", "https://o.example/v1")
ANTHROPIC = ProviderConfig("a", "anthropic", "https://a.example")


def test_what_is_known_of_a_model_is_what_its_price_list_says() -> None:
    """Cached input is cheaper than other input; the short way comes to what the list's own way does."""
    for provider, model in ((OPENAI, "gpt-5-mini"), (ANTHROPIC, "claude-sonnet-5"), (ANTHROPIC, "claude-sonnet-4-5")):
        exactly = prices._exactly(1000, 100, 200, 100, provider.wire, model)
        assert cost_of(USAGE, provider, model) == pytest.approx(exactly)
        assert (
            0
            < cost_of(Usage(input=1000, cache_read=900), provider, model)
            < cost_of(  # type: ignore[operator]
                Usage(input=1000), provider, model
            )
        )


def test_a_long_conversation_costs_what_its_tier_costs() -> None:
    long = Usage(input=900_000, output=10)
    exactly = prices._exactly(900_000, 10, 0, 0, "anthropic", "claude-sonnet-4-5")
    assert cost_of(long, ANTHROPIC, "claude-sonnet-4-5") == pytest.approx(exactly)


def test_an_unknown_model_has_no_price() -> None:
    assert cost_of(USAGE, OPENAI, "nobody-knows-1") is None
    assert cost_of(Usage(), OPENAI, "nobody-knows-1") is None


def test_one_maker_s_price_is_not_another_s() -> None:
    assert cost_of(USAGE, OPENAI, "claude-sonnet-5") is None


def test_the_operator_s_price_counts_the_cache_as_they_wrote_it() -> None:
    full = Price(input=10, output=20, cache_read=1, cache_write=12)
    plain = Price(input=10, output=20)
    provider = ProviderConfig("o", "openai", "", prices=MappingProxyType({"gpt-5-mini": full, "own": plain}))
    assert cost_of(USAGE, provider, "gpt-5-mini") == pytest.approx((700 * 10 + 200 * 1 + 100 * 12 + 100 * 20) / 1e6)
    assert cost_of(USAGE, provider, "own") == pytest.approx((1000 * 10 + 100 * 20) / 1e6)


def test_free_is_only_what_the_operator_calls_free() -> None:
    provider = ProviderConfig("o", "openai", "", prices=MappingProxyType({"own": Price(0, 0)}))
    assert cost_of(USAGE, provider, "own") == 0
