"""What is left of budgets, in headers that others can read."""

from mcp_gateway.domain import Standing
from mcp_gateway.frontdoor.rate_limits import rate_limits


def test_each_bound_is_an_item_of_both_fields() -> None:
    standings = [Standing("daily", "tokens", 50, 23, 86_400, 3600), Standing("daily", "usd-micros", 5, 0, 86_400, 3600)]
    assert rate_limits(standings) == {
        "ratelimit-policy": '"daily-tokens";q=50;qu="tokens";w=86400, "daily-usd-micros";q=5;qu="usd-micros";w=86400',
        "ratelimit": '"daily-tokens";r=23;t=3600, "daily-usd-micros";r=0;t=3600',
    }


def test_nothing_bounded_is_nothing_said() -> None:
    assert rate_limits([]) == {}


def test_no_name_ends_its_item() -> None:
    found = rate_limits([Standing('a"\r\nx: y\\é', "calls", 10**20, 10**20, 1, 1)])
    assert found["ratelimit"] == '"a___x: y__-calls";r=999999999999999;t=1'
