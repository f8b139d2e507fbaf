"""A file changed: read, compile, check, swap, tell the agents whose lists changed.

A broken edit swaps nothing: what ran before goes on, the complaint shows in the log, the audit and `/health`. Calls
under way finish under the snapshot they began with.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Literal

from mcp_gateway.config.lock import lock_path
from mcp_gateway.config.watch import changes
from mcp_gateway.errors import ConfigInvalid, PolicyInvalid, StoreUnavailable
from mcp_gateway.wiring import Running

What = Literal["config", "policy", "pins"]

MAX_NOTED_CHARS: Final = 2_000

_log: Final = logging.getLogger(__name__)


async def keep_current(running: Running) -> None:
    """Follow edits of servers.toml, the policies and servers.lock until cancelled."""
    config, policies = running.configuration.path, running.configuration.settings.policies
    pins = lock_path(config)
    edits = changes((config, policies, pins))
    # Both were read before this watch began; an edit in between shows now.
    await reload(running, "config")
    await reload(running, "policy")
    async for changed in edits:
        if config in changed:
            await reload(running, "config")
        if policies in changed:
            await reload(running, "policy")
        if pins in changed:
            await reload(running, "pins")


async def reload(running: Running, what: What) -> None:
    """Apply one kind of file as it is now; what cannot be used is complained about and changes nothing."""
    try:
        note = await _APPLY[what](running)
    except (ConfigInvalid, PolicyInvalid) as e:
        is_new = running.complain(what, str(e))
        note = f"refused: {e}"[:MAX_NOTED_CHARS] if is_new else ""
    else:
        was_refused = running.complain(what, "")
        note = note or ("as it was again" if was_refused else "")
    if note:
        _log.warning("%s: %s", what, note)
        await _note(running, what, note)


_APPLY: Final[Mapping[What, Callable[[Running], Awaitable[str]]]] = {
    "config": lambda running: running.reload_config(),
    "policy": lambda running: running.reload_policy(),
    "pins": lambda running: running.reload_pins(),
}


async def _note(running: Running, what: What, note: str) -> None:
    if running.siblings is not None and not running.siblings.is_first:
        return  # every process follows the files, and one says so
    try:
        await running.audit.note(what, "reload", reason=note)
    except StoreUnavailable as e:
        _log.error("the reload is not in the audit: %s", e)
