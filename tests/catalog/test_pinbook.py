"""The pins of a running gateway: in force at once, on disk within moments, each held definition noted once."""

from pathlib import Path
from typing import Any

import pytest

from mcp_gateway.catalog.pinbook import PinBook, held_now
from mcp_gateway.config.lock import Lock, Pin, UpstreamPins, digest_of, read_lock, update_lock
from mcp_gateway.domain import Json, Listing


def tool(name: str, description: str = "does it") -> Json:
    return {"name": name, "description": description, "inputSchema": {"type": "object"}}


def listing(*tools: Json) -> dict[str, Listing]:
    return {"up": Listing("up", tools=tools)}


class Noted:
    """An audit that remembers."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str]] = []

    async def note(self, target: str, why: str, detail: Json) -> None:
        self.rows.append((target, why))


def book(folder: Path, lock: Lock | None = None) -> PinBook:
    return PinBook(folder / "servers.lock", folder / "state", lambda: "2026-11-21T12:00:00Z", lock or Lock())


def served(pins: PinBook, listings: dict[str, Listing]) -> list[str]:
    return [tool["name"] for tool in pins.sift(listings, {})["up"].listing.tools]


async def test_a_first_listing_is_in_force_at_once_and_on_disk_when_flushed(tmp_path: Path) -> None:
    pins = book(tmp_path)
    assert served(pins, listing(tool("a"))) == ["a"]
    assert served(pins, listing(tool("a"), tool("b"))) == ["a"]
    await pins.flush(Noted().note)
    assert read_lock(tmp_path / "servers.lock") == pins.lock
    assert [held.target for held in held_now(tmp_path / "state")] == ["up/b"]


async def test_what_another_process_pinned_first_stays(tmp_path: Path) -> None:
    pins = book(tmp_path)
    served(pins, listing(tool("a", "mine")))
    theirs = tool("a", "theirs")
    pin = Pin(digest_of(theirs), theirs, "first-use", "")
    update_lock(tmp_path / "servers.lock", lambda lock: lock.with_upstream("up", UpstreamPins({"tool:a": pin})))
    await pins.flush(Noted().note)
    assert "approved up/a" in pins.reload()
    assert served(pins, listing(tool("a", "mine"))) == []


async def test_a_held_definition_is_noted_once_however_often_it_is_seen(tmp_path: Path) -> None:
    pins, noted = book(tmp_path), Noted()
    served(pins, listing(tool("a")))
    for _ in range(3):
        served(pins, listing(tool("a", "changed")))
        await pins.flush(noted.note)
    assert noted.rows == [("up/a", "held back: changed")]


async def test_a_listing_that_is_as_it_was_is_not_looked_at_again(tmp_path: Path) -> None:
    pins, listings = book(tmp_path), listing(tool("a"))
    pins.sift(listings, {})
    first = pins.sift(listings, {})["up"]
    assert pins.sift(listings, {})["up"] is first
    assert pins.sift(listings, {"up": "any"})["up"] is not first


async def test_pins_that_cannot_be_written_hold_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pins = PinBook(tmp_path / "absent" / "servers.lock", tmp_path / "state", lambda: "", Lock())
    served(pins, listing(tool("a")))
    await pins.flush(Noted().note)
    assert served(pins, listing(tool("a", "changed"))) == []
    assert "pins cannot be kept" in caplog.text


async def test_a_reload_says_what_was_approved_and_what_taken_back(tmp_path: Path) -> None:
    pins = book(tmp_path)
    served(pins, listing(tool("a"), tool("b")))
    await pins.flush(Noted().note)
    assert pins.reload() == ""

    def change(lock: Lock) -> Lock:
        a: Any = tool("a", "new")
        return lock.with_upstream(
            "up", lock.upstreams["up"].without("tool:b").with_pin("tool:a", Pin(digest_of(a), a, "approved", ""))
        )

    update_lock(tmp_path / "servers.lock", change)
    assert pins.reload() == f"approved up/a {digest_of(tool('a', 'new'))[:8]}; taken back up/b"


async def test_whose_list_comes_first_everybodys_first_list_is_still_the_first(tmp_path: Path) -> None:
    pins = book(tmp_path)
    [mine] = listing(tool("a")).values()
    assert not pins.sift_own("ada", mine, "first-use", is_new=True).held
    assert served(pins, listing(tool("a"), tool("b"))) == ["a", "b"]
    assert served(pins, listing(tool("a"), tool("b"), tool("c"))) == ["a", "b"]


async def test_what_was_refused_for_everybody_is_no_first_list_again(tmp_path: Path) -> None:
    refused = UpstreamPins().with_rejected("tool:a", digest_of(tool("a")))
    pins = book(tmp_path, Lock().with_upstream("up", refused))
    [mine] = listing(tool("b")).values()
    pins.sift_own("ada", mine, "first-use", is_new=True)
    assert served(pins, listing(tool("a"), tool("c"))) == []
