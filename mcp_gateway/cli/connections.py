"""What `connect` remembers of each file it changed, so that `--undo` can give back the very bytes that were there.

One folder a file, named by a hash of its path, for the user's eyes only: a backup holds whatever secrets the file held.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from mcp_gateway.config.textfile import write
from mcp_gateway.storage.private import private_folder

_RECORD: Final = "connection.json"
_BACKUP: Final = "before"


@dataclass(frozen=True, slots=True)
class Connection:
    """One entry that we wrote."""

    client: str
    file: str
    name: str
    """The entry's name in the file."""
    agent: str
    config: str
    existed: bool
    """Whether the file was there before."""
    wrote: str
    """SHA-256 (hex) of the file as we left it."""


class Connections:
    """Remembers in one folder of the user's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "connections"

    def of(self, file: Path) -> Connection | None:
        """What was done to a file; None: nothing."""
        try:
            return Connection(**json.loads((self._place(file) / _RECORD).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def all(self) -> Iterator[Connection]:
        """Every connection that stands."""
        for place in sorted(self._folder.glob(f"*/{_RECORD}")):
            try:
                yield Connection(**json.loads(place.read_text(encoding="utf-8")))
            except (OSError, ValueError, TypeError):
                continue

    def remember(self, connection: Connection, before: bytes | None) -> Path:
        """Keep a record, and what the file held before; returns where. A backup that is there already stays."""
        place = self._place(Path(connection.file))
        private_folder(self._folder)
        private_folder(place)
        backup = place / _BACKUP
        if before is not None and not backup.exists():
            write(backup, before)
        write(place / _RECORD, json.dumps(asdict(connection), indent=2).encode())
        return backup

    def backup_of(self, file: Path) -> Path:
        """Where the bytes of a file from before are kept."""
        return self._place(file) / _BACKUP

    def forget(self, file: Path) -> None:
        """Nothing of ours is in that file any more."""
        place = self._place(file)
        for name in (_RECORD, _BACKUP):
            (place / name).unlink(missing_ok=True)
        if place.is_dir():
            place.rmdir()

    def _place(self, file: Path) -> Path:
        return self._folder / hashlib.sha256(str(file.absolute()).encode()).hexdigest()[:16]


def digest(data: bytes) -> str:
    """SHA-256 (hex): whether a file is still as we left it."""
    return hashlib.sha256(data).hexdigest()
