"""How every small store is opened: made once whoever comes first, and refused where it cannot be understood."""

import sqlite3
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.storage.opened import SCHEMA_VERSION, opened, transaction, translated

SCHEMA = ("CREATE TABLE t (n INTEGER)", "CREATE INDEX t_n ON t(n)")


def connection(path: Path, mode: str = "WAL") -> sqlite3.Connection:
    return opened(path, SCHEMA, pragmas=(f"journal_mode = {mode}",), wait_s=10)


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_many_that_come_at_once_find_one_file_and_none_fails(tmp_path: Path, mode: str) -> None:
    for number in range(20):
        together = threading.Barrier(8)

        def come(_: int, path: Path = tmp_path / f"{number}.db", together: threading.Barrier = together) -> None:
            together.wait()
            connection(path, mode).close()

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(come, range(8)))


def test_it_is_private_and_in_its_version(tmp_path: Path) -> None:
    db = connection(tmp_path / "a.db")
    assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    assert stat.S_IMODE((tmp_path / "a.db").stat().st_mode) == 0o600
    db.close()


def test_one_that_a_newer_program_wrote_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    db = connection(path)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    with pytest.raises(StoreUnavailable, match="written by a newer"):
        connection(path)
    with sqlite3.connect(path) as raw:
        assert raw.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION + 1,)
    raw.close()


def test_what_is_no_database_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_text("no database at all, and long enough to be taken for one" * 20)
    (tmp_path / "a.db").chmod(0o600)
    with pytest.raises(StoreUnavailable, match=r"a\.db"):
        connection(tmp_path / "a.db")


def test_a_transaction_is_all_or_nothing(tmp_path: Path) -> None:
    db = connection(tmp_path / "a.db")
    with transaction(db):
        db.execute("INSERT INTO t VALUES (1)")
    with pytest.raises(KeyError), transaction(db):
        db.execute("INSERT INTO t VALUES (2)")
        raise KeyError
    assert db.execute("SELECT n FROM t").fetchall() == [(1,)]
    assert not db.in_transaction
    db.close()


def test_what_sqlite_says_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match=r"a\.db: disk I/O"), translated(tmp_path / "a.db"):
        raise sqlite3.OperationalError("disk I/O error")
