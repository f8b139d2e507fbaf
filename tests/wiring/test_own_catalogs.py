"""People who are listed the same share a catalog; who is listed something else gets their own."""

from __future__ import annotations

from pathlib import Path

from mcp_gateway.catalog.catalog import build
from mcp_gateway.catalog.pinbook import PinBook
from mcp_gateway.config.lock import Lock
from mcp_gateway.domain import Caller, Kind, Listing
from mcp_gateway.storage.lists import ListStore
from mcp_gateway.upstreams.own_lists import OwnList, OwnLists, Surroundings
from mcp_gateway.wiring.own_catalogs import OwnCatalogs


def listing(*tools: str) -> Listing:
    return Listing("crm", tools=tuple({"name": name, "inputSchema": {"type": "object"}} for name in tools))


async def nobody(caller: Caller, upstream: str) -> None:
    return None


def catalogs(tmp_path: Path, **own: Listing) -> tuple[OwnCatalogs, OwnLists]:
    lists = OwnLists(
        ListStore(tmp_path), Surroundings(dict, lambda caller, _: caller.person or "", nobody, lambda name: None)
    )
    lists.apply({"crm": "https://crm.example"})
    for owner, each in own.items():
        lists._put(("crm", owner), OwnList(each, "", 1, is_first=True))
    pins = PinBook(tmp_path / "servers.lock", tmp_path, lambda: "now", Lock())
    shared = listing("whoami")
    pins.sift({"crm": shared}, {"crm": "first-use"})
    made = build([shared], {})
    return OwnCatalogs(
        made, {"crm": shared}, lists, pins, {"crm": "first-use"}, lambda listings: build(listings.values(), {})
    ), lists


def names(found: OwnCatalogs, person: str) -> list[str]:
    return [target.name for target in found.catalog(Caller("bot", "work", person)).targets(Kind.TOOL)]


def test_each_gets_what_they_are_listed_and_those_who_are_listed_the_same_share_it(tmp_path: Path) -> None:
    found, _ = catalogs(tmp_path, alice=listing("whoami", "a"), anna=listing("whoami", "a"), bob=listing("whoami"))
    assert names(found, "alice") == ["a", "whoami"]
    alice, anna, bob, carol = (found.catalog(Caller("bot", "work", who)) for who in ("alice", "anna", "bob", "carol"))
    assert alice is anna
    assert bob is carol
    assert found.is_of(bob)
    assert alice is found.catalog(Caller("other", "work", "alice"))


def test_a_list_that_came_anew_counts_at_once_and_what_is_new_in_it_is_held_back(tmp_path: Path) -> None:
    found, lists = catalogs(tmp_path, alice=listing("whoami", "a"))
    assert names(found, "alice") == ["a", "whoami"]
    lists._put(("crm", "alice"), OwnList(listing("whoami", "b"), "", 1, is_first=False))
    assert names(found, "alice") == ["whoami"]
