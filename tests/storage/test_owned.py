"""Whose is what providers keep: rows that are there before an agent hears of an id, and are bounded."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mcp_gateway.storage import owned as owned_file
from mcp_gateway.storage.owned import Owned, OwnedStore

ONE = Owned("p", "resp_1", "response", "alice", "key", "m", "real-m", 0, is_open=True, made_at=100, expires_at=1000)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[OwnedStore]:
    made = OwnedStore(tmp_path, max_per_owner=3)
    yield made
    made.close()


def test_an_owner_finds_what_is_its_own_until_it_expires(store: OwnedStore) -> None:
    assert store.add(ONE)
    assert store.find("alice", "response", "resp_1", 999) == ONE
    assert store.find("alice", "response", "resp_1", 1000) is None
    assert store.find("bob", "response", "resp_1", 999) is None
    assert store.find("alice", "container", "resp_1", 999) is None


def test_an_id_stays_its_first_owner_s(store: OwnedStore) -> None:
    assert store.add(ONE)
    assert store.add(ONE), "the same again is no theft"
    assert not store.add(replace(ONE, owner="bob"))
    assert not store.add(replace(ONE, credential="another key"))
    assert store.add(replace(ONE, provider="q", owner="bob")), "another provider's id is another id"
    assert store.find("bob", "response", "resp_1", 999) == replace(ONE, provider="q", owner="bob")


def test_an_end_is_news_once(store: OwnedStore) -> None:
    store.add(ONE)
    assert [store.finish("p", "resp_1") for _ in range(2)] == [True, False]
    store.reopen("p", "resp_1")
    assert store.finish("p", "resp_1")
    assert not store.finish("p", "unknown")


def test_what_is_gone_is_nobody_s(store: OwnedStore) -> None:
    store.add(ONE)
    store.grow("p", ["resp_1", "unknown"], 77)
    found = store.find("alice", "response", "resp_1", 0)
    assert found is not None
    assert found.tokens == 77
    store.remove("p", "resp_1")
    assert store.find("alice", "response", "resp_1", 0) is None


def test_what_is_over_and_what_is_too_much_is_forgotten(store: OwnedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owned_file, "TIDY_EVERY", 1)
    for number in range(8):
        store.add(replace(ONE, id=f"r{number}", made_at=100 + number))
    store.add(replace(ONE, owner="bob", id="short", made_at=50, expires_at=60))
    store.add(replace(ONE, owner="bob", id="long", made_at=200))
    alices = [n for n in range(8) if store.find("alice", "response", f"r{n}", 0) is not None]
    assert alices == [5, 6, 7]
    assert store.find("bob", "response", "short", 0) is None
    assert store.find("bob", "response", "long", 0) is not None


def test_nobody_else_on_the_machine_reads_it(store: OwnedStore, tmp_path: Path) -> None:
    store.add(ONE)
    assert (tmp_path / "owned.db").stat().st_mode & 0o077 == 0
