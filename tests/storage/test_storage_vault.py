"""The vault's table: private, one row for an owner and an upstream, locks that end with their process."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.storage.vault import ClientRow, LoginRow, VaultTable

ROW = LoginRow("agent:a", "crm", "https://as", "https://crm", "r", "r", "c", "k", b"sealed", 10.0, True, 1.0)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "s"


def test_rows_come_back_as_they_were_put(state: Path) -> None:
    table = VaultTable(state)
    table.put(ROW)
    table.put(replace(ROW, owner="agent:b", obtained_at=2.0, expires_at=None, renewable=False))
    assert table.login("agent:a", "crm") == ROW
    assert [row.owner for row in table.logins("crm")] == ["agent:b", "agent:a"], "the newest first"
    assert table.logins("erp") == ()
    assert table.login("agent:a", "erp") is None


def test_a_change_needs_the_version_it_was_made_from(state: Path) -> None:
    table = VaultTable(state)
    table.put(ROW)
    assert table.replace_tokens(ROW, replace(ROW, sealed=b"two", version=2))
    assert not table.replace_tokens(ROW, replace(ROW, sealed=b"three", version=2))
    found = table.login("agent:a", "crm")
    assert found is not None and found.sealed == b"two"


def test_a_renewal_that_began_shows_until_it_is_over(state: Path) -> None:
    table = VaultTable(state)
    table.put(ROW)
    table.begin_renewal(ROW, 5.0)
    found = table.login("agent:a", "crm")
    assert found is not None and found.renewal_began == 5.0
    table.note_error(ROW, "down", 6.0)
    found = table.login("agent:a", "crm")
    assert found is not None and (found.renewal_began, found.last_error, found.sealed) == (None, "down", b"sealed")


def test_a_deleted_login_leaves_nothing_in_the_files(state: Path) -> None:
    table = VaultTable(state)
    table.put(replace(ROW, sealed=b"canary" * 50))
    assert table.delete("agent:a", "crm")
    assert not table.delete("agent:a", "crm")
    table.close()
    assert b"canary" not in (state / "vault.db").read_bytes()


def test_registrations_are_found_by_issuer(state: Path) -> None:
    table = VaultTable(state)
    row = ClientRow("https://as", "cb", "id", "none", "k", b"x")
    table.put_client(row)
    assert table.client("https://as", "cb") == table.client_by_id("https://as", "id") == row
    assert table.client("https://other", "cb") is None and table.client_by_id("https://other", "id") is None
    table.put_client(replace(row, client_id="id2"))
    assert [each.client_id for each in table.clients()] == ["id2"]


def test_the_first_issuer_of_a_client_stays(state: Path) -> None:
    table = VaultTable(state)
    assert table.pin("gw", "crm", "https://as") == "https://as"
    assert table.pin("gw", "crm", "https://evil") == "https://as"
    assert table.pin("gw", "erp", "https://other") == "https://other"


def test_other_connections_hear_of_a_commit(state: Path) -> None:
    one, other = VaultTable(state), VaultTable(state)
    before = one.commits()
    other.put(ROW)
    assert one.commits() != before


def test_a_lock_holds_across_processes_and_ends_with_its_process(state: Path) -> None:
    table = VaultTable(state)
    code = (
        "import sys; from pathlib import Path; from mcp_gateway.storage.vault import VaultTable\n"
        f"print(VaultTable(Path({str(state)!r})).try_lock('a', 'crm'), flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "True\n"
    assert not table.try_lock("a", "crm")
    assert table.try_lock("b", "crm")
    other.kill()
    other.communicate()
    assert table.try_lock("a", "crm")
    table.unlock("a", "crm")


def test_files_open_to_others_are_refused(state: Path) -> None:
    VaultTable(state).close()
    (state / "vault.db").chmod(0o640)
    with pytest.raises(StoreUnavailable, match="chmod 600"):
        VaultTable(state)


def test_a_newer_database_and_one_that_is_none_are_refused(state: Path) -> None:
    VaultTable(state).close()
    with closing(sqlite3.connect(state / "vault.db")) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreUnavailable, match="newer"):
        VaultTable(state)
    (state / "vault.db").write_bytes(b"no database" * 100)
    with pytest.raises(StoreUnavailable):
        VaultTable(state)
