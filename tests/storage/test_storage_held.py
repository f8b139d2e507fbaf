"""What is held back, written by the gateway for whoever reviews it."""

from pathlib import Path

import pytest

from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.storage.held import read_held, write_held


def test_what_is_written_is_read_and_nobody_else_can(tmp_path: Path) -> None:
    state = tmp_path / "state"
    write_held(state, [{"key": "tool:a"}])
    write_held(state, [{"key": "tool:b"}])
    assert read_held(state) == [{"key": "tool:b"}]
    assert [(each.name, each.stat().st_mode & 0o777) for each in state.iterdir()] == [("held.json", 0o600)]


def test_where_no_gateway_has_run_nothing_is_held(tmp_path: Path) -> None:
    assert read_held(tmp_path) == []


def test_a_file_that_is_no_list_of_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "held.json").write_text("{")
    with pytest.raises(StoreUnavailable):
        read_held(tmp_path)
