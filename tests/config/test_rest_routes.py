"""`[servers.NAME.route.ROUTE]`: what can be written there, and what every mistake is told as."""

from pathlib import Path

import pytest

from mcp_gateway.config.rest import RestConfig
from mcp_gateway.config.servers import load
from mcp_gateway.config.table import ConfigCode
from mcp_gateway.errors import ConfigInvalid
from mcp_gateway.rest.editing import HeaderEdits, QueryEdits, Rewrite
from mcp_gateway.rest.lifecycle import Life, State
from mcp_gateway.rest.pointers import Edit
from mcp_gateway.rest.routing import Route

SERVER = '[servers.orders]\nrest = "https://orders.internal"\ninclude = ["* **"]\n'
ROUTE = '[servers.orders.route.v1]\nmatch = ["* /v1/**"]\n'


def rest(folder: Path, toml: str) -> RestConfig:
    path = folder / "servers.toml"
    path.write_text(toml)
    [server] = load(path, {}).servers
    assert server.rest is not None
    return server.rest


def route(folder: Path, toml: str) -> Route:
    [found] = rest(folder, f"{SERVER}{ROUTE}{toml}\n").routes
    return found


def test_routes_keep_the_order_they_are_written_in(tmp_path: Path) -> None:
    more = '[servers.orders.route.all]\nmatch = ["* **"]\n[servers.orders.route."v2.1"]\nmatch = ["* /v2/**"]\n'
    assert [each.name for each in rest(tmp_path, SERVER + ROUTE + more).routes] == ["v1", "all", "v2.1"]
    assert rest(tmp_path, SERVER).routes == ()


def test_a_route_says_nothing_that_is_not_written(tmp_path: Path) -> None:
    found = route(tmp_path, "")
    assert found == Route("v1", found.match)
    assert found.is_of("PUT", "/v1/orders", {})


def test_days_begin_at_midnight_utc_and_times_have_their_zone(tmp_path: Path) -> None:
    toml = (
        'deprecated = 2026-01-01\nsunset = 2026-01-02T01:00:00+01:00\nlink = "https://a.example/b"\nsuccessor = "/v2"'
    )
    new_year = 1767225600
    assert route(tmp_path, toml).life == Life(
        State.DEPRECATED, new_year, new_year + 86400, "https://a.example/b", "/v2"
    )
    assert route(tmp_path, 'state = "draft"').life == Life(State.DRAFT)
    assert route(tmp_path, 'state = "retired"\ndeprecated = 2026-01-01').life == Life(State.RETIRED, new_year)


def test_where_and_how_many(tmp_path: Path) -> None:
    toml = (
        'hosts = ["V2.example"]\nheaders = { Accept-Version = "2", x-beta = ["a", "b"] }\nmax_concurrent = 3\n'
        'balance = "least-in-flight"\ntargets = [{ url = "https://b.internal/", weight = 9 }]'
    )
    found = route(tmp_path, toml)
    assert (found.hosts, found.max_concurrent, found.balance) == (frozenset({"v2.example"}), 3, "least-in-flight")
    assert found.headers == {"accept-version": frozenset({"2"}), "x-beta": frozenset({"a", "b"})}
    assert found.targets == (("https://b.internal", 9.0),)
    whole = rest(tmp_path, SERVER + 'balance = "least-in-flight"\nmax_concurrent = 7\n')
    assert (whole.balance, whole.max_concurrent) == ("least-in-flight", 7)


def test_edits_are_read_as_they_are_written(tmp_path: Path) -> None:
    toml = """rewrite = { from = "/v1/of/{id}", to = "/v2/{id}" }
[servers.orders.route.v1.request]
set_headers = { X-Tenant = "7" }
remove_query = ["debug"]
add_query = { tag = "a b" }
body = [
  { op = "move", from = "/name", path = "/customer/name", optional = true },
  { op = "add", path = "/list/-", value = { a = [1, 2.5, true] } },
]
[servers.orders.route.v1.answer]
remove_headers = ["Warning"]
add_headers = { Vary = "accept-version" }
body = [{ op = "remove", path = "/secret" }]
"""
    found = route(tmp_path, toml)
    assert found.request.rewrite == Rewrite(("v1", "of", "{id}"), ("v2", "{id}"))
    assert found.request.headers == HeaderEdits(set={"x-tenant": "7"})
    assert found.request.query == QueryEdits(frozenset({"debug"}), {}, {"tag": "a b"})
    assert found.request.body == (
        Edit("move", ("customer", "name"), None, ("name",), is_optional=True),
        Edit("add", ("list", "-"), {"a": [1, 2.5, True]}),
    )
    assert found.answer.headers == HeaderEdits(frozenset({"warning"}), {}, {"vary": "accept-version"})
    assert found.answer.body == (Edit("remove", ("secret",)),)


REQUEST = "[servers.orders.route.v1.request]\n"
ANSWER = "[servers.orders.route.v1.answer]\n"


