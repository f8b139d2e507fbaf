"""Which gateway processes are alive: each holds a lock on a file of its own, and the lock dies with the process."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from pathlib import Path
from typing import Final

from mcp_gateway.storage.private import private_folder

_NAME: Final = re.compile(r"[0-9a-f]{16}")


class Runs:
    """The runs of one state folder, and this process's own among them. Raises `OSError` where files cannot be made."""

    def __init__(self, folder: Path) -> None:
        private_folder(folder)
        self._folder = folder
        self.mine = secrets.token_hex(8)
        # Locked before it bears its name: nobody may take a run for dead that has just begun.
        draft = folder / f"{self.mine}.new"
        self._fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        draft.rename(folder / self.mine)
        for path in sorted(folder.iterdir()):
            self.is_dead(path.name)

    def is_dead(self, run: str) -> bool:
        """Whether a run's process is gone; its file then goes too."""
        if run == self.mine or not _NAME.fullmatch(run):
            return False
        path = self._folder / run
        try:
            fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        else:
            path.unlink(missing_ok=True)
            return True
        finally:
            os.close(fd)

    def close(self) -> None:
        """End this run: whatever it has left open counts as left behind."""
        if self._fd >= 0:
            (self._folder / self.mine).unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1
