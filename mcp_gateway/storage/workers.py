"""How the workers of a gateway are doing: `workers.json` in the state folder, written by the process that started them.

Read by the workers themselves, for `/health` and `mcp-gateway status`. It decides nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

import orjson

from mcp_gateway.errors import StoreUnavailable

NAME: Final = "workers.json"

State = Literal["starting", "ready", "waiting to start again"]


@dataclass(frozen=True, slots=True)
class Standing:
    """How one worker is doing."""

    number: int
    state: State = "starting"
    pid: int = 0
    """0: it does not run."""
    restarts: int = 0


def write_standings(state: Path, standings: Iterable[Standing]) -> None:
    """Put these in the place of what was there. Raises `StoreUnavailable`."""
    draft = state / f".{NAME}.{os.getpid()}"
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:  # noqa: PTH123
            file.write(orjson.dumps([asdict(standing) for standing in standings]))
        draft.replace(state / NAME)
    except OSError as e:
        raise StoreUnavailable(f"{state / NAME} cannot be written: {e.strerror}") from e


def read_standings(state: Path) -> tuple[Standing, ...]:
    """What was written last; nothing where there is nothing that can be read."""
    try:
        return tuple(Standing(**told) for told in orjson.loads((state / NAME).read_bytes()))
    except (OSError, ValueError, TypeError):
        return ()


def forget_standings(state: Path) -> None:
    """There are no workers any more."""
    (state / NAME).unlink(missing_ok=True)
