"""servers.lock: readable in a review, whole or unusable, one writer at a time."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mcp_gateway.config.lock import Lock, Pin, UpstreamPins, digest_of, lock_path, read_lock, update_lock
from mcp_gateway.errors import ConfigInvalid, StoreUnavailable

TOOL = {"name": "a", "description": "does\u202e it", "inputSchema": {"type": "object"}}
PIN = Pin(digest_of(TOOL), TOOL, "approved", "2026-11-21T12:00:00Z", ("description: odd",))


def filled() -> Lock:
    pins = UpstreamPins().with_pin("tool:a", PIN).with_pin("tool:a", PIN, "alice").with_rejected("tool:b", "0" * 64)
    return Lock().with_upstream("up", pins)


def test_it_stands_beside_servers_toml() -> None:
    assert lock_path(Path("x/servers.toml")) == Path("x/servers.lock")


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "servers.lock"
    assert update_lock(path, lambda _: filled()) == filled()
    assert read_lock(path) == filled()
    assert [each.name for each in tmp_path.iterdir()] == ["servers.lock"]


def test_no_file_approves_nothing(tmp_path: Path) -> None:
    assert read_lock(tmp_path / "servers.lock") == Lock()


def test_a_change_of_a_description_is_a_change_of_one_line_and_one_hash(tmp_path: Path) -> None:
    path = tmp_path / "servers.lock"
    update_lock(path, lambda _: filled())
    before = path.read_text().splitlines()
    other = {**TOOL, "description": "does more"}
    changed = UpstreamPins().with_pin("tool:a", Pin(digest_of(other), other, *(PIN.how, PIN.at, PIN.signals)))
    update_lock(
        path,
        lambda lock: lock.with_upstream(
            "up", UpstreamPins(changed.pins, *(lock.upstreams["up"].people, lock.upstreams["up"].rejected))
        ),
    )
    after = path.read_text().splitlines()
    assert sum(one != other for one, other in zip(before, after, strict=True)) == 2


def test_nothing_invisible_stands_in_it(tmp_path: Path) -> None:
    path = tmp_path / "servers.lock"
    update_lock(path, lambda _: filled())
    assert path.read_text().isascii()
    assert "\\u202e" in path.read_text()


def test_a_definition_edited_by_hand_makes_it_unusable(tmp_path: Path) -> None:
    path = tmp_path / "servers.lock"
    update_lock(path, lambda _: filled())
    path.write_text(path.read_text().replace("does", "does not"))
    with pytest.raises(ConfigInvalid, match="not the one its sha256 is of"):
        read_lock(path)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"format": 2, "upstreams": {}}', '{"format": 1, "upstreams": {"u": {"pins": {"k": 1}}}}'],
)
def test_a_file_of_another_shape_is_unusable_and_stays_as_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "servers.lock"
    path.write_text(text)
    with pytest.raises(ConfigInvalid) as raised:
        update_lock(path, lambda lock: lock)
    assert raised.value.complaints[0].code == "GW-CONFIG-LOCK"
    assert path.read_text() == text


def test_a_file_that_cannot_be_written_is_a_store_that_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        update_lock(tmp_path / "absent" / "servers.lock", lambda _: filled())


def test_writers_wait_for_each_other(tmp_path: Path) -> None:
    path = tmp_path / "servers.lock"

    def add(number: int) -> None:
        update_lock(path, lambda lock: lock.with_upstream(f"u{number}", UpstreamPins().with_pin("tool:a", PIN)))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(20)))
    assert len(json.loads(path.read_text())["upstreams"]) == 20


def test_approving_forgets_that_it_was_rejected_and_taking_back_forgets_the_pin() -> None:
    pins = UpstreamPins().with_rejected("tool:a", PIN.sha256).with_pin("tool:a", PIN)
    assert pins.rejected == {}
    assert pins.without("tool:a").pins == {}
    own = UpstreamPins().with_pin("tool:a", PIN, "alice")
    assert (own.pin("tool:a"), own.pin("tool:a", "alice"), own.keys("alice")) == (None, PIN, {"tool:a"})
    assert own.without("tool:a", "alice").pin("tool:a", "alice") is None
