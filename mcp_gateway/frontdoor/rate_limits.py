"""What is left of a caller's budgets, as headers: `RateLimit` and `RateLimit-Policy`.

draft-ietf-httpapi-ratelimit-headers: structured fields (RFC 9651), one item for each bound of each budget. The unit of
money is millionths of a US dollar.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mcp_gateway.domain import Standing

_MOST: Final = 999_999_999_999_999
"""RFC 9651 section 3.3.1: integers have at most 15 digits."""


def rate_limits(standings: Sequence[Standing]) -> dict[str, str]:
    """The headers; none where nothing is bounded.

    >>> rate_limits([Standing("daily", "tokens", 1000, 400, 86400, 60)])["ratelimit"]
    '"daily-tokens";r=400;t=60'
    """
    if not standings:
        return {}
    policy = [f'{_name(s)};q={min(s.most, _MOST)};qu="{s.unit}";w={s.per_s}' for s in standings]
    left = [f"{_name(s)};r={min(s.left, _MOST)};t={s.resets_s}" for s in standings]
    return {"ratelimit-policy": ", ".join(policy), "ratelimit": ", ".join(left)}


def _name(standing: Standing) -> str:
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\' else "_" for c in standing.name)
    return f'"{plain}-{standing.unit}"'
