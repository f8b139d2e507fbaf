"""Is the evidence whole: every row hashed again, compared with what stands outside the database.

Names the first row that was edited, deleted, reordered or cut off, or a chain that was made anew without the keys. What
it cannot see: rows that were never written. Without the state folder only the chain itself is checked, and a note says
so. Needs no lock: rows are only ever appended, so pages of them are read one after the other while others write.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import orjson

from mcp_gateway.audit import chain
from mcp_gateway.audit.anchor import Anchor, AnchorDir, Keys
from mcp_gateway.audit.chain import COLUMNS, GENESIS, Checkpoint, Head
from mcp_gateway.audit.ledger import BEHIND, UNANCHORED
from mcp_gateway.audit.versions import LOADED, version_hash
from mcp_gateway.storage.sqlite import Connection, reading

PAGE: Final = 20_000
PRUNED: Final = "prune"
"""Only behind a checkpoint that was signed for this purpose may a chain begin later than with row 1."""

_AT: Final = {column: index for index, column in enumerate(COLUMNS)}


class Fault(StrEnum):
    """What is wrong with the evidence."""

    EDITED = "edited"
    DELETED = "deleted"
    REORDERED = "reordered"
    CUT_OFF = "cut off"
    REBUILT = "rebuilt"
    DIGEST = "content differs from its digest"
    BAD_SIGNATURE = "bad signature"
    BAD_ANCHOR = "bad anchor"
    WAS_BEHIND = "rows were missing once"
    VERSION = "policy or target text differs"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong, and the row it begins with (0: it concerns no row)."""

    seq: int
    fault: Fault
    message: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `verify` found."""

    rows: int
    last_seq: int
    last_hash: str
    checkpoints: int
    anchors: int
    problems: tuple[Problem, ...] = ()
    """By row, those that concern no row last. The chain is followed to its first bad row only: nothing behind it proves
    anything."""
    notes: tuple[str, ...] = ()
    """What could not be checked."""

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def first_bad(self) -> Problem | None:
        return self.problems[0] if self.problems else None


@dataclass(slots=True)
class _Vouched:
    """Somebody outside the chain says that this row has this hash."""

    hash: str
    by: str
    fault: Fault


@dataclass(slots=True)
class _Check:
    """What is known while the rows go by."""

    vouched: dict[int, list[_Vouched]] = field(default_factory=dict)
    policies: dict[str, str] = field(default_factory=dict)
    """Version -> SHA-256 of its text, as the chain says."""
    head: Head = field(default_factory=Head)
    rows: int = 0
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    pruned: set[tuple[int, str]] = field(default_factory=set)

    def complain(self, seq: int, fault: Fault, message: str) -> None:
        self.problems.append(Problem(seq, fault, message))

    def vouch(self, seq: int, vouched: _Vouched) -> None:
        self.vouched.setdefault(seq, []).append(vouched)


def verify(path: Path, state_dir: Path | None) -> Verdict:
    """Check everything. Raises `StoreUnavailable` where the database or the keys cannot be read.

    Safe while gateways write: the anchors are read first, and the database is never behind those.
    """
    check = _Check()
    keys = Keys.load(state_dir) if state_dir is not None and Keys.exist(state_dir) else None
    anchors = AnchorDir(state_dir, path, keys.hmac).anchors() if keys and state_dir else []
    if keys is None:
        check.notes.append("no keys: neither the end of the chain nor the signed checkpoints were checked")
    elif not anchors:
        check.notes.append("no anchor for this database: whether its end was cut off cannot be told")
    _vouch_by_anchors(check, anchors)
    with reading(path) as db:
        checkpoints = _vouch_by_checkpoints(check, db, keys)
        is_whole = _follow_chain(check, db)
        if is_whole:
            _check_end(check)
        _check_versions(check, db, is_whole)
    problems = tuple(sorted(check.problems, key=lambda problem: problem.seq or 2**63))
    return Verdict(check.rows, check.head.seq, check.head.hash, checkpoints, len(anchors), problems, tuple(check.notes))


def _vouch_by_anchors(check: _Check, anchors: Iterable[Anchor]) -> None:
    for anchor in anchors:
        if anchor.is_genuine:
            check.vouch(anchor.head.seq, _Vouched(anchor.head.hash, f"the anchor {anchor.where}", Fault.REBUILT))
        else:
            check.complain(0, Fault.BAD_ANCHOR, f"{anchor.where} was not written with this key")


def _vouch_by_checkpoints(check: _Check, db: Connection, keys: Keys | None) -> int:
    found = db.execute(
        "SELECT purpose, day, last_seq, last_hash, key_id, signature FROM checkpoints ORDER BY last_seq"
    ).fetchall()
    public = keys.signing.public_key() if keys else None
    for *columns, key_id, signature in found:
        checkpoint = Checkpoint(*columns)
        name = f"the {checkpoint.purpose} checkpoint of {checkpoint.day}"
        if public is None:
            continue
        if not chain.is_signed(public, checkpoint, signature):
            whose = "" if key_id == chain.key_id(public) else f" (it names another key: {key_id})"
            check.complain(checkpoint.last_seq, Fault.BAD_SIGNATURE, f"{name} is not signed with this key{whose}")
            continue
        check.vouch(checkpoint.last_seq, _Vouched(checkpoint.last_hash, name, Fault.REBUILT))
        if checkpoint.purpose == PRUNED:
            check.pruned.add((checkpoint.last_seq, checkpoint.last_hash))
    return len(found)


def _follow_chain(check: _Check, db: Connection) -> bool:
    """Go through all rows; False as soon as one is bad."""
    begin = -(2**63)  # a row before the first would be seen by readers, so it must be seen here
    select = _select(db)
    while True:
        before = check.rows
        for row in db.execute(select, (begin,)):
            problem = _problem_with(check, db, row)
            if problem is not None:
                check.problems.append(problem)
                return False
        if check.rows - before < PAGE:
            return True
        begin = check.head.seq + 1


def _select(db: Connection) -> str:
    """The statement that reads a page of rows; a column that an older program did not write is null in all of them."""
    there = {row[1] for row in db.execute("PRAGMA table_info(entries)")}
    columns = ", ".join(column if column in there else f"NULL AS {column}" for column in COLUMNS)
    return f"SELECT {columns} FROM entries WHERE seq >= ? ORDER BY seq LIMIT {PAGE}"  # noqa: S608 - ours


def _problem_with(check: _Check, db: Connection, row: tuple[Any, ...]) -> Problem | None:
    """Check one row and take it for the new head."""
    seq, prev_hash, own_hash = row[0], row[-2], row[-1]
    head = check.head
    if head.seq == 0 and (seq - 1, prev_hash) in check.pruned:
        head = Head(seq - 1, prev_hash)
    if seq != head.seq + 1 or prev_hash != head.hash or chain.stored_row_hash(row) != own_hash:
        return _name_fault(db, row, head)
    for vouched in check.vouched.pop(seq, ()):
        if vouched.hash != own_hash:
            return Problem(seq, vouched.fault, f"row {seq} or one before it was made anew: {vouched.by} knows another")
    check.head = Head(seq, own_hash)
    check.rows += 1
    _check_content(check, row)
    return None


def _name_fault(db: Connection, row: tuple[Any, ...], head: Head) -> Problem:
    """What was done to the first row that does not fit."""
    seq, prev_hash = row[0], row[-2]
    if seq != head.seq + 1:
        last = seq - 1
        return Problem(head.seq + 1, Fault.DELETED, f"rows {head.seq + 1} to {last} are missing")
    if prev_hash == head.hash:
        return Problem(seq, Fault.EDITED, f"row {seq} does not have the content its hash was made of")
    before = db.execute("SELECT seq FROM entries WHERE hash = ? AND seq <> ?", (prev_hash, seq)).fetchone()
    if before is not None:
        return Problem(seq, Fault.REORDERED, f"row {seq} belongs behind row {before[0]}")
    if chain.stored_row_hash(row) == row[-1]:
        return Problem(seq, Fault.DELETED, f"what stood before row {seq} was removed or replaced")
    return Problem(seq, Fault.EDITED, f"row {seq} was edited, its place in the chain too")


def _check_content(check: _Check, row: tuple[Any, ...]) -> None:
    """Content that was kept whole must be what its digest was made of; and what the chain itself reports."""
    if row[_AT["redactions"]] is None:
        for content, digest in (("args", "args_sha256"), ("result_preview", "result_sha256")):
            text = row[_AT[content]]
            if text is not None and hashlib.sha256(text.encode()).hexdigest() != row[_AT[digest]]:
                check.complain(row[0], Fault.DIGEST, f"row {row[0]}: {content} is not what {digest} was made of")
    kind = row[_AT["kind"]]
    if kind == "policy" and row[_AT["reason"]] == LOADED:
        check.policies[row[_AT["name"]]] = row[_AT["args_sha256"]]
    elif kind == "audit":
        _check_event(check, row)


def _check_event(check: _Check, row: tuple[Any, ...]) -> None:
    seq, name = row[0], row[_AT["name"]]
    detail = orjson.loads(row[_AT["args"]] or "{}")
    if name == BEHIND:
        message = (
            f"when a gateway started at {row[_AT['at']]}, the database ended with row {detail.get('found_seq')}, but"
            f" row {detail.get('anchor_seq')} had been committed: rows were cut off or an older copy came back (or the"
            f" machine lost power while durability was not 'power')"
        )
        check.complain(seq, Fault.WAS_BEHIND, message)
    elif name == UNANCHORED:
        check.notes.append(f"rows 1 to {detail.get('found_seq')} were found without an anchor at {row[_AT['at']]}")


def _check_end(check: _Check) -> None:
    """Whoever vouches for a row behind the last one says that there was more."""
    beyond = {seq: vouched for seq, vouched in check.vouched.items() if seq > check.head.seq}
    if beyond:
        last = max(beyond)
        message = f"the chain ends with row {check.head.seq}, but {beyond[last][0].by} knows row {last}"
        check.complain(check.head.seq + 1, Fault.CUT_OFF, message)
    if any(vouched.hash != GENESIS for vouched in check.vouched.get(0, ())):
        check.complain(0, Fault.BAD_ANCHOR, "an anchor speaks of a row 0")


def _check_versions(check: _Check, db: Connection, is_whole: bool) -> None:
    for key, text in db.execute("SELECT hash, text FROM policy_versions WHERE text IS NOT NULL"):
        digest = check.policies.get(key)
        if digest is None and not is_whole:
            continue  # the row that vouches for it may stand behind the bad one
        if digest != hashlib.sha256(text.encode()).hexdigest():
            check.complain(0, Fault.VERSION, f"the text of policy {key} is not the one that was loaded")
    targets = "SELECT hash, upstream, kind, name, definition_sha256, definition FROM target_versions"
    for key, *columns in db.execute(targets):
        if version_hash(*columns) != key:
            check.complain(0, Fault.VERSION, f"the definition of {columns[0]}/{columns[2]} was edited")
