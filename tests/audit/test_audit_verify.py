"""`verify` names what was done to the evidence, and the first row it was done to."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from evidence import database, judged, opened, rows, some_calls, state, tamper

from mcp_gateway.audit.chain import COLUMNS, GENESIS, stored_row_hash
from mcp_gateway.audit.verify import Fault, verify
from mcp_gateway.errors import StoreUnavailable


def first_bad(folder: Path) -> tuple[int, Fault] | None:
    problem = judged(folder).first_bad
    return (problem.seq, problem.fault) if problem else None


def rebuild(folder: Path, first: int) -> None:
    """Hash every row anew, as somebody would who knows how the chain is made but has no keys."""
    with closing(sqlite3.connect(database(folder))) as db:
        last = db.execute("SELECT hash FROM entries WHERE seq < ? ORDER BY seq DESC", (first,)).fetchone()
        last_hash = last[0] if last else GENESIS
        select = f"SELECT {', '.join(COLUMNS)} FROM entries WHERE seq >= ? ORDER BY seq"  # noqa: S608
        for row in db.execute(select, (first,)).fetchall():
            own = stored_row_hash([*row[:-2], last_hash, None])
            db.execute("UPDATE entries SET prev_hash = ?, hash = ? WHERE seq = ?", (last_hash, own, row[0]))
            last_hash = own
        db.commit()


async def test_an_untouched_database_is_whole(tmp_path: Path) -> None:
    await some_calls(tmp_path)
    verdict = judged(tmp_path)
    assert verdict.ok
    assert (verdict.rows, verdict.last_seq, verdict.checkpoints, verdict.anchors) == (21, 21, 1, 1)
    assert verdict.notes == ()


async def test_an_empty_database_is_whole(tmp_path: Path) -> None:
    await some_calls(tmp_path, 0)
    assert judged(tmp_path).ok


async def test_a_database_in_use_is_whole(tmp_path: Path) -> None:
    async with opened(tmp_path):
        assert judged(tmp_path).ok


@pytest.mark.parametrize(
    ("statement", "bad"),
    [
        ("UPDATE entries SET agent = 'somebody else' WHERE seq = 8", (8, Fault.EDITED)),
        ("UPDATE entries SET decision = 'allowed', reason = NULL WHERE seq = 8", (8, Fault.EDITED)),
        ("UPDATE entries SET cost = 0.5 WHERE seq = 21", (21, Fault.EDITED)),
        ("UPDATE entries SET agent = x'00ff' WHERE seq = 8", (8, Fault.EDITED)),
        ("UPDATE entries SET hash = prev_hash WHERE seq = 8", (8, Fault.EDITED)),
        ("UPDATE entries SET prev_hash = '00', hash = '00' WHERE seq = 8", (8, Fault.EDITED)),
        ("DELETE FROM entries WHERE seq = 8", (8, Fault.DELETED)),
        ("DELETE FROM entries WHERE seq BETWEEN 8 AND 12", (8, Fault.DELETED)),
        ("DELETE FROM entries WHERE seq = 1", (1, Fault.DELETED)),
        ("DELETE FROM entries WHERE seq > 15", (16, Fault.CUT_OFF)),
        ("DELETE FROM entries WHERE seq = 21", (21, Fault.CUT_OFF)),
        ("DELETE FROM entries", (1, Fault.CUT_OFF)),
        ("DELETE FROM checkpoints", None),
        ("UPDATE checkpoints SET last_hash = '00'", (21, Fault.BAD_SIGNATURE)),
        ("UPDATE checkpoints SET purpose = 'prune'", (21, Fault.BAD_SIGNATURE)),
    ],
)  # fmt: skip
async def test_what_was_done_is_named(tmp_path: Path, statement: str, bad: tuple[int, Fault] | None) -> None:
    await some_calls(tmp_path)
    tamper(tmp_path, statement)
    assert first_bad(tmp_path) == bad


async def test_a_row_put_before_the_first_is_seen(tmp_path: Path) -> None:
    await some_calls(tmp_path)
    tamper(
        tmp_path,
        "INSERT INTO entries (seq, at, run, kind, phase, prev_hash, hash) VALUES (-5, '', 1, 'call', '', '', '')",
    )
    assert not judged(tmp_path).ok


async def test_two_rows_swapped_are_reordered(tmp_path: Path) -> None:
    await some_calls(tmp_path)
    tamper(
        tmp_path,
        "UPDATE entries SET seq = 1000 WHERE seq = 8",
        "UPDATE entries SET seq = 8 WHERE seq = 9",
        "UPDATE entries SET seq = 9 WHERE seq = 1000",
    )
    assert first_bad(tmp_path) == (8, Fault.REORDERED)


async def test_rows_renumbered_over_a_gap_are_not_whole(tmp_path: Path) -> None:
    await some_calls(tmp_path)
    tamper(
        tmp_path,
        "DELETE FROM entries WHERE seq = 8",
        *(f"UPDATE entries SET seq = {seq - 1} WHERE seq = {seq}" for seq in range(9, 22)),  # noqa: S608
    )
    assert first_bad(tmp_path) in [(8, Fault.EDITED), (8, Fault.REORDERED), (8, Fault.DELETED)]


async def test_a_chain_made_anew_without_the_keys_shows(tmp_path: Path) -> None:
    await some_calls(tmp_path)
    tamper(tmp_path, "UPDATE entries SET agent = 'somebody else' WHERE seq = 8", "DELETE FROM checkpoints")
    rebuild(tmp_path, 8)
    problem = judged(tmp_path).first_bad
    assert problem is not None
    assert (problem.seq, problem.fault) == (21, Fault.REBUILT)
    # Without the state folder it cannot be told, and that is said.
    without = verify(database(tmp_path), None)
    assert without.ok
    assert "no keys" in without.notes[0]


async def test_a_checkpoint_narrows_down_where_the_chain_was_made_anew(tmp_path: Path) -> None:
    await some_calls(tmp_path)
    await some_calls(tmp_path)
    tamper(tmp_path, "UPDATE entries SET agent = 'somebody else' WHERE seq = 8")
    rebuild(tmp_path, 1)
    assert first_bad(tmp_path) == (21, Fault.REBUILT)


async def test_an_anchor_written_without_the_key_shows(tmp_path: Path) -> None:
    await some_calls(tmp_path)
    anchor = state(tmp_path) / "audit" / "audit.db" / "anchor"
    anchor.write_text(anchor.read_text().replace("21", "15"))
    assert first_bad(tmp_path) == (0, Fault.BAD_ANCHOR)


async def test_another_machines_keys_do_not_vouch_for_it(tmp_path: Path) -> None:
    await some_calls(tmp_path)
    shutil.rmtree(state(tmp_path))
    async with opened(tmp_path):
        pass
    assert [problem.fault for problem in judged(tmp_path).problems] == [Fault.BAD_SIGNATURE]


async def test_content_kept_whole_must_match_its_digest(tmp_path: Path) -> None:
    await some_calls(tmp_path)
    tamper(tmp_path, "UPDATE entries SET args = '{}' WHERE seq = 8", "DELETE FROM checkpoints")
    rebuild(tmp_path, 8)
    shutil.rmtree(state(tmp_path))
    assert first_bad(tmp_path) == (8, Fault.DIGEST)


async def test_a_missing_or_foreign_file_is_an_error_and_no_verdict(tmp_path: Path) -> None:
    for content in (None, b"no database" * 1000):
        if content:
            database(tmp_path).write_bytes(content)
        with pytest.raises(StoreUnavailable):
            judged(tmp_path)


async def test_pages_are_no_places_where_something_gets_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await some_calls(tmp_path)
    assert len(rows(tmp_path)) == 21
    for size in (1, 3, 7, 20, 21, 22):
        monkeypatch.setattr("mcp_gateway.audit.verify.PAGE", size)
        assert judged(tmp_path).rows == 21
