"""What an upstream says while it works on one call: sifted, then passed to that call's agent and to no other.

Progress must grow and ends with the answer (basic/utilities/progress); log lines below the level the agent asked for
are dropped, as are all when it asked for none.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from mcp_gateway.domain import Json, Reply

LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
"""Log levels (RFC 5424), most verbose first."""


def level_rank(level: object) -> int:
    """How severe a level is; an unknown one counts as the least severe, so that it is the first to be dropped.

    >>> level_rank("error") > level_rank("info")
    True
    """
    return LEVELS.index(level) if isinstance(level, str) and level in LEVELS else 0


class Call:
    """One request on its way: decides what of the upstream's chatter its agent gets."""

    __slots__ = ("_dropped", "_progress", "is_over", "reply")

    def __init__(self, reply: Reply, dropped: Counter[str]) -> None:
        self.reply = reply
        self.is_over = False
        self._progress = float("-inf")
        self._dropped = dropped

    def admits(self, method: str, params: Json) -> bool:
        """Whether `relay` should get this notification. Has no I/O, so order is the order of arrival."""
        if self.is_over:
            self._dropped["late"] += 1
            return False
        if method == "notifications/progress":
            return self._admits_progress(params)
        return self._admits_log(params)

    async def relay(self, method: str, params: Json) -> None:
        """Pass an admitted notification on."""
        if method == "notifications/progress":
            await self.reply.progress(params)
        else:
            await self.reply.log(params)

    def _admits_progress(self, params: Json) -> bool:
        progress = params.get("progress")
        if not self.reply.wants_progress or isinstance(progress, bool) or not isinstance(progress, (int, float)):
            self._dropped["progress"] += 1
            return False
        if progress <= self._progress:
            self._dropped["stale progress"] += 1
            return False
        self._progress = progress
        return True

    def _admits_log(self, params: Json) -> bool:
        wanted = self.reply.log_level
        if wanted is None or level_rank(params.get("level")) < level_rank(wanted):
            self._dropped["log"] += 1
            return False
        return True


class Verbosity:
    """The most verbose level one legacy session was asked for: `logging/setLevel` is per session, agents are many."""

    __slots__ = ("_rank",)

    def __init__(self) -> None:
        self._rank = len(LEVELS)

    def raised_to(self, wanted: str | None) -> str | None:
        """The level to set now so that `wanted` is covered; None if it is already."""
        if wanted is None or wanted not in LEVELS or level_rank(wanted) >= self._rank:
            return None
        self._rank = level_rank(wanted)
        return wanted
