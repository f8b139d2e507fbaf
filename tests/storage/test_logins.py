"""Accounts, grants and refresh tokens on disk."""

import sqlite3
from pathlib import Path

import pytest

from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.storage import logins
from mcp_gateway.storage.logins import Grant, LoginStore, Person, Refreshed

NOW = 1000.0


def grant(name: str = "g", person: str = "ann", expires_at: float = NOW + 100) -> Grant:
    return Grant(name, person, "client", "https://gw/mcp", "read", NOW, expires_at)


@pytest.fixture
def store(tmp_path: Path) -> LoginStore:
    return LoginStore(tmp_path / "state")


def test_an_account_exists_once(store: LoginStore) -> None:
    assert store.add_person(Person("ann", NOW, "hash"))
    assert not store.add_person(Person("ann", NOW, "other"))
    assert store.person("ann") == Person("ann", NOW, "hash")
    assert store.person("ANN") is None
    assert [person.name for person in store.people()] == ["ann"]


def test_a_refresh_token_is_good_once_and_its_reuse_ends_the_grant(store: LoginStore) -> None:
    store.add_grant(grant(), "r1")
    assert store.refresh("r1", "client", "r2", NOW) == (Refreshed.ROTATED, grant())
    assert store.refresh("r1", "client", "r3", NOW)[0] is Refreshed.REUSED
    assert store.refresh("r2", "client", "r4", NOW)[0] is Refreshed.UNKNOWN
    assert store.revoked(NOW) == {"g"}


def test_a_refresh_token_is_its_programs_and_ends_with_its_grant(store: LoginStore) -> None:
    store.add_grant(grant(), "r1")
    assert store.refresh("r1", "another", "r2", NOW)[0] is Refreshed.UNKNOWN
    assert store.refresh("r1", "client", "r2", NOW + 100)[0] is Refreshed.UNKNOWN
    assert store.refresh("never", "client", "r2", NOW)[0] is Refreshed.UNKNOWN
    assert store.refresh("r1", "client", "r2", NOW)[0] is Refreshed.ROTATED


def test_removing_a_person_ends_all_they_allowed_and_nothing_else(store: LoginStore) -> None:
    store.add_person(Person("ann", NOW, "h"))
    store.add_grant(grant("a"), "r1")
    store.add_grant(grant("b", "ben"), "r2")
    assert store.remove_person("ann", NOW)
    assert not store.remove_person("ann", NOW)
    assert store.refresh("r1", "client", "r3", NOW)[0] is Refreshed.UNKNOWN
    assert store.refresh("r2", "client", "r3", NOW)[0] is Refreshed.ROTATED
    assert store.revoked(NOW) == {"a"}


def test_a_grant_is_revoked_once_and_what_has_ended_is_forgotten(store: LoginStore) -> None:
    store.add_grant(grant("old", expires_at=NOW - 1), "r0")
    store.add_grant(grant(), "r1")
    assert store.grant_of("r0", "client") is None
    assert store.grant_of("r1", "client") == "g"
    assert store.grant_of("r1", "another") is None
    assert store.revoke("g", NOW)
    assert not store.revoke("g", NOW)


def test_of_too_many_programs_the_least_recently_used_gives_way(
    store: LoginStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logins, "MAX_CLIENTS", 2)
    for n, name in enumerate(("a", "b")):
        store.add_client(name, "{}", NOW + n)
    assert store.client("a", NOW + 5) == "{}"
    store.add_client("c", "{}", NOW + 6)
    assert (store.client("a", NOW + 7), store.client("b", NOW + 7)) == ("{}", None)


def test_another_process_sees_what_this_one_wrote(store: LoginStore, tmp_path: Path) -> None:
    other = LoginStore(tmp_path / "state")
    store.add_person(Person("ann", NOW, "h"))
    assert other.person("ann") is not None
    other.close()


def test_a_database_of_a_newer_program_or_one_that_is_none_is_refused(tmp_path: Path) -> None:
    LoginStore(tmp_path / "state").close()
    path = tmp_path / "state" / logins.DATABASE
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreUnavailable, match="newer"):
        LoginStore(tmp_path / "state")
    path.write_bytes(b"no database" * 500)
    with pytest.raises(StoreUnavailable):
        LoginStore(tmp_path / "state")
    assert path.stat().st_mode & 0o077 == 0
