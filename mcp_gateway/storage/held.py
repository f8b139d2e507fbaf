"""What is held back right now, as the gateway last saw it: `held.json` in the state folder, for whoever reviews it.

Written by running gateways, read by `mcp-gateway pins`. It decides nothing: what may be served stands in servers.lock.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

import orjson

from mcp_gateway.domain import Json
from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.storage.private import private_folder

NAME: Final = "held.json"
MAX_BYTES: Final = 256 * 1024 * 1024


def write_held(state: Path, held: list[Json]) -> None:
    """Put these in the place of what was there. Raises `StoreUnavailable`."""
    private_folder(state)
    draft = state / f".{NAME}.{secrets.token_hex(8)}"
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:  # noqa: PTH123
            file.write(orjson.dumps(held))
        draft.replace(state / NAME)
    except OSError as e:
        raise StoreUnavailable(f"{state / NAME} cannot be written: {e.strerror}") from e
    finally:
        draft.unlink(missing_ok=True)


def read_held(state: Path) -> list[Json]:
    """What was written last; nothing where no gateway has run. Raises `StoreUnavailable`."""
    path = state / NAME
    try:
        if path.stat().st_size > MAX_BYTES:
            raise StoreUnavailable(
                f"{path} is larger than {MAX_BYTES} bytes: remove it, a running gateway writes it anew"
            )
        held = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as e:
        raise StoreUnavailable(f"{path} cannot be read: {e}") from e
    return [entry for entry in held if isinstance(entry, dict)] if isinstance(held, list) else []
