"""The operating system's keyring, where there is one that can be used without a person at a screen.

Loaded when it is first asked for: most gateways keep their secrets elsewhere, and looking for a backend takes time.
"""

from __future__ import annotations

import importlib
from typing import Any, Final

SERVICE: Final = "mcp-gateway"


class KeyringUnusable(Exception):
    """There is no keyring, or it does not answer; the message says which, never what it holds."""


def is_usable() -> bool:
    """Whether secrets can be kept there: a backend that stores, and answers now."""
    try:
        backend = _keyring().get_keyring()
        if float(backend.priority) < 1:  # keyring's own mark for backends that fail, do nothing or keep plain text
            return False
        read("-probe-")
    except (KeyringUnusable, RuntimeError):
        return False
    return True


def read(name: str) -> str | None:
    """The secret of that name; None where there is none. Raises `KeyringUnusable`."""
    keyring = _keyring()
    try:
        value = keyring.get_password(SERVICE, name)
    except (keyring.errors.KeyringError, OSError) as e:
        raise KeyringUnusable(f"the keyring cannot be read ({type(e).__name__})") from e
    return None if value is None else str(value)


def store(name: str, secret: str) -> None:
    """Keep a secret under that name. Raises `KeyringUnusable`."""
    keyring = _keyring()
    try:
        keyring.set_password(SERVICE, name, secret)
    except (keyring.errors.KeyringError, OSError) as e:
        raise KeyringUnusable(f"the keyring cannot be written ({type(e).__name__})") from e


def _keyring() -> Any:
    try:
        importlib.import_module("keyring.errors")
        return importlib.import_module("keyring")
    except ImportError as e:
        raise KeyringUnusable("the package 'keyring' is not installed") from e
