"""Pages that tools name are found without being listed, and collide like resources."""

from typing import Any

import pytest

from mcp_gateway.catalog.apps import page_of
from mcp_gateway.catalog.catalog import Catalog, build
from mcp_gateway.catalog.naming import NamingRule
from mcp_gateway.domain import Json, Kind, Listing

PAGE = "ui://charts/bar.html"


def with_page(uri: Any = PAGE, name: str = "chart", **ui: Any) -> Json:
    return {"name": name, "inputSchema": {"type": "object"}, "_meta": {"ui": {"resourceUri": uri, **ui}}}


def catalog_of(*listings: Listing, **rules: NamingRule) -> Catalog:
    return build(listings, rules)


@pytest.mark.parametrize(
    ("meta", "uri"),
    [
        ({"ui": {"resourceUri": PAGE}}, PAGE),
        ({"ui/resourceUri": PAGE}, PAGE),
        ({"ui": {"visibility": ["app"]}, "ui/resourceUri": PAGE}, PAGE),
        ({"ui": {"resourceUri": "ui://new"}, "ui/resourceUri": "ui://old"}, "ui://new"),
        ({"ui": {"resourceUri": "https://charts.example/"}}, ""),
        ({"ui": {"resourceUri": "file:///etc/passwd"}}, ""),
        ({"ui": {"resourceUri": 7}}, ""),
        ({"ui": "ui://x"}, ""),
        ({"ui": {"resourceUri": "ui://" + "x" * 5000}}, ""),
        ({}, ""),
        (None, ""),
        ("ui", ""),
    ],
)
def test_a_page_is_a_ui_uri_in_either_place(meta: Any, uri: str) -> None:
    assert page_of({"name": "chart", "_meta": meta}) == uri
    assert page_of({"name": "chart"}) == ""


def test_a_page_can_be_read_and_stands_in_no_list() -> None:
    catalog = catalog_of(Listing("u", tools=(with_page(),)))
    found = catalog.find(Kind.RESOURCE, PAGE)
    assert found is not None
    assert (found.kind, found.upstream, found.name, found.public_name) == (Kind.RESOURCE, "u", PAGE, PAGE)
    assert catalog.targets(Kind.RESOURCE) == ()
    assert catalog.problems == ()


def test_two_tools_may_share_a_page() -> None:
    catalog = catalog_of(Listing("u", tools=(with_page(), with_page(name="table"))))
    assert catalog.find(Kind.RESOURCE, PAGE) is not None
    assert catalog.problems == ()


def test_a_page_that_is_listed_too_keeps_its_own_definition() -> None:
    listed = {"uri": PAGE, "name": "bars", "mimeType": "text/html;profile=mcp-app"}
    catalog = catalog_of(Listing("u", tools=(with_page(),), resources=(listed,)))
    [target] = catalog.targets(Kind.RESOURCE)
    assert target.raw == listed
    assert catalog.find(Kind.RESOURCE, PAGE) is target


@pytest.mark.parametrize(
    "other",
    [
        Listing("v", tools=(with_page(),)),
        Listing("v", resources=({"uri": PAGE, "name": "mine"},)),
    ],
)
def test_a_page_of_two_upstreams_is_nobodys(other: Listing) -> None:
    catalog = catalog_of(Listing("u", tools=(with_page(),)), other)
    assert catalog.find(Kind.RESOURCE, PAGE) is None
    assert catalog.targets(Kind.RESOURCE) == ()
    assert {problem.upstream for problem in catalog.problems} == {"u", "v"}


def test_no_template_brings_back_a_page_that_collides() -> None:
    template = {"uriTemplate": "ui://charts/{name}", "name": "any"}
    listings = Listing("u", tools=(with_page(),), templates=(template,)), Listing("v", tools=(with_page(),))
    assert catalog_of(*listings).find(Kind.RESOURCE, PAGE) is None


def test_an_operator_who_hides_a_resource_hides_it_as_a_page() -> None:
    listing = Listing("u", tools=(with_page(),))
    assert catalog_of(listing, u=NamingRule(exclude=("resource:ui://**",))).find(Kind.RESOURCE, PAGE) is None


def test_a_tool_that_is_left_out_names_no_page() -> None:
    listing = Listing("u", tools=(with_page(),))
    assert catalog_of(listing, u=NamingRule(exclude=("chart",))).find(Kind.RESOURCE, PAGE) is None


def test_tools_of_pages_stay_listed_under_their_prefix_with_their_meta_untouched() -> None:
    raw = with_page(visibility=["app"], csp={"connectDomains": []})
    catalog = catalog_of(Listing("u", tools=(raw,)))
    [target] = catalog.targets(Kind.TOOL)
    assert target.definition == {**raw, "name": "u__chart"}
    # The page calls its tools by the names its own server gave them.
    assert catalog.find(Kind.TOOL, "chart") is target
