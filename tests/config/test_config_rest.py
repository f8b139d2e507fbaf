"""`rest` in a `[servers.NAME]` table: what can be written there, and what every mistake is told as."""

from pathlib import Path

import pytest

from mcp_gateway.config.rest import MAX_TARGETS, RestConfig
from mcp_gateway.config.servers import load
from mcp_gateway.config.table import ConfigCode
from mcp_gateway.errors import ConfigInvalid
from mcp_gateway.rest.operations import Parameter

ORDERS = '[servers.orders]\nrest = "https://orders.internal/api/"\ninclude = ["GET /v1/orders/*"]\n'
TOOL = "[servers.orders.tool.change]\n"


def rest(folder: Path, toml: str) -> RestConfig:
    path = folder / "servers.toml"
    path.write_text(toml)
    [server] = load(path, {"TWO": "https://two.internal"}).servers
    assert server.transport == "rest"
    assert server.rest is not None
    return server.rest


def test_only_what_is_included_exists_for_agents(tmp_path: Path) -> None:
    found = rest(tmp_path, ORDERS)
    assert found.admits("GET", "/v1/orders/7")
    assert not found.admits("DELETE", "/v1/orders/7")
    assert not found.admits("GET", "/v1/orders/7/lines")
    assert not found.admits("GET", "/api/v1/orders/7")


def test_without_a_list_nothing_exists_and_that_is_said(tmp_path: Path) -> None:
    path = tmp_path / "servers.toml"
    path.write_text('[servers.orders]\nrest = "https://orders.internal"\n')
    configuration = load(path, {})
    [server] = configuration.servers
    assert server.rest is not None
    assert not server.rest.admits("GET", "/")
    assert "nothing is included: agents will see nothing" in [warning.message for warning in configuration.warnings]


def test_requests_are_shared_among_targets_by_weight(tmp_path: Path) -> None:
    written = f'{ORDERS}targets = [{{ url = "${{TWO}}/", weight = 3 }}, {{ url = "https://three.internal" }}]\n'
    assert rest(tmp_path, written).targets == (
        ("https://orders.internal/api", 1.0),
        ("https://two.internal", 3.0),
        ("https://three.internal", 1.0),
    )


def test_a_document_is_looked_for_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "orders.yaml").write_text("openapi: 3.1.0")
    assert rest(tmp_path, f'{ORDERS}openapi = "orders.yaml"\n').openapi == tmp_path / "orders.yaml"
    assert rest(tmp_path, ORDERS).openapi is None


def test_an_api_need_not_be_offered_http_2(tmp_path: Path) -> None:
    path = tmp_path / "servers.toml"
    path.write_text(f"{ORDERS}http2 = false\n")
    assert [server.http2 for server in load(path, {}).servers] == [False]


def test_headers_are_named_in_any_case(tmp_path: Path) -> None:
    found = rest(tmp_path, f'{ORDERS}send_headers = ["X-Tenant"]\nreturn_headers = ["X-Total-Count"]\n')
    assert (found.send_headers, found.return_headers) == (("x-tenant",), ("x-total-count",))


def test_one_retry_is_usual_and_none_can_be_asked_for(tmp_path: Path) -> None:
    assert rest(tmp_path, ORDERS).retries == 1
    assert rest(tmp_path, f"{ORDERS}retries = 0\n").retries == 0


def test_arguments_of_a_tool_go_into_the_path_the_query_or_the_body(tmp_path: Path) -> None:
    arguments = 'arguments = { id = { type = "string" }, dry = { type = "boolean" }, body = { type = "object" } }\n'
    tool = f'{TOOL}method = "PUT"\npath = "/v1/orders/{{id}}"\nrequired = ["body"]\n{arguments}'
    [found] = rest(tmp_path, ORDERS + tool).tools
    assert (found.name, found.method, found.template) == ("change", "PUT", "/v1/orders/{id}")
    assert found.parameters == (
        Parameter("id", "id", "path", is_required=True, schema={"type": "string"}),
        Parameter("dry", "dry", "query", is_required=False, schema={"type": "boolean"}),
        Parameter("body", "body", "body", is_required=True, schema={"type": "object"}),
    )


def test_a_method_without_a_body_has_everything_else_in_its_query(tmp_path: Path) -> None:
    tool = f'{TOOL}path = "/v1/orders"\narguments = {{ body = {{ type = "string" }} }}\n'
    [found] = rest(tmp_path, ORDERS + tool).tools
    assert found.method == "GET"
    assert [parameter.where for parameter in found.parameters] == ["query"]


