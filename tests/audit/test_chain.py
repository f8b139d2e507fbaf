"""The chain: what is hashed, and who vouches for the last row."""

import hashlib
import sqlite3
from contextlib import closing

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mcp_gateway.audit import chain
from mcp_gateway.audit.chain import COLUMNS, GENESIS, Checkpoint, Head
from mcp_gateway.jsonrpc import canonical
from mcp_gateway.storage.migrations import migrate


def test_the_columns_are_those_of_the_table() -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        migrate(db)
        columns = [row[1] for row in db.execute("PRAGMA table_info(entries)")]
    assert sorted(columns) == sorted(COLUMNS)
    assert COLUMNS[-2:] == ("prev_hash", "hash")


def test_a_stranger_can_compute_the_hash_from_the_description_alone() -> None:
    rows = [{"kind": "call", "agent": "a"}, {"kind": "call", "upstream_ms": 1.5}]
    head = chain.append(Head(), rows, run=1)
    expected = GENESIS
    for row in rows:
        content = {name: value for name, value in row.items() if name not in ("prev_hash", "hash")}
        expected = hashlib.sha256(expected.encode() + canonical(content)).hexdigest()
        assert row["hash"] == expected
    assert head == Head(2, expected)


def test_a_column_added_later_changes_no_old_hash() -> None:
    row = {"seq": 1, "kind": "call"}
    stored = [row.get(column) for column in COLUMNS[:-2]] + [GENESIS, "own"]
    assert chain.stored_row_hash(stored) == chain.row_hash(GENESIS, row)


def test_a_value_of_a_type_we_never_write_has_no_hash() -> None:
    assert chain.stored_row_hash([1, b"blob", *[None] * (len(COLUMNS) - 4), GENESIS, "own"]) == ""


def test_a_signature_holds_for_its_own_checkpoint_and_key_only() -> None:
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    checkpoint = Checkpoint("day", "2026-11-21", 7, "a" * 64)
    signature = chain.sign(key, checkpoint)
    assert chain.is_signed(key.public_key(), checkpoint, signature)
    assert not chain.is_signed(other.public_key(), checkpoint, signature)
    assert not chain.is_signed(key.public_key(), Checkpoint("prune", "2026-11-21", 7, "a" * 64), signature)
    assert not chain.is_signed(key.public_key(), checkpoint, "not hex")


def test_an_anchor_holds_for_its_own_text_and_key_only() -> None:
    mac = chain.anchor_mac(b"k" * 32, "7 hash")
    assert chain.is_anchor_mac(b"k" * 32, "7 hash", mac)
    assert not chain.is_anchor_mac(b"k" * 32, "8 hash", mac)
    assert not chain.is_anchor_mac(b"x" * 32, "7 hash", mac)
