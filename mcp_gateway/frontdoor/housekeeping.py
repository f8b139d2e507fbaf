"""What the front door does by itself a few times a second: end what hangs on a credential or a task that is over."""

from __future__ import annotations

from typing import Final

import anyio

from mcp_gateway.domain import Caller
from mcp_gateway.errors import StoreBusy, StoreUnavailable
from mcp_gateway.frontdoor.exchange import Closers
from mcp_gateway.frontdoor.legacy import LegacyDoor
from mcp_gateway.gateway import Clock
from mcp_gateway.identity.verify import Identity, Verifier
from mcp_gateway.storage.stamped import once_unlocked

LOOK_EVERY_S: Final = 0.25
"""New requests are checked as they come; this bounds how long a stream outlives its credential."""


async def keep_house(closers: Closers, legacy: LegacyDoor, verifier: Verifier, clock: Clock) -> None:
    """Close streams of revoked and expired credentials, forget idle sessions; runs until cancelled."""
    while True:
        try:
            await once_unlocked(lambda: close_revoked(closers, verifier, clock, waits=True))
        except StoreBusy:
            close_revoked(closers, verifier, clock)
        legacy.sweep()
        await anyio.sleep(LOOK_EVERY_S)


def close_revoked(closers: Closers, verifier: Verifier, clock: Clock, *, waits: bool = False) -> None:
    """End everything whose credential or started task does not hold now; a store that cannot be read proves nothing
    to hold. `waits`: the caller asks again where a store is busy, so raises `StoreBusy`."""
    now = clock()

    def ends(caller: Caller) -> bool:
        try:
            if caller.started is not None and not verifier.task_holds(caller.started, now):
                return True
            return not verifier.still_holds(Identity(caller.agent, caller.strength, caller.credential_id), now)
        except StoreUnavailable as e:
            if waits and isinstance(e, StoreBusy):
                raise
            return True

    closers.close_where(ends)
    closers.close_expired(now.timestamp())
