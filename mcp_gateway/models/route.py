"""Which targets a name leads to, in which order they are tried, and which answers let another one try.

What the official SDKs repeat, another provider may try (`x-should-retry`, then 408, 409, 429 and 5xx); a key of ours
that a provider does not take (401, 402) is no fault of the agent's either. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from mcp_gateway.config.models import ModelConfig, Models, ModelTarget, ProviderConfig
from mcp_gateway.models.wires import Operation

_OF_OUR_KEY: Final = (401, 402)
_RETRIED: Final = (408, 409, 429)


@dataclass(frozen=True, slots=True)
class Way:
    """One target with the provider it is at."""

    target: ModelTarget
    provider: ProviderConfig


def ways(models: Models, name: str, operation: Operation, random: Callable[[], float]) -> list[Way]:
    """Where a call of `name` can go, first choice first; empty where no target speaks this wire."""
    model = models.offered.get(name)
    found = [] if model is None else _ordered(model, random)
    return [
        Way(target, provider)
        for target in found
        if (provider := models.providers.get(target.provider)) is not None
        and provider.enabled
        and provider.wire == operation.wire
    ]


def _ordered(model: ModelConfig, random: Callable[[], float]) -> list[ModelTarget]:
    """As written; with weights, drawn one after the other by them."""
    if not model.is_weighted:
        return list(model.targets)
    left, order = list(model.targets), []
    while left:
        point = random() * sum(target.weight for target in left)
        for target in left:
            point -= target.weight
            if point < 0:
                break
        left.remove(target)
        order.append(target)
    return order


def lets_another_try(status: int, headers: Mapping[str, str]) -> bool:
    """Whether an HTTP answer says nothing about the request itself."""
    said = headers.get("x-should-retry", "").strip().lower()
    if said in ("true", "false") and status not in _OF_OUR_KEY:
        return said == "true"
    return status in _RETRIED or status >= 500 or status in _OF_OUR_KEY


def is_about_our_key(status: int) -> bool:
    """Whether a provider refuses us, and not the agent's request."""
    return status in _OF_OUR_KEY
