"""Where a name leads, in which order, and what lets another provider try."""

from collections import Counter
from itertools import count
from types import MappingProxyType

import pytest

from mcp_gateway.config.models import ModelConfig, Models, ModelTarget, ProviderConfig
from mcp_gateway.models.route import lets_another_try, ways
from mcp_gateway.models.wires import BY_OP, Op

CHAT, MESSAGES = BY_OP[Op.CHAT], BY_OP[Op.MESSAGES]
PROVIDERS = {
    "o": ProviderConfig("o", "openai", ""),
    "p": ProviderConfig("p", "openai", ""),
    "off": ProviderConfig("off", "openai", "", enabled=False),
    "a": ProviderConfig("a", "anthropic", ""),
}


def models(*targets: tuple[str, float], is_weighted: bool = False) -> Models:
    found = tuple(ModelTarget(provider, "m", weight) for provider, weight in targets)
    offered = {"x": ModelConfig("x", found, is_weighted)}
    return Models(MappingProxyType(PROVIDERS), MappingProxyType(offered))


def test_targets_are_tried_in_the_order_written() -> None:
    found = ways(models(("p", 1), ("o", 9)), "x", CHAT, lambda: 0.99)
    assert [way.target.provider for way in found] == ["p", "o"]


def test_only_those_that_speak_the_wire_and_are_switched_on() -> None:
    mixed = models(("off", 1), ("a", 1), ("o", 1))
    assert [way.target.provider for way in ways(mixed, "x", CHAT, lambda: 0)] == ["o"]
    assert [way.target.provider for way in ways(mixed, "x", MESSAGES, lambda: 0)] == ["a"]
    assert ways(mixed, "unknown", CHAT, lambda: 0) == []


def test_weights_draw_the_first_and_all_others_follow() -> None:
    weighted = models(("o", 3), ("p", 1), is_weighted=True)
    numbers = count()
    first = Counter(
        ways(weighted, "x", CHAT, lambda: (next(numbers) // 2 % 100) / 100)[0].target.provider for _ in range(100)
    )
    assert first == {"o": 75, "p": 25}
    assert len(ways(weighted, "x", CHAT, lambda: 0.9999)) == 2


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (500, {}, True),
        (529, {}, True),
        (429, {}, True),
        (408, {}, True),
        (409, {}, True),
        (401, {}, True),
        (402, {}, True),
        (400, {}, False),
        (403, {}, False),
        (404, {}, False),
        (422, {}, False),
        (500, {"x-should-retry": "false"}, False),
        (400, {"x-should-retry": "true"}, True),
    ],
)
def test_what_lets_another_try(status: int, headers: dict[str, str], expected: bool) -> None:
    assert lets_another_try(status, headers) is expected
