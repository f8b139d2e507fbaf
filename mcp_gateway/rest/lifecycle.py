"""Which state a route is in, from draft to retired, and how agents are told: `Deprecation`, `Sunset`, links, words.

    draft -> active -> deprecated -> retired

A draft exists for those whose policy names it. What is deprecated works and says so, from when (RFC 9745) and until
when (RFC 8594); after that, and when retired, it is gone. Time is an argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import formatdate
from enum import StrEnum

from mcp_gateway.domain import DRAFTS, Kind, Target


class State(StrEnum):
    """Where in its life a route is."""

    DRAFT = "draft"  # for agents whose policy names it
    ACTIVE = "active"
    DEPRECATED = "deprecated"  # it works, and says that it will not for ever
    RETIRED = "retired"  # gone


@dataclass(frozen=True, slots=True)
class Life:
    """What an operator wrote about a route's life. Times are seconds since the epoch."""

    state: State = State.ACTIVE
    deprecated_at: int | None = None
    sunset_at: int | None = None
    link: str = ""
    """A page that says what to do about it."""
    successor: str = ""
    """What to use instead."""

    @property
    def is_told(self) -> bool:
        """Whether answers say anything about it."""
        return self.deprecated_at is not None or self.sunset_at is not None

    def is_over(self, now_s: float) -> bool:
        """Whether it is gone."""
        return self.state is State.RETIRED or (self.sunset_at is not None and now_s >= self.sunset_at)

    def headers(self) -> dict[str, str]:
        """What goes with every answer.

        >>> Life(deprecated_at=1767225600, sunset_at=1798675200).headers()
        {'deprecation': '@1767225600', 'sunset': 'Thu, 31 Dec 2026 00:00:00 GMT'}
        """
        said = {}
        if self.deprecated_at is not None:
            said["deprecation"] = f"@{self.deprecated_at}"  # RFC 9745 section 2.1: a date of RFC 9651
        if self.sunset_at is not None:
            said["sunset"] = formatdate(self.sunset_at, usegmt=True)  # RFC 8594 section 3
        links = ", ".join(self._links())
        return {**said, "link": links} if links else said

    def words(self) -> str:
        """What a tool's description says about it; empty where there is nothing to say.

        >>> Life(deprecated_at=1767225600, successor="/v2").words()
        'Deprecated since 2026-01-01. Use /v2 instead.'
        """
        said = []
        if self.deprecated_at is not None:
            said.append(f"Deprecated since {_day(self.deprecated_at)}.")
        if self.sunset_at is not None:
            said.append(f"It ends on {_day(self.sunset_at)}.")
        if said and self.successor:
            said.append(f"Use {self.successor} instead.")
        if said and self.link:
            said.append(f"See {self.link}.")
        return " ".join(said)

    def _links(self) -> list[str]:
        found = []
        if self.link and self.deprecated_at is not None:
            found.append(f'<{self.link}>; rel="deprecation"')  # RFC 9745 section 3
        if self.link and self.sunset_at is not None:
            found.append(f'<{self.link}>; rel="sunset"')  # RFC 8594 section 6
        if self.successor and self.is_told:
            found.append(f'<{self.successor}>; rel="successor-version"')  # RFC 5829 section 3.4
        return found


def with_life(headers: Mapping[str, str], life: Life) -> dict[str, str]:
    """An API's headers (names in lower case) with what the operator says about the route's life in them.

    >>> with_life({"link": '</n>; rel="next"', "sunset": "never"}, Life(sunset_at=0, link="/why"))["link"]
    '</n>; rel="next", </why>; rel="sunset"'
    """
    said = life.headers()
    links = [each for each in (headers.get("link"), said.get("link")) if each]
    return {**headers, **said, "link": ", ".join(links)} if links else {**headers, **said}


def draft_of(upstream: str, route: str) -> Target:
    """What a policy has to allow, besides the request itself, before a draft is there for anybody."""
    return Target(Kind.ROUTE, DRAFTS, f"{upstream}/{route}", f"{upstream}/{route}", {}, "")


def _day(at_s: int) -> str:
    return datetime.fromtimestamp(at_s, UTC).date().isoformat()
