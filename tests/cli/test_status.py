"""`status` and `stop`: what the gateway says of itself, and what the files say where none runs."""

from pathlib import Path
from typing import Any

import pytest

from fakes.gateway_process import serving
from fakes.operator_files import FILES
from mcp_gateway.cli import status
from mcp_gateway.config.servers import load


def test_where_none_runs_the_files_are_all_there_is(operator: Any) -> None:
    told = operator.json("status", exits=1)
    assert told["gateway"] == {"running": False}
    assert told["upstreams"] == [{"name": "files", "state": "not running"}]
    assert told["policy"]["agents"] == ["reader", "writer"]
    assert (told["keys"]["valid"], told["last_day"]["calls"]) == (0, 0)
    assert "does not run" in operator.run("status", exits=1).stdout


def test_a_policy_that_cannot_be_used_is_part_of_the_status(operator: Any) -> None:
    operator.write({"policies/agents.toml": "x = 1"})
    assert "unknown key" in operator.json("status", exits=1)["policy"]["error"]


def test_calls_of_the_last_day_are_counted(operator: Any) -> None:
    operator.run("call", "files__echo", "--args", "{}", "-a", "reader")
    operator.run("call", "nothing", "--args", "{}", "-a", "reader", exits=1)
    told = operator.json("status", exits=1)["last_day"]
    assert (told["denied"], told["failed"]) == (1, 0)
    assert told["calls"] >= 2


@pytest.mark.slow
def test_a_gateway_that_runs_tells_of_its_upstreams(tmp_path: Path) -> None:
    with serving(tmp_path, FILES) as gateway:
        said = gateway.run("status").stdout
        assert f"serves {gateway.url}" in said
        assert "1 tools" in said
        assert f"process {gateway.process.pid}" in said


def test_stop_says_where_there_is_nothing_to_stop(operator: Any) -> None:
    assert operator.json("stop", exits=1) == {"stopped": False}


def test_another_room_can_add_a_section(operator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def weather(view: status.View) -> status.Section:
        return status.Section("weather", {"sky": "blue"}, ("  blue",))

    monkeypatch.setattr(status, "SECTIONS", [*status.SECTIONS, weather])
    assert operator.json("status", exits=1)["weather"] == {"sky": "blue"}
    assert operator.run("status", exits=1).stdout.endswith("weather\n  blue\n")


def test_what_is_held_back_and_what_lists_cost_is_part_of_the_status(operator: Any) -> None:
    lists = [{"agent": "reader", "task": "read", "tools": 900, "tokens": 290, "searched": True}]
    view = status.View(load(operator.folder / "servers.toml", {}), {"held": ["mail/send"], "lists": lists})
    found = {make(view).name: make(view) for make in (status._held_back, status._lists)}
    assert found["held_back"].data == ["mail/send"]
    assert found["held_back"].lines == ("  mail/send (mcp-gateway pins diff)",)
    assert found["lists"].data == lists
