"""How workers are doing can be read by whoever owns the state folder, and decides nothing."""

from pathlib import Path

import pytest

from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.storage.workers import NAME, Standing, forget_standings, read_standings, write_standings

TWO = (Standing(1, "ready", 17), Standing(2, "waiting to start again", 0, 3))


def test_what_was_written_last_is_read(tmp_path: Path) -> None:
    write_standings(tmp_path, [Standing(1)])
    write_standings(tmp_path, TWO)
    assert read_standings(tmp_path) == TWO
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


@pytest.mark.parametrize("text", ["", "{", "[3]", '[{"number": 1, "unknown": 2}]', "null"])
def test_what_cannot_be_read_tells_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text)
    assert read_standings(tmp_path) == ()


def test_without_workers_there_is_nothing_to_read(tmp_path: Path) -> None:
    write_standings(tmp_path, TWO)
    forget_standings(tmp_path)
    forget_standings(tmp_path)
    assert read_standings(tmp_path) == ()


def test_a_folder_that_is_not_there_is_the_operators_to_mend(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="cannot be written"):
        write_standings(tmp_path / "gone", TWO)
