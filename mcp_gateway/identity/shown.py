"""What one request shows of who sent it, and who that was found to be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

from mcp_gateway.domain import NOTHING, StartedTask, Strength


def _no_values(name: str) -> list[str]:
    return []


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is calling, as far as it was verified."""

    agent: str
    strength: Strength
    credential_id: str = ""
    """What proved it (an API key's public id); empty for an anonymous agent."""
    claims: Mapping[str, Any] = field(default_factory=lambda: NOTHING)
    person: str | None = None
    """The human the agent acts for, as `ISSUER:NAME`; None where there is none, or nobody said."""
    expires_at: float = inf
    started: StartedTask | None = None
    """The started task that the credential itself stands for."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One request, as far as it says who sent it."""

    authorization: Sequence[str]
    """Every value of the header."""
    task: str | None = None
    """The TASK of `/mcp/TASK`, None where the endpoint names none."""
    method: str = "POST"
    values: Callable[[str], list[str]] = _no_values
    """Every value of another header, by its name in lower case."""
    peer: str = ""
    """The address of the other side of the connection."""
