"""How long an upstream may take: a hard limit on its own time, from which the agent's side's time is left out.

A call that asks a person something must not time out while the person thinks; how long that may take is bounded where
the question is asked.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final

from mcp_gateway.domain import Reply
from mcp_gateway.timers import shared_timer

LOOK_AGAIN_S: Final = 0.1


def shown_s(limit_s: float) -> str:
    """A limit for people. To a tenth of a second, for a moment of it may have passed on the way here.

    >>> shown_s(1.993), shown_s(119.98), shown_s(0.19999)
    ('2', '120', '0.2')
    """
    return f"{limit_s:.3g}" if limit_s < 0.5 else f"{round(limit_s, 1):.6g}"


class patience:  # noqa: N801 - reads as the `with` statement it is made for, like `contextlib.suppress`
    """Leave the block after `timeout_s`, not counting what `reply` waits for its agent's side meanwhile.

    Cancels like `asyncio.timeout`, and unlike it costs little enough to stand around every call: there is one timer for
    all that are under way, set to the earliest end.
    """

    __slots__ = ("_cancelling", "_end", "_is_over", "_reply", "_task", "_timeout_s", "_timer", "_waited_s", "due")

    def __init__(self, timeout_s: float, reply: Reply) -> None:
        self._timeout_s = timeout_s
        self._reply = reply
        self._is_over = False

    def __enter__(self) -> None:
        timer = self._timer = shared_timer()
        task = self._task = asyncio.current_task(timer.loop)
        self._cancelling = task.cancelling() if task is not None else 0
        self._waited_s = self._reply.waited_s
        self.due = self._end = timer.loop.time() + max(self._timeout_s, 0)
        timer.add(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._timer.discard(self)
        if not self._is_over or self._task is None:
            return False
        # Somebody else's cancellation, which may have come as well, goes its way.
        is_ours_alone = self._task.uncancel() <= self._cancelling
        return is_ours_alone and kind is not None and issubclass(kind, asyncio.CancelledError)

    def look(self, now: float) -> bool:
        """Whether it is over; if not, it is to be looked at again when `due`."""
        left_s = self._end + self._reply.waited_s - self._waited_s - now
        if left_s > 0:
            self.due = now + max(left_s, LOOK_AGAIN_S)
        elif self._task is not None:
            self._is_over = True
            self._task.cancel()
        return self._is_over
