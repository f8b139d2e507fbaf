"""Requests checked against the document of their API."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from anyio import CancelScope

from fakes.plain_api import OPENAPI
from mcp_gateway.config.rest import Checking, RestConfig
from mcp_gateway.domain import HttpPart, Kind, Request, Verb
from mcp_gateway.errors import BadArguments, Misbehaved
from mcp_gateway.guards.documents import Documents


class NoRelay:
    """Nothing is answered here."""

    scope = CancelScope

    async def begin(self, *_: object) -> None: ...
    async def write(self, _: bytes) -> None: ...
    def hold(self, _: bytes) -> None: ...
    def hold_error(self, _: Exception) -> None: ...


def config(folder: Path, checking: Checking = "all", text: str = OPENAPI) -> RestConfig:
    path = folder / "orders.yaml"
    path.write_text(text)
    return RestConfig((("http://127.0.0.1:9", 1.0),), openapi=path, check_requests=checking)


def request(path: str, method: str = "GET", json: Any = None, **headers: str) -> Request:
    body = b"" if json is None else orjson.dumps(json)
    relay: Any = NoRelay()
    fields = {"content-type": "application/json", **headers} if body else headers
    http = HttpPart(path, fields, body, json, relay)
    return Request("r", Verb.ROUTE, "route", Kind.ROUTE, path, {"arguments": {"method": method}}, http=http)


async def test_a_request_that_fits_passes(tmp_path: Path) -> None:
    documents, rest = Documents(), config(tmp_path)
    await documents.check("orders", rest, request("/v1/orders/7?expand=a&expand=b"))
    await documents.check("orders", rest, request("/v1/orders/7", "HEAD"))
    await documents.check("orders", rest, request("/v1/orders", "POST", {"amount": 7}))


@pytest.mark.parametrize(
    ("path", "method", "json", "message"),
    [
        ("/v1/orders/7?limit=1", "GET", None, "no parameter 'limit'"),
        ("/v1/orders/7", "GET", {}, "a body is nothing"),
        ("/v1/orders", "POST", None, "body"),
        ("/v1/orders", "POST", {"amount": "7"}, r"the document of 'orders': \$\.body\.amount: .*rule type"),
        ("/v1/orders", "POST", {}, "amount"),
        ("/v1/other", "GET", None, "not in the document of 'orders'"),
        ("/v1/orders/", "POST", {"amount": 7}, "not in the document"),
    ],
)
async def test_what_does_not_fit_is_refused_with_the_place(
    tmp_path: Path, path: str, method: str, json: Any, message: str
) -> None:
    with pytest.raises(BadArguments, match=message):
        await Documents().check("orders", config(tmp_path), request(path, method, json))


async def test_what_is_not_described_passes_where_only_that_is_checked(tmp_path: Path) -> None:
    documents, rest = Documents(), config(tmp_path, "described")
    await documents.check("orders", rest, request("/v1/other"))
    with pytest.raises(BadArguments):
        await documents.check("orders", rest, request("/v1/orders", "POST", {}))


async def test_a_document_that_cannot_be_used_lets_nothing_pass_until_it_is_repaired(tmp_path: Path) -> None:
    documents, rest = Documents(), config(tmp_path, "described", "no document")
    for _ in range(2):
        with pytest.raises(Misbehaved, match=r"orders\.yaml cannot be used"):
            await documents.check("orders", rest, request("/v1/other"))
    config(tmp_path)
    await documents.check("orders", rest, request("/v1/other"))


async def test_a_document_that_has_changed_is_read_again(tmp_path: Path) -> None:
    documents, rest = Documents(), config(tmp_path)
    with pytest.raises(BadArguments, match="not in the document"):
        await documents.check("orders", rest, request("/v2/orders/7"))
    config(tmp_path, text=OPENAPI.replace("/v1/", "/v2/"))
    await documents.check("orders", rest, request("/v2/orders/7"))
    (tmp_path / "orders.yaml").unlink()
    with pytest.raises(Misbehaved, match="No such file"):
        await documents.check("orders", rest, request("/v2/orders/7"))


async def test_a_schema_that_cannot_be_used_lets_nothing_pass(tmp_path: Path) -> None:
    outside = OPENAPI.replace("schema: {type: string}", "schema: {$dynamicRef: 'http://elsewhere/x'}")
    with pytest.raises(Misbehaved, match="cannot be checked: its schema"):
        await Documents().check("orders", config(tmp_path, text=outside), request("/v1/orders/7"))


async def test_headers_that_never_reach_the_api_are_not_asked_for(tmp_path: Path) -> None:
    header = "parameters:\n        - {name: X-Tenant, in: header, required: true, schema: {type: string}}"
    rest = config(tmp_path, text=OPENAPI.replace("parameters:", header, 1))
    await Documents().check("orders", rest, request("/v1/orders/7"))
    passing = RestConfig(rest.targets, openapi=rest.openapi, check_requests="all", send_headers=("x-tenant",))
    with pytest.raises(BadArguments, match="X-Tenant"):
        await Documents().check("orders", passing, request("/v1/orders/7"))
    await Documents().check("orders", passing, request("/v1/orders/7", **{"x-tenant": "a"}))
