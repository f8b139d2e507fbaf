"""What tokens cost, in US dollars: what the operator wrote, else what is publicly known of a model.

The public prices are those of the `genai-prices` package, which carries its data and asks nobody. A model it does not
know has no price: None, never zero.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Any, Final

from mcp_gateway.config.models import Price, ProviderConfig
from mcp_gateway.domain import Usage
from mcp_gateway.models.wires import FREE, NOT_TEXT, Operation

_MILLION: Final = 1_000_000
_TIERS_BEGIN: Final = 100_000
"""No price list has a tier below 128,000 tokens."""
_LARGE: Final = 1_000_000
_SAME: Final = 1e-9


def cost_of(usage: Usage, provider: ProviderConfig, model: str) -> float | None:
    """US dollars for this usage; None: nobody knows."""
    price = provider.prices.get(model)
    if price is None:
        known = _known(provider.wire, model, datetime.now(UTC).date())
        if known.is_tiered and usage.input > _TIERS_BEGIN:
            return _exactly(usage.input, usage.output, usage.cache_read, usage.cache_write, provider.wire, model)
        price = known.price
    return None if price is None else _at(usage, price)


def price_of(operation: Operation, usage: Usage, provider: ProviderConfig, model: str) -> float | None:
    """The same for what is done with a model: only the operator knows what it costs where it is no text."""
    if operation.op in FREE:
        return 0.0
    if operation.op in NOT_TEXT and (model not in provider.prices or usage.is_estimated):
        return None
    return cost_of(usage, provider, model)


@dataclass(frozen=True, slots=True)
class _Known:
    """What the price list says of a model."""

    price: Price | None = None
    is_tiered: bool = False
    """A token costs more in a longer conversation: `price` holds up to `_TIERS_BEGIN` tokens of input."""


def _at(usage: Usage, price: Price) -> float:
    read = price.input if price.cache_read is None else price.cache_read
    write = price.input if price.cache_write is None else price.cache_write
    plain = max(usage.input - usage.cache_read - usage.cache_write, 0)
    sum_ = plain * price.input + usage.cache_read * read + usage.cache_write * write + usage.output * price.output
    return sum_ / _MILLION


@lru_cache(maxsize=1024)
def _known(wire: str, model: str, day: date) -> _Known:
    """Prices for a day, by asking for some calls: a call of its own to the price list costs more than the walk."""
    if _exactly(1, 1, 0, 0, wire, model) is None:
        return _Known()
    small, large = (_rates(size, wire, model) for size in (_TIERS_BEGIN, _LARGE))
    is_tiered = any(abs(one - other) > _SAME for one, other in zip(small, large, strict=True))
    return _Known(Price(*small), is_tiered)


def _rates(size: int, wire: str, model: str) -> list[float]:
    """US dollars for a million tokens of input, output, cache read and cache write."""
    kinds = ((size, 0, 0, 0), (0, size, 0, 0), (size, 0, size, 0), (size, 0, 0, size))
    return [(_exactly(*kind, wire, model) or 0.0) * _MILLION / size for kind in kinds]


def _exactly(tokens_in: int, tokens_out: int, read: int, written: int, wire: str, model: str) -> float | None:
    """What the price list says of one call. Only the wire's own maker's list: others' prices are others'."""
    genai = _genai()
    usage = genai.Usage(
        input_tokens=tokens_in,
        output_tokens=tokens_out,
        cache_read_tokens=read or None,
        cache_write_tokens=written or None,
    )
    try:
        return float(genai.calc_price(usage, model, provider_id=wire).total_price)
    except (LookupError, ValueError):
        return None


@lru_cache(maxsize=1)
def _genai() -> Any:
    """Loaded when models are first priced: it takes longer to import than a stdio gateway takes to start."""
    return importlib.import_module("genai_prices")


def load(providers: Mapping[str, ProviderConfig]) -> None:
    """Have the price lists ready before the first call needs them; takes some tenths of a second."""
    if providers:
        _genai()
