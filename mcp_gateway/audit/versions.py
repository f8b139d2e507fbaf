"""Every policy and every target definition that a row refers to, kept once.

Each is written in the same transaction as the first row that refers to it. What vouches for them: a target's key is a
hash over all it holds; a policy's version is whatever the policy room says it is, so a row of the chain has its digest.
"""

from __future__ import annotations

import hashlib
from typing import Final

from mcp_gateway.audit.chain import Row
from mcp_gateway.audit.rows import canonical_bytes, event_row, timestamp
from mcp_gateway.domain import Target
from mcp_gateway.jsonrpc import canonical
from mcp_gateway.storage.sqlite import Connection

LOADED: Final = "loaded"
"""The reason of the row that vouches for a policy's text."""
MAX_REMEMBERED: Final = 100_000

TargetKey = tuple[str, ...]


class Versions:
    """What is in `policy_versions` and `target_versions` already, as far as this process knows."""

    def __init__(self, policies: dict[str, str]) -> None:
        """`policies`: text by version; whoever learns of a policy puts it there, from any thread."""
        self._policies = policies
        self._kept: set[str] = set()
        self._keeping: set[str] = set()
        self._settled: frozenset[str] = frozenset()
        """Policies of which there is nothing left to write."""
        self._hashes: dict[TargetKey, str] = {}

    def target_hash(self, target: Target) -> str:
        """The key of this definition of this target."""
        key = target_key(target)
        known = self._hashes.get(key)
        if known is None:
            if len(self._hashes) >= MAX_REMEMBERED:
                self._hashes.clear()
            known = self._hashes[key] = version_hash(*_columns(target))
        return known

    def keep(self, db: Connection, policy: str, target: Target | None, now: float) -> list[Row]:
        """Write what is not written yet; the rows that go into the chain for it."""
        if policy in self._settled and (target is None or self.target_hash(target) in self._kept):
            return []
        if target is not None and self._is_new(self.target_hash(target)):
            self._keep_target(db, target, now)
        text = self._policies.get(policy)
        # Known by its version alone is less than known with its text: the text may come later.
        if policy and self._is_new(_with_its_text(policy) if text is not None else f"policy {policy}"):
            return self._keep_policy(db, policy, text, now)
        return []

    def committed(self) -> None:
        """What was kept since the last commit is there to stay."""
        if self._keeping:
            self._kept |= self._keeping
            self._keeping.clear()
            self._settled = frozenset(policy for policy in self._policies if _with_its_text(policy) in self._kept)

    def forget(self) -> None:
        """A transaction failed, or this may be another database: find out anew."""
        self._kept.clear()
        self._keeping.clear()
        self._settled = frozenset()

    def _is_new(self, version: str) -> bool:
        if version in self._kept or version in self._keeping:
            return False
        if len(self._kept) >= MAX_REMEMBERED:
            self._kept.clear()
            self._settled = frozenset()
        self._keeping.add(version)
        return True

    def _keep_target(self, db: Connection, target: Target, now: float) -> None:
        db.execute(
            "INSERT OR IGNORE INTO target_versions"
            " (hash, first_seen, upstream, kind, name, definition_sha256, definition) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (self.target_hash(target), timestamp(now), *_columns(target)),
        )

    def _keep_policy(self, db: Connection, version: str, text: str | None, now: float) -> list[Row]:
        cursor = db.execute(
            "INSERT INTO policy_versions (hash, loaded_at, text) VALUES (?, ?, ?)"
            " ON CONFLICT (hash) DO UPDATE SET text = excluded.text WHERE text IS NULL AND excluded.text IS NOT NULL",
            (version, timestamp(now), text),
        )
        if text is None or not cursor.rowcount:
            return []
        row = event_row("policy", version, now, reason=LOADED)
        row["args_sha256"] = hashlib.sha256(text.encode()).hexdigest()
        return [row]


def _with_its_text(policy: str) -> str:
    return f"policy {policy} with its text"


def target_key(target: Target) -> TargetKey:
    """Tells definitions of targets apart without looking into them."""
    return target.upstream, target.kind, target.name, target.public_name, target.definition_hash


def version_hash(*columns: str) -> str:
    """SHA-256 over upstream, kind, name, definition_sha256 and definition."""
    return hashlib.sha256(canonical(list(columns))).hexdigest()


def _columns(target: Target) -> tuple[str, str, str, str, str]:
    definition = canonical_bytes(dict(target.raw or target.definition)).decode("utf-8", "replace")
    return target.upstream, target.kind.value, target.name, target.definition_hash, definition
