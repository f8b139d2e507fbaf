"""What is remembered of a connection: for the user's eyes only, the first backup for as long as it stands."""

from dataclasses import replace
from pathlib import Path

from mcp_gateway.cli.connections import Connection, Connections, digest

ONE = Connection("cursor", "/h/.cursor/mcp.json", "gateway", "reader", "/s/servers.toml", True, digest(b"after"))


def test_a_connection_is_remembered_with_what_was_there_before(tmp_path: Path) -> None:
    kept = Connections(tmp_path)
    backup = kept.remember(ONE, b"before")
    kept.remember(replace(ONE, agent="writer"), b"not this")
    found = kept.of(Path(ONE.file))
    assert found is not None
    assert (found.agent, backup.read_bytes()) == ("writer", b"before")
    assert kept.backup_of(Path(ONE.file)) == backup
    assert list(kept.all()) == [found]


def test_a_backup_is_for_its_owner_alone(tmp_path: Path) -> None:
    backup = Connections(tmp_path).remember(ONE, b"secret")
    assert backup.stat().st_mode & 0o077 == 0
    assert backup.parent.stat().st_mode & 0o077 == 0


def test_what_is_forgotten_leaves_nothing(tmp_path: Path) -> None:
    kept = Connections(tmp_path)
    kept.remember(ONE, b"before")
    kept.forget(Path(ONE.file))
    assert kept.of(Path(ONE.file)) is None
    assert list((tmp_path / "connections").iterdir()) == []


def test_a_record_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    kept = Connections(tmp_path)
    record = kept.remember(ONE, None).with_name("connection.json")
    record.write_text("{")
    assert kept.of(Path(ONE.file)) is None
    assert list(kept.all()) == []