@pytest.mark.parametrize(
    ("toml", "line", "message"),
    [
        ('match = ["/v1"]', 5, "not a method and a path"),
        ('match = ["* **",\n"GET /v1/{id}"]', 6, "no request has such a path"),
        ('match = ["GET /v1/%c3%a4"]', 5, "is never spelt so"),
        ('state = "gone"', 6, "'state' cannot be"),
        ('state = "deprecated"', 6, "since when"),
        ('state = "draft"\ndeprecated = 2026-01-01', 6, "means nothing while it is draft"),
        ('deprecated = "2026-01-01"', 6, "no day"),
        ("deprecated = 2026-01-01T00:00:00", 6, "no day and no time with a zone"),
        ("deprecated = 2026-01-02\nsunset = 2026-01-01", 7, "before it is deprecated"),
        ('link = "javascript:alert(1)"', 6, "'link' is no link"),
        ('successor = "/v2>; rel=\\"x\\""', 6, "'successor' is no link"),
        ('hosts = ["a.example:80"]', 6, "no host"),
        ('headers = { Authorization = "x" }', 6, "not a route's to speak of"),
        ("headers = { accept-version = 2 }", 6, "no value to compare with"),
        ('headers = ["accept-version"]', 6, "must be a table"),
        ('rewrite = { from = "v1", to = "/v2" }', 6, "no two beginnings"),
        ('rewrite = { from = "/v1", to = "/v2/../admin" }', 6, "no two beginnings"),
        ('rewrite = { from = "/v1", to = "/v%32" }', 6, "no two beginnings"),
        ('rewrite = { from = "/v1//a", to = "/v2" }', 6, "no two beginnings"),
        ('rewrite = { from = "/v1/", to = "/v2" }', 6, "no two beginnings"),
        ('rewrite = { from = "/v1", to = "/v2", by = "x" }', 6, "no two beginnings"),
        ('rewrite = { from = "/v1", to = "/v2/{id}" }', 6, "has to stand in 'from'"),
        ('rewrite = { from = "/{id}/{id}", to = "/v2" }', 6, "none twice"),
        ('rewrite = { from = "/a{id}", to = "/v2" }', 6, "no two beginnings"),
        ("max_concurrent = 0", 6, "out of range"),
        ('balance = "random"', 6, "'balance' cannot be"),
        ('targets = [{ url = "ftp://a" }]', 6, "no target"),
        ('template = "{{ x }}"', 6, "unknown key"),
        (REQUEST + 'set_headers = { Authorization = "x" }', 7, "not a route's to speak of"),
        (REQUEST + 'set_headers = { X-Forwarded-For = "x" }', 7, "not a route's to speak of"),
        (REQUEST + 'add_headers = { Content-Length = "1" }', 7, "not a route's to speak of"),
        (REQUEST + 'set_headers = { Content-Type = "application/json" }', 7, "not a route's to speak of"),
        (REQUEST + 'remove_headers = ["Host"]', 7, "not a route's to speak of"),
        (REQUEST + 'set_headers = { x-a = "a\\r\\nb: c" }', 7, "cannot stand in a header"),
        (REQUEST + 'set_query = { a = "\\u0000" }', 7, "NUL"),
        (REQUEST + 'body = { op = "remove", path = "/a" }', 7, "a list of at most"),
        (REQUEST + 'body = [\n{ op = "copy", from = "/a", path = "/b" }]', 8, "none of: add, replace, remove, move"),
        (REQUEST + 'body = [{ op = "add", path = "/a" }]', 7, "takes other keys"),
        (REQUEST + 'body = [{ op = "remove", path = "a" }]', 7, "no JSON pointer"),
        (REQUEST + 'body = [{ op = "remove", path = "" }]', 7, "no JSON pointer"),
        (REQUEST + 'body = [{ op = "move", from = "/a", path = "/a/b" }]', 7, "into itself"),
        (REQUEST + 'body = [{ op = "add", path = "/a", value = 2026-01-01 }]', 7, "none that JSON has"),
        (REQUEST + 'body = [{ op = "add", path = "/a", value = inf }]', 7, "none that JSON has"),
        (REQUEST + 'body = [{ op = "add", path = "/a", value = 1, optional = 1 }]', 7, "takes other keys"),
        (REQUEST + "script = 'x'", 7, "unknown key"),
        (ANSWER + 'set_headers = { Set-Cookie = "a=b" }', 7, "not a route's to speak of"),
        (ANSWER + 'set_query = { a = "b" }', 7, "unknown key"),
    ],
)
def test_each_mistake_has_its_place(tmp_path: Path, toml: str, line: int, message: str) -> None:
    written = SERVER + ("[servers.orders.route.v1]\n" if toml.startswith("match") else ROUTE) + toml
    with pytest.raises(ConfigInvalid) as raised:
        rest(tmp_path, written)
    [complaint] = [each for each in raised.value.complaints if message in each.message]
    assert complaint.line == line


def test_a_route_needs_a_name_and_a_match(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid) as raised:
        rest(tmp_path, f'{SERVER}[servers.orders.route."V 1"]\n')
    assert [each.message for each in raised.value.complaints] == [
        "'V 1' is no name of a route",
        "the route 'V 1' has no 'match'",
    ]


def test_requests_are_checked_only_against_a_document_that_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("openapi: 3.1.0")
    assert rest(tmp_path, f'{SERVER}openapi = "a.yaml"\ncheck_requests = "all"\n').check_requests == "all"
    assert rest(tmp_path, f'{SERVER}openapi = "a.yaml"\n').check_requests == "off"
    with pytest.raises(ConfigInvalid, match="there is no document"):
        rest(tmp_path, f'{SERVER}check_requests = "described"\n')


def test_a_route_is_for_plain_apis_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid) as raised:
        rest(tmp_path, f'[servers.orders]\nurl = "https://mcp.example"\n{ROUTE}')
    assert [each.code for each in raised.value.complaints] == [ConfigCode.UNKNOWN_KEY]
