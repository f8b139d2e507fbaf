"""Plain HTTP through the whole gateway: a real API behind it, a real client in front, real policy and audit."""

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from fakes.agents import gateway_in
from fakes.gateway_process import GatewayProcess, run_command
from fakes.plain_api import OPENAPI, PlainApi
from fakes.served import serving

POLICY = """
[agents.bot]
tasks = ["read", "write"]
default_task = "read"

[tasks.read]
allow = ["orders/get_order"]
[tasks.read.routes]
allow = ["orders: GET,HEAD /v1/orders/**", "orders: GET /v1/status/*", "orders: GET /v1/stream", "orders: GET /v1/huge"]

[tasks.write]
[[tasks.write.grant]]
tools = ["route:orders/POST /v1/orders"]
when = "args.body.amount < 100"
"""


@asynccontextmanager
async def passing(folder: Path, more: str = "") -> AsyncIterator[tuple[PlainApi, GatewayProcess, httpx2.AsyncClient]]:
    api = PlainApi()
    async with serving(api) as origin:
        server = f'[servers.orders]\nrest = "{origin}"\nopenapi = "orders.yaml"\ninclude = ["* /v1/**"]\n'
        auth = 'auth = { bearer = "file:key.txt" }\n'
        files = {"servers.toml": server + auth + more, "policies/p.toml": POLICY, "orders.yaml": OPENAPI}
        (folder / "key.txt").write_text("the-key-of-the-api")
        (folder / "key.txt").chmod(0o600)
        async with gateway_in(folder, files) as gateway:
            key = json.loads(run_command(folder, "key", "create", "bot", "--json").stdout)["key"]
            base = gateway.url.removesuffix("/mcp")
            async with httpx2.AsyncClient(base_url=base, headers={"Authorization": f"Bearer {key}"}) as client:
                yield api, gateway, client


def calls(folder: Path) -> list[dict[str, Any]]:
    said = run_command(folder, "log", "--json").stdout
    return [json.loads(line) for line in said.splitlines()]


@pytest.mark.slow
async def test_a_request_passes_with_the_apis_credential_and_none_of_the_agents_headers(tmp_path: Path) -> None:
    async with passing(tmp_path) as (api, _, client):
        canaries = {"Cookie": "a=canary", "X-Canary": "canary", "X-Forwarded-For": "6.6.6.6", "Accept-Language": "de"}
        answer = await client.get("/rest/orders/v1/orders/%37?a=1&b=%20x", headers=canaries)
        assert (answer.status_code, answer.json()) == (200, {"path": "/v1/orders/7"})
        (seen,) = api.seen
        assert (seen.path, seen.query) == ("/v1/orders/7", "a=1&b=%20x")
        assert seen.headers["authorization"] == "Bearer the-key-of-the-api"
        assert seen.headers["accept-language"] == "de"
        assert "canary" not in str(seen.headers)
        assert "mgw_" not in str(seen.headers)
        assert answer.headers["etag"] == '"7"'
        assert "canary" not in str(answer.headers)
        assert "the-key-of-the-api" not in str(answer.headers) + answer.text


@pytest.mark.slow
async def test_policy_judges_method_path_and_body_and_denied_looks_like_unknown(tmp_path: Path) -> None:
    async with passing(tmp_path) as (api, _, client):
        denied = await client.delete("/rest/orders/v1/orders/7")
        unknown = await client.get("/rest/nobody/v1/orders/7")
        small = await client.post("/task/write/rest/orders/v1/orders", json={"amount": 7})
        large = await client.post("/task/write/rest/orders/v1/orders", json={"amount": 700})
        opaque = await client.post("/task/write/rest/orders/v1/orders", content=b"amount=7")
        assert [each.status_code for each in (denied, unknown, small, large, opaque)] == [404, 404, 200, 404, 404]
        without_id = [{**each.json(), "request_id": ""} for each in (denied, unknown)]
        assert without_id[0] == without_id[1]
        assert [(seen.method, seen.body) for seen in api.seen] == [("POST", b'{"amount":7}')]
        rows = calls(tmp_path)
        assert {(row["name"], row["decision"]) for row in rows if row["kind"] == "route"} == {
            ("DELETE /v1/orders/7", "denied"),
            ("GET /v1/orders/7", "denied"),
            ("POST /v1/orders", "allowed"),
            ("POST /v1/orders", "denied"),
        }


@pytest.mark.slow
async def test_no_spelling_of_a_path_gets_around_the_policy(tmp_path: Path) -> None:
    async with passing(tmp_path) as (api, gateway, client):
        key = client.headers["authorization"]
        host, port = gateway.url.split("/")[2].split(":")
        for path in ("/v1/orders/../admin", "/v1/orders/%2e%2e/admin", "/v1/orders/..%2fadmin", "/v1//admin"):
            status = await anyio.to_thread.run_sync(raw_get, host, int(port), f"/rest/orders{path}", key)
            assert status in (400, 404), path
        assert api.seen == []


def raw_get(host: str, port: int, path: str, key: str) -> int:
    """What a client that tidies nothing up gets."""
    with socket.create_connection((host, port), 5) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: {key}\r\n\r\n".encode())
        return int(connection.recv(65536).split()[1])


@pytest.mark.slow
async def test_an_answer_is_relayed_as_it_is_errors_and_pieces_and_redirects_included(tmp_path: Path) -> None:
    async with passing(tmp_path) as (_, _, client):
        missing = await client.get("/rest/orders/v1/status/404")
        assert (missing.status_code, missing.json()["detail"]) == (404, "it says so")
        assert "x-gateway-error" not in missing.headers
        redirect = await client.get("/rest/orders/v1/status/302")
        assert (redirect.status_code, "location" in redirect.headers) == (302, False)
        assert (await client.get("/rest/orders/v1/stream")).text == "0\n1\n2\n"
        assert (await client.head("/rest/orders/v1/orders/7")).status_code == 200


@pytest.mark.slow
async def test_an_answer_without_end_breaks_off(tmp_path: Path) -> None:
    async with passing(tmp_path, "[gateway]\nmax_result_bytes = 1048576\n") as (_, _, client):
        with pytest.raises(httpx2.RemoteProtocolError):
            await client.get("/rest/orders/v1/huge")
        (row,) = [row for row in calls(tmp_path) if row["name"] == "GET /v1/huge"]
        assert row["outcome"] == "misbehaved"


@pytest.mark.slow
async def test_nobody_without_a_key_gets_anywhere(tmp_path: Path) -> None:
    async with passing(tmp_path) as (api, _, client):
        answer = await client.get("/rest/orders/v1/orders/7", headers={"Authorization": "Bearer wrong"})
        assert answer.status_code == 401
        assert api.seen == []
