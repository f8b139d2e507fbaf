"""What stands outside the database, so that nobody who can write it can rewrite it: keys, anchors, run locks.

    STATE_DIR/audit/hmac.key          32 random bytes, mode 0600
    STATE_DIR/audit/signing.key       Ed25519 private key (raw), mode 0600
    STATE_DIR/audit/signing.pub       its public half (hex): enough to check the signed checkpoints
    STATE_DIR/audit/DATABASE/anchor   the last row that a run of the past knew of
    STATE_DIR/audit/DATABASE/runs/X   the same for a run that lives; it holds an flock on this file, so that nobody
                                      takes it for dead. The file also says from where on calls may be unfinished.

An anchor is written after the commit it speaks of, so a database can be ahead of its anchors but never behind them
unless its end was cut off, an older copy was put in its place, or the machine lost power without durability = "power".
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mcp_gateway.audit.chain import Head, anchor_mac, is_anchor_mac
from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.storage.private import private_folder, random_key

LOCK_WAIT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Keys:
    """The secrets that vouch for the chain."""

    hmac: bytes
    signing: Ed25519PrivateKey

    @classmethod
    def load(cls, state_dir: Path) -> Self:
        """Read the keys; the first to ask has them made.

        Raises `StoreUnavailable` where one can be read by others than its owner.
        """
        folder = state_dir / "audit"
        private_folder(state_dir)
        private_folder(folder)
        keys = cls(
            random_key(folder / "hmac.key"), Ed25519PrivateKey.from_private_bytes(random_key(folder / "signing.key"))
        )
        public = folder / "signing.pub"
        with suppress(OSError):  # a convenience for auditors, nothing of ours reads it
            if not public.exists():
                public.write_text(keys.signing.public_key().public_bytes_raw().hex() + "\n")
        return keys

    @classmethod
    def exist(cls, state_dir: Path) -> bool:
        """Whether `load` would find keys and not make new ones."""
        return all((state_dir / "audit" / name).exists() for name in ("hmac.key", "signing.key"))


@dataclass(frozen=True, slots=True)
class Anchor:
    """A row that was committed: the database must still have it."""

    head: Head
    unfinished_from: int
    """No call decided before this row was unfinished."""
    where: str = field(default="", compare=False)
    """The file it was found in, for the complaint."""
    is_genuine: bool = True

    def line(self, key: bytes) -> bytes:
        """As it stands in a file: always the same length, so that one write replaces it."""
        text = f"{self.head.seq:020d} {self.head.hash} {self.unfinished_from:020d}"
        return f"{text} {anchor_mac(key, text)}\n".encode()

    @classmethod
    def parse(cls, data: bytes, key: bytes, where: str) -> Anchor:
        """Read `line()` back; `is_genuine` is False for anything that this key did not write."""
        text, _, mac = data.decode("ascii", "replace").strip().rpartition(" ")
        if not text or not is_anchor_mac(key, text, mac):
            return cls(Head(), 0, where, is_genuine=False)
        seq, last_hash, unfinished_from = text.split(" ")
        return cls(Head(int(seq), last_hash), int(unfinished_from), where)


class RunFile:
    """The lock and the anchor of one run."""

    def __init__(self, path: Path, fd: int, key: bytes) -> None:
        self.name = path.name
        self._path = path
        self._fd = fd
        self._key = key

    def read(self) -> Anchor | None:
        """Its anchor; None where it never wrote one."""
        data = os.pread(self._fd, 4096, 0)
        return Anchor.parse(data, self._key, str(self._path)) if data else None

    def write(self, anchor: Anchor) -> None:
        """One write, no fsync: it survives the death of the process, like the commit it follows."""
        os.pwrite(self._fd, anchor.line(self._key), 0)

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Let go of the lock: from now on this run counts as dead."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class AnchorDir:
    """The anchors of one database."""

    def __init__(self, state_dir: Path, database: Path, key: bytes) -> None:
        self.path = state_dir / "audit" / database.name
        self._runs = self.path / "runs"
        self._main = self.path / "anchor"
        self._key = key

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Only one process at a time begins, ends or recovers runs. Raises `StoreUnavailable` after `LOCK_WAIT_S`."""
        private_folder(self.path)
        private_folder(self._runs)
        fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _wait_for_lock(fd, self.path)
            yield
        finally:
            os.close(fd)

    def anchors(self) -> list[Anchor]:
        """Everything that vouches for a row of this database. Raises `StoreUnavailable`."""
        files = [self._main, *sorted(self._runs.glob("*"))] if self.path.exists() else []
        found = []
        for file in files:
            try:
                data = file.read_bytes()
            except FileNotFoundError:  # a run that ended in this moment
                continue
            except OSError as e:
                raise StoreUnavailable(f"{file}: the anchor cannot be read: {e.strerror}") from e
            if data:
                found.append(Anchor.parse(data, self._key, str(file)))
        return found

    def replace(self, anchor: Anchor) -> None:
        """The anchor of all runs that ended. Call it under `locked()`."""
        new = self.path / "anchor.new"
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, anchor.line(self._key))
            os.fsync(fd)
        finally:
            os.close(fd)
        new.replace(self._main)

    def new_run(self) -> RunFile:
        """Begin a run: its file, locked. Call it under `locked()`."""
        run = self._open(self._runs / secrets.token_hex(8), os.O_CREAT | os.O_EXCL)
        if run is None:
            raise StoreUnavailable("a run file that was just made is locked by somebody else")
        return run

    def dead_runs(self) -> list[RunFile]:
        """Runs whose process is gone, locked until they are closed or removed. Call it under `locked()`."""
        found = [self._open(file) for file in sorted(self._runs.iterdir())]
        return [run for run in found if run is not None]

    def names(self) -> set[str]:
        """Names of all runs that have a file, dead or alive."""
        return {file.name for file in self._runs.iterdir()}

    def _open(self, path: Path, flags: int = 0) -> RunFile | None:
        """The file with a lock on it; None while another process (or another log of this one) holds the lock."""
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        return RunFile(path, fd, self._key)


def _wait_for_lock(fd: int, path: Path) -> None:
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            if time.monotonic() > deadline:
                raise StoreUnavailable(f"{path}: another process has been starting or stopping for too long") from e
            time.sleep(0.01)
        else:
            return
