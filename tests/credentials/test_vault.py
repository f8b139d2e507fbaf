"""The vault: what is on disk is sealed, and works for nothing but what it was granted for."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from mcp_gateway.config.secrets import Secrets
from mcp_gateway.credentials.tokens import Token
from mcp_gateway.credentials.vault import Login, Registration, SealedVault, Vault, opened_vault
from mcp_gateway.credentials.vault_keys import new_key_text
from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.storage.vault import LoginRow

ROW = LoginRow(
    "person:i alice", "crm", "https://as", "https://crm/mcp", "read", "read", "gw", "", b"", 2000.0, True, 1.0
)
TOKEN = Token("canary-access", 2000.0, ("read",), "canary-refresh")


def opened(state: Path, *sources: str) -> SealedVault:
    return opened_vault(state, sources, Secrets({}, state))


def kept(state: Path, *sources: str) -> Login:
    vault = opened(state, *sources)
    login = vault.keep(ROW, TOKEN)
    vault.table.close()
    return login


def edit(state: Path, statement: str) -> None:
    with closing(sqlite3.connect(state / "vault.db", isolation_level=None)) as db:
        db.execute(statement)


def test_what_was_kept_comes_back(tmp_path: Path) -> None:
    kept(tmp_path / "s")
    login = opened(tmp_path / "s").login(ROW.owner, "crm")
    assert login is not None
    assert (login.access_token, login.refresh_token) == ("canary-access", "canary-refresh")
    assert "canary" not in repr(login)


def test_no_file_of_the_state_folder_holds_a_token(tmp_path: Path) -> None:
    vault = opened(tmp_path / "s")
    vault.keep(ROW, TOKEN)
    vault.keep_registration("https://as", "http://127.0.0.1/cb", Registration("gw", "canary-secret", "none"), None)
    contents = {path.name: path.read_bytes() for path in (tmp_path / "s").iterdir()}
    assert {"vault.db", "vault.db-wal", "vault.key", "vault.lock"} <= contents.keys()
    assert [name for name, content in contents.items() if b"canary" in content] == []
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "s").iterdir())


@pytest.mark.parametrize(
    "column", ["owner", "upstream", "issuer", "resource", "scopes", "client_id", "key_id", "sealed"]
)
def test_a_row_that_was_edited_does_not_open(tmp_path: Path, column: str) -> None:
    kept(tmp_path / "s")
    value = "x'00ff'" if column == "sealed" else "'crm2'"
    edit(tmp_path / "s", f"UPDATE logins SET {column} = {value}")  # noqa: S608
    owner, upstream = (
        "crm2" if column == name else there for name, there in (("owner", ROW.owner), ("upstream", "crm"))
    )
    login = opened(tmp_path / "s").login(owner, upstream)
    assert login is not None and login.is_over
    assert "cannot be opened" in login.row.last_error


def test_swapped_rows_do_not_open(tmp_path: Path) -> None:
    vault = opened(tmp_path / "s")
    vault.keep(ROW, TOKEN)
    vault.keep(replace(ROW, owner="person:i bob"), TOKEN)
    vault.table.close()
    swapped = "CREATE TABLE kept AS SELECT * FROM logins"
    edit(tmp_path / "s", swapped)
    edit(tmp_path / "s", "UPDATE logins SET sealed = (SELECT sealed FROM kept WHERE kept.owner != logins.owner)")
    vault = opened(tmp_path / "s")
    assert all(vault.opened(row).is_over for row in vault.table.logins())


def test_another_key_opens_nothing(tmp_path: Path) -> None:
    kept(tmp_path / "s")
    (tmp_path / "s" / "vault.key").unlink()
    login = opened(tmp_path / "s").login(ROW.owner, "crm")
    assert login is not None and login.is_over
    assert "not among vault_keys" in login.row.last_error


def test_a_new_key_in_front_takes_over_and_the_old_one_can_go(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).write_text(new_key_text())
        (tmp_path / name).chmod(0o600)
    old, new = f"file:{tmp_path}/old", f"file:{tmp_path}/new"
    first = kept(tmp_path / "s", old)
    opened(tmp_path / "s", new, old).table.close()
    login = opened(tmp_path / "s", new).login(ROW.owner, "crm")
    assert login is not None and login.access_token == "canary-access"
    assert login.row.key_id != first.row.key_id


def test_renewing_keeps_the_refresh_token_unless_there_is_another(tmp_path: Path) -> None:
    vault = opened(tmp_path / "s")
    login = vault.keep(ROW, TOKEN)
    second = vault.keep_renewed(login, Token("t2", 3000.0), 5.0)
    assert second is not None and second.refresh_token == "canary-refresh"
    third = vault.keep_renewed(second, Token("t3", 3000.0, ("less",), "r3"), 6.0)
    assert third is not None and (third.refresh_token, third.row.scopes) == ("r3", "less")
    assert vault.keep_renewed(second, Token("t4"), 7.0) is None, "somebody else was faster"
    assert vault.login(ROW.owner, "crm") == third


def test_wiping_leaves_why_and_nothing_else(tmp_path: Path) -> None:
    vault = opened(tmp_path / "s")
    login = vault.keep(ROW, TOKEN)
    assert vault.wipe(login, "revoked", 9.0)
    found = vault.login(ROW.owner, "crm")
    assert found is not None and found.is_over
    assert (found.row.sealed, found.row.last_error, found.row.renewable) == (b"", "revoked", False)
    assert not vault.wipe(login, "again", 9.0)


def test_a_registration_belongs_to_its_issuer_and_ends(tmp_path: Path) -> None:
    vault = opened(tmp_path / "s")
    vault.keep_registration("https://as", "cb", Registration("gw", "canary", "client_secret_basic"), 100.0)
    found = vault.registration("https://as", "cb", 99.0)
    assert found == Registration("gw", "canary", "client_secret_basic") and "canary" not in repr(found)
    assert vault.registration_of("https://as", "gw") == found
    assert vault.registration("https://as", "cb", 101.0) is None
    assert vault.registration("https://other", "cb", 99.0) is None
    vault.table.close()
    edit(tmp_path / "s", "UPDATE clients SET issuer = 'https://evil'")
    assert opened(tmp_path / "s").registration("https://evil", "cb", 99.0) is None


async def test_a_vault_is_opened_when_it_is_needed(tmp_path: Path) -> None:
    vault = Vault(lambda: opened(tmp_path / "s"))
    assert not (tmp_path / "s").exists()
    assert await vault.login("a", "b") is None
    vault.close()
    assert (tmp_path / "s" / "vault.db").exists()


async def test_a_vault_without_its_key_keeps_nothing(tmp_path: Path) -> None:
    vault = Vault(lambda: opened(tmp_path / "s", "command:false"))
    with pytest.raises(StoreUnavailable):
        await vault.keep(ROW, TOKEN)
