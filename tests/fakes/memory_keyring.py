"""A keyring backend that keeps secrets in memory: a real backend of the `keyring` package, and nobody's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import keyring
import keyring.backends.fail
import keyring.errors
from keyring.backend import KeyringBackend


class MemoryKeyring(KeyringBackend):
    """Keeps what it is given until it is gone."""

    priority = 9  # type: ignore[assignment]

    def __init__(self, is_locked: bool = False) -> None:
        super().__init__()
        self.kept: dict[tuple[str, str], str] = {}
        self._is_locked = is_locked

    def get_password(self, service: str, username: str) -> str | None:
        self._check()
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self._check()
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.kept[service, username]

    def _check(self) -> None:
        if self._is_locked:
            raise keyring.errors.KeyringLocked("locked")


@contextmanager
def kept_by(backend: KeyringBackend) -> Iterator[None]:
    """`backend` is the system's keyring meanwhile."""
    before = keyring.get_keyring()
    keyring.set_keyring(backend)
    try:
        yield backend  # type: ignore[misc]
    finally:
        keyring.set_keyring(before)
