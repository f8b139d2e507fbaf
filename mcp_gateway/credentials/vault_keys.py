"""The keys that seal the vault: kept outside its database, named by what they are, replaced one by one.

A source is written as

    file:PATH                 32 bytes as base64 in a file that only the gateway's user can read
    keyring:NAME              the same text in the system's keyring, under the service `mcp-gateway`
    command:PROGRAM ARGS      what a program prints: a KMS client, `secret-tool`, `pass`, ...

The first source seals; the others only open what they sealed before, until everything has been sealed anew. Without
any source the key is `vault.key` in the state folder.
"""

from __future__ import annotations

import base64
import binascii
import secrets
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256, Hash
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mcp_gateway.config import keyrings
from mcp_gateway.config.secrets import Secrets
from mcp_gateway.config.table import Unresolvable
from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.storage.private import KEY_BYTES, random_key

KEY_FILE: Final = "vault.key"
COMMAND_TIMEOUT_S: Final = 30.0
NONCE_BYTES: Final = 12
_PURPOSE: Final = b"mcp_gateway vault"


class CannotOpen(Exception):
    """Sealed with a key that is not here, altered, or moved to where it does not belong."""


@dataclass(frozen=True, slots=True)
class VaultKeys:
    """Seals with the first key, opens with any."""

    current: str
    """The id of the key that seals."""
    _keys: Mapping[str, AESGCM] = field(repr=False)

    def seal(self, content: bytes, binding: bytes) -> bytes:
        """`content`, readable with this key and for this binding only."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + self._keys[self.current].encrypt(nonce, content, binding)

    def open(self, key_id: str, sealed: bytes, binding: bytes) -> bytes:
        """What was sealed. Raises `CannotOpen`."""
        key = self._keys.get(key_id)
        if key is None:
            raise CannotOpen(f"sealed with the key {key_id}, which is not among vault_keys")
        try:
            return key.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], binding)
        except Exception as e:
            raise CannotOpen("altered, or moved from another row") from e


def keys_of(sources: Sequence[str], secrets_: Secrets, state: Path) -> VaultKeys:
    """The keys that `sources` name; without any, the state folder's own. Raises `StoreUnavailable`."""
    raw = [_read(source, secrets_) for source in sources] or [random_key(state / KEY_FILE)]
    keys = {key_id_of(key): _derived(key) for key in raw}
    return VaultKeys(next(iter(keys)), keys)


def key_id_of(key: bytes) -> str:
    """A name for a key that does not show it."""
    digest = Hash(SHA256())
    digest.update(_PURPOSE + b" id" + key)
    return digest.finalize().hex()[:12]


def new_key_text() -> str:
    """A new key as a source holds it."""
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()


def _derived(key: bytes) -> AESGCM:
    return AESGCM(HKDF(SHA256(), KEY_BYTES, None, _PURPOSE).derive(key))


def _read(source: str, secrets_: Secrets) -> bytes:
    kind, _, where = source.partition(":")
    try:
        if kind == "file":
            text = secrets_.value(source)
        elif kind == "keyring":
            text = _from_keyring(where)
        elif kind == "command":
            text = _from_command(where)
        else:
            raise StoreUnavailable(f"the vault key source {kind!r} is none: file:, keyring: or command:")
        key = base64.b64decode(text.strip(), validate=True)
    except Unresolvable as e:
        raise StoreUnavailable(f"the vault key cannot be read: {e} ({e.fix})") from e
    except (binascii.Error, ValueError):
        raise StoreUnavailable(_not_a_key(kind)) from None
    if len(key) != KEY_BYTES:
        raise StoreUnavailable(_not_a_key(kind))
    return key


def _not_a_key(kind: str) -> str:
    return f"the vault key from {kind}: is not {KEY_BYTES} bytes in base64: make one with `openssl rand -base64 32`"


def _from_keyring(name: str) -> str:
    try:
        found = keyrings.read(name)
    except keyrings.KeyringUnusable as e:
        raise StoreUnavailable(f"the vault key: {e}") from e
    if not found:
        raise StoreUnavailable(f"the keyring has no {name!r}: keyring set {keyrings.SERVICE} {name}")
    return found


def _from_command(command: str) -> str:
    try:
        ran = subprocess.run(
            shlex.split(command), stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_TIMEOUT_S, check=True
        )
    except (OSError, ValueError, subprocess.SubprocessError) as e:
        raise StoreUnavailable(f"the command for the vault key failed: {type(e).__name__}") from None
    return ran.stdout[:1024].decode("ascii", "replace")