@pytest.mark.parametrize(
    ("toml", "code", "message"),
    [
        ('include = ["/v1/orders"]', ConfigCode.BAD_VALUE, "not a method and a path"),
        ('include = ["FETCH /v1/orders"]', ConfigCode.BAD_VALUE, "'FETCH' is none of"),
        ('include = ["* **"]\ntargets = [{ url = "ftp://two" }]', ConfigCode.BAD_VALUE, "no target"),
        ('include = ["* **"]\ntargets = [{ url = "https://two", weight = 0 }]', ConfigCode.BAD_VALUE, "no target"),
        ('include = ["* **"]\ntargets = [{ url = "https://two", weight = true }]', ConfigCode.BAD_VALUE, "no target"),
        ('include = ["* **"]\ntargets = [{ url = "https://two", retries = 1 }]', ConfigCode.BAD_VALUE, "no target"),
        ('include = ["* **"]\ntargets = ["https://two"]', ConfigCode.BAD_VALUE, "no target"),
        ('include = ["* **"]\ntargets = [{ url = "${UNSET}" }]', ConfigCode.ENV_UNSET, "UNSET"),
        ('include = ["* **"]\ntargets = [{ url = "https://orders.internal/" }]', ConfigCode.BAD_VALUE, "none of them"),
        ('include = ["* **"]\nopenapi = "https://orders.internal/o.yaml"', ConfigCode.BAD_VALUE, "not a URL"),
        ('include = ["* **"]\nopenapi = "missing.yaml"', ConfigCode.BAD_VALUE, "there is no file"),
        ('include = ["* **"]\nsend_headers = ["Authorization"]', ConfigCode.HEADER, "'authorization' cannot pass"),
        ('include = ["* **"]\nreturn_headers = ["Set-Cookie"]', ConfigCode.HEADER, "'set-cookie' cannot pass"),
        ('include = ["* **"]\nsend_headers = ["a b"]', ConfigCode.HEADER, "'a b' cannot pass"),
        ('include = ["* **"]\nretries = 6', ConfigCode.BAD_VALUE, "retries"),
        ('include = ["* **"]\n[servers.o.tool.a]', ConfigCode.BAD_VALUE, "no usable name or path"),
        ('include = ["* **"]\n[servers.o.tool."a b"]\npath = "/a"', ConfigCode.BAD_VALUE, "no usable name or path"),
        ('include = ["* **"]\n[servers.o.tool.a]\npath = "/a//b"', ConfigCode.BAD_VALUE, "no usable name or path"),
        ('include = ["* **"]\n[servers.o.tool.a]\npath = "/a?b=c"', ConfigCode.BAD_VALUE, "no usable name or path"),
        ('include = ["* **"]\n[servers.o.tool.a]\npath = "/{id}"', ConfigCode.BAD_VALUE, "needs a schema"),
        (
            'include = ["* **"]\n[servers.o.tool.a]\npath = "/{id}"\narguments = { id = "string" }',
            ConfigCode.BAD_VALUE,
            "needs a schema",
        ),
        (
            'include = ["* **"]\n[servers.o.tool.a]\npath = "/a"\nmethod = "TRACE"',
            ConfigCode.BAD_VALUE,
            "'method' cannot be",
        ),
        ('include = ["* **"]\n[servers.o.tool.a]\npath = "/a"\nurl = "/b"', ConfigCode.UNKNOWN_KEY, "url"),
    ],
)
def test_each_mistake_has_its_place_and_its_code(tmp_path: Path, toml: str, code: ConfigCode, message: str) -> None:
    with pytest.raises(ConfigInvalid) as raised:
        rest(tmp_path, f'[servers.o]\nrest = "https://orders.internal"\n{toml}\n')
    [complaint] = [c for c in raised.value.complaints if message in c.message]
    assert complaint.code == code
    assert complaint.line >= 2


def test_there_are_only_so_many_targets(tmp_path: Path) -> None:
    targets = ", ".join(f'{{ url = "https://t{number}.internal" }}' for number in range(MAX_TARGETS))
    with pytest.raises(ConfigInvalid, match="at most"):
        rest(tmp_path, f"{ORDERS}targets = [{targets}]\n")


def test_answers_are_kept_where_the_file_says_so_and_nowhere_else(tmp_path: Path) -> None:
    assert rest(tmp_path, ORDERS).cache is None
    assert rest(tmp_path, ORDERS + "cache = []\n").cache is None
    cache = rest(tmp_path, ORDERS + 'cache = ["GET,HEAD /v1/orders/*"]\ncache_stale_s = 60\n').cache
    assert cache is not None
    assert [route.text for route in cache.routes] == ["GET,HEAD /v1/orders/*"]
    assert cache.stale_if_error_s == 60


@pytest.mark.parametrize(
    ("line", "message"),
    [('cache = ["* /v1/**"]', "only answers to GET and HEAD"), ('cache = ["/v1"]', "is not a method and a path")],
)
def test_only_answers_to_reading_can_be_kept(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ConfigInvalid) as found:
        rest(tmp_path, ORDERS + line + "\n")
    assert message in found.value.complaints[0].message
    assert found.value.complaints[0].line == 4
