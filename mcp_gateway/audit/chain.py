"""The chain that makes an edit visible: what of a row is hashed, and who vouches for the last one.

    hash      = SHA-256(prev_hash as hex text + canonical JSON of the row's non-null columns but prev_hash and hash)
    first row : prev_hash is 64 zeros
    anchor    = HMAC-SHA-256 over (seq, hash), kept outside the database: a cut-off end shows
    checkpoint= Ed25519 over (purpose, day, last_seq, last_hash), in the database: who has the public key can check it

Pure: no clock, no disk, no database. Null columns are left out so that a column added later changes no old hash.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mcp_gateway.jsonrpc import canonical

Row = dict[str, Any]
"""One row of `entries`: its non-null columns only."""

COLUMNS: Final = (
    "seq",
    "at",
    "run",
    "request_id",
    "parent",
    "kind",
    "phase",
    "decided_seq",
    "agent",
    "person",
    "identity_strength",
    "session",
    "client",
    "task",
    "upstream",
    "name",
    "target_hash",
    "decision",
    "reason",
    "grant_at",
    "policy_hash",
    "args",
    "args_sha256",
    "redactions",
    "outcome",
    "error",
    "result_sha256",
    "result_bytes",
    "result_preview",
    "tokens_in",
    "tokens_out",
    "cost",
    "gateway_ms",
    "upstream_ms",
    "trace_id",
    "started",
    "approval",
    "shadow",
    "shadow_at",
    "findings",
    "cache",
    "kept",
    "prev_hash",
    "hash",
)
"""Every column of `entries`; what `hash` does not cover stands last."""

GENESIS: Final = "0" * 64
"""The `prev_hash` of the first row."""

_HASHED: Final = COLUMNS[:-2]


@dataclass(frozen=True, slots=True)
class Head:
    """The last row of a chain; seq 0 where there is none yet."""

    seq: int = 0
    hash: str = GENESIS


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A signed statement: up to `last_seq` the chain was this one."""

    purpose: str
    """`day`: the last row of that day; `shutdown`: the last row of a run; later `prune`: rows before it may be gone."""
    day: str
    last_seq: int
    last_hash: str

    @property
    def statement(self) -> bytes:
        """The bytes that are signed."""
        return canonical(["mcp-gateway checkpoint", self.purpose, self.day, self.last_seq, self.last_hash])


def row_hash(prev_hash: str, row: Row) -> str:
    """The hash of one row (without `prev_hash` and `hash` in it) behind the row whose hash is `prev_hash`."""
    return hashlib.sha256(prev_hash.encode() + canonical(row)).hexdigest()


def stored_row_hash(values: Sequence[Any]) -> str:
    """The hash a row should have, from all its `COLUMNS` as they are stored."""
    row = {column: value for column, value in zip(_HASHED, values, strict=False) if value is not None}
    try:
        return row_hash(values[-2], row)
    except (TypeError, AttributeError):  # a type that no row of ours has, a blob for example
        return ""


def append(head: Head, rows: Iterable[Row], run: int) -> Head:
    """Give each row its `run`, `seq`, `prev_hash` and `hash`, in place, behind `head`; the new head.

    >>> rows = [{"kind": "call"}]
    >>> append(Head(), rows, run=1).seq
    1
    """
    seq, last = head.seq, head.hash
    for row in rows:
        seq += 1
        row["run"], row["seq"] = run, seq
        own = row_hash(last, row)
        row["prev_hash"], row["hash"] = last, own
        last = own
    return Head(seq, last)


def anchor_mac(key: bytes, text: str) -> str:
    """What vouches for an anchor kept outside the database."""
    return hmac.digest(key, b"mcp-gateway anchor\n" + text.encode(), "sha256").hex()


def is_anchor_mac(key: bytes, text: str, mac: str) -> bool:
    return hmac.compare_digest(anchor_mac(key, text), mac)


def key_id(key: Ed25519PublicKey) -> str:
    """A short name of the key that signed a checkpoint."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def sign(key: Ed25519PrivateKey, checkpoint: Checkpoint) -> str:
    """The signature (hex) of `checkpoint`."""
    return key.sign(checkpoint.statement).hex()


def is_signed(key: Ed25519PublicKey, checkpoint: Checkpoint, signature: str) -> bool:
    """Whether `signature` is this key's over `checkpoint`."""
    try:
        key.verify(bytes.fromhex(signature), checkpoint.statement)
    except (InvalidSignature, ValueError):
        return False
    return True
