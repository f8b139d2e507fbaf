"""What calls carried, as it is kept."""

import stat
from pathlib import Path
from typing import Any

import pytest

from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.storage.kept import DATABASE, KeptRow, KeptStore

NOW = 1_800_000_000.0


def row(request_id: str, **other: Any) -> KeptRow:
    values = {
        "part": "arguments", "at": NOW, "expires_at": NOW + 60, "agent": "bot", "task": "work", "target": "crm/get",
        "media_type": "application/json", "sha256": "d", "size": 2, "is_cut": False, "key_id": "k", "sealed": b"s",
    }  # fmt: skip
    return KeptRow(request_id=request_id, **{**values, **other})


@pytest.fixture
def store(tmp_path: Path) -> Any:
    opened = KeptStore(tmp_path / "state")
    yield opened
    opened.close()


def test_what_is_put_is_there_until_it_ends(store: KeptStore) -> None:
    results = row("a", part="results", is_cut=True)
    store.put([results, row("a")], NOW)
    assert store.of("a", NOW) == [row("a"), results]
    assert store.of("a", NOW + 60) == []
    assert store.newest(NOW + 60) == []
    assert store.of("b", NOW) == []


def test_what_has_ended_goes_with_the_next_that_comes(store: KeptStore, tmp_path: Path) -> None:
    store.put([row("a")], NOW)
    store.put([row("b", at=NOW + 61, expires_at=NOW + 100)], NOW + 61)
    assert [each.request_id for each in store.newest(NOW)] == ["b"]


def test_the_newest_come_first_and_may_be_one_agent_s(store: KeptStore) -> None:
    store.put([row("a"), row("b", at=NOW + 1, agent="other")], NOW)
    assert [each.request_id for each in store.newest(NOW)] == ["b", "a"]
    assert [each.request_id for each in store.newest(NOW, limit=1)] == ["b"]
    assert [each.request_id for each in store.newest(NOW, agent="bot")] == ["a"]


def test_purging_takes_one_call_or_what_is_old_or_what_has_ended(store: KeptStore) -> None:
    store.put([row("a", at=NOW - 9), row("b"), row("c"), row("d", expires_at=NOW + 5)], NOW)
    assert store.purge(NOW) == 0
    assert store.purge(NOW, request_id="c") == 1
    assert store.purge(NOW, before=NOW - 5) == 1
    assert store.purge(NOW + 10) == 1
    assert [each.request_id for each in store.newest(NOW)] == ["b"]


def test_what_is_purged_is_in_no_file_any_more(store: KeptStore, tmp_path: Path) -> None:
    store.put([row("a", sealed=b"canary-of-the-sealed-text" * 9)], NOW)
    assert any(b"canary" in path.read_bytes() for path in (tmp_path / "state").iterdir())
    store.purge(NOW, request_id="a")
    assert not any(b"canary" in path.read_bytes() for path in (tmp_path / "state").iterdir())


def test_a_full_store_takes_nothing_more_until_some_has_gone(tmp_path: Path) -> None:
    store = KeptStore(tmp_path / "state", max_bytes=200_000)
    big = {"sealed": b"x" * 100_000}
    with pytest.raises(StoreUnavailable, match="is full"):
        for number in range(9):
            store.put([row(str(number), **big)], NOW)
    store.purge(NOW, before=NOW + 1)
    store.put([row("again", **big)], NOW)
    store.close()


def test_another_key_s_rows_are_found(store: KeptStore) -> None:
    store.put([row("a"), row("b", key_id="new")], NOW)
    assert [each.request_id for each in store.sealed_otherwise("new", 9)] == ["a"]


def test_only_the_gateway_s_user_can_read_it(store: KeptStore, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / "state" / DATABASE).stat().st_mode) == 0o600
