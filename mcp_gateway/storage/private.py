"""Folders, files and random keys that only the gateway's own user can read; anything laxer is refused, not repaired.

Repairing would hide that somebody else may already have read or replaced it. Every refusal says what to do.
"""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from mcp_gateway.errors import StoreUnavailable

KEY_BYTES: Final = 32
_LEAST_DISTINCT_BYTES: Final = 16
"""32 random bytes have fewer distinct values than this about once in 10^14 times; typed or padded ones mostly do."""


def private_folder(path: Path) -> None:
    """Make sure `path` is a folder of ours with mode 0700, creating it when there is none.

    Raises `StoreUnavailable`.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
    except OSError as e:
        raise StoreUnavailable(f"{path} cannot be created or entered: {e.strerror}") from e
    _check_ours(path, found, fix_mode="700")


def private_file(path: Path) -> None:
    """Make sure `path` is a regular file of ours with mode 0600, creating an empty one when there is none.

    Does not open a file that exists: closing it would drop the locks SQLite holds on it in this process (SQLite, "How
    To Corrupt An SQLite Database File", 2.2). Raises `StoreUnavailable`.
    """
    try:
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        found = path.lstat()
    except OSError as e:
        raise StoreUnavailable(f"{path} cannot be created: {e.strerror}") from e
    _check_regular(path, found)


def random_key(path: Path) -> bytes:
    """The 32 random bytes kept in `path`, made when there is no such file; processes that start at once agree on one.

    Raises `StoreUnavailable` where the file is open to others, is a link, or does not look random.
    """
    try:
        if not path.is_symlink() and not path.exists():
            _write_new_key(path)
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:  # noqa: PTH123
            _check_regular(path, os.fstat(file.fileno()))
            key = file.read(KEY_BYTES + 1)
    except OSError as e:
        raise StoreUnavailable(f"the key file {path} cannot be read or created: {e.strerror}") from e
    if len(key) != KEY_BYTES or len(set(key)) < _LEAST_DISTINCT_BYTES:
        raise StoreUnavailable(f"{path} does not hold {KEY_BYTES} random bytes: restore it from a backup")
    return key


def _write_new_key(path: Path) -> None:
    """Create the file with its content in one step, unless another process was faster."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:  # noqa: PTH123
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            path.hardlink_to(draft)
    finally:
        draft.unlink(missing_ok=True)


def _check_regular(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise StoreUnavailable(f"{path} is not a regular file (a link, perhaps): move the file itself there")
    _check_ours(path, found, fix_mode="600")


def _check_ours(path: Path, found: os.stat_result, fix_mode: str) -> None:
    if found.st_uid != os.geteuid():
        raise StoreUnavailable(f"{path} belongs to user id {found.st_uid}: run the gateway as that user, or chown it")
    if found.st_mode & 0o077:
        raise StoreUnavailable(f"{path} is open to other users: chmod {fix_mode} {path}")
