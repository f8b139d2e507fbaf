"""Lists kept over a restart: the newest of each owner, private, and not without end."""

from pathlib import Path

import pytest

from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.storage import lists
from mcp_gateway.storage.lists import ListRow, ListStore


def row(owner: str, at: float = 1.0, listing: bytes = b"{}") -> ListRow:
    return ListRow("crm", owner, "abc", listing, at)


def test_the_newest_list_of_each_owner_is_there_after_a_restart(tmp_path: Path) -> None:
    store = ListStore(tmp_path / "s")
    store.put([row("a"), row("b")])
    store.put([row("a", 2.0, b"[1]")], gone=[("crm", "b")])
    store.close()
    assert ListStore(tmp_path / "s").all() == [row("a", 2.0, b"[1]")]
    assert (tmp_path / "s" / lists.DATABASE).stat().st_mode & 0o077 == 0


def test_the_oldest_give_way_when_there_are_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "MAX_ROWS", 3)
    store = ListStore(tmp_path)
    store.put([row(str(n), at=n) for n in range(5)])
    assert [each.owner for each in store.all()] == ["4", "3", "2"]


def test_a_file_that_is_no_database_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / lists.DATABASE).write_bytes(b"not a database, but something else of some length")
    with pytest.raises(StoreUnavailable, match=r"lists\.db"):
        ListStore(tmp_path).all()
