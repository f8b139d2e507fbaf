"""The door of the model wires: routes, who may come in, what is refused before anything is judged."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fakes.model_gateway import HELLO, ModelGateway, model_gateway
from mcp_gateway.frontdoor.models import ROUTE


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[ModelGateway]:
    async with model_gateway(tmp_path) as running:
        yield running


@pytest.mark.parametrize(
    ("path", "task"),
    [
        (b"/v1/chat/completions", None),
        (b"/task/answer-ticket/v1/messages", b"answer-ticket"),
        (b"/v1/models/org/model:tag", None),
    ],
)
def test_paths_that_are_ours(path: bytes, task: bytes | None) -> None:
    found = ROUTE.fullmatch(path)
    assert found is not None
    assert found["task"] == task


@pytest.mark.parametrize("path", [b"/v1", b"/v1/", b"/v2/x", b"/task//v1/x", b"/task/a/b/v1/x", b"/x/v1/y", b"/v1/a b"])
def test_paths_that_are_not(path: bytes) -> None:
    assert ROUTE.fullmatch(path) is None


async def test_without_models_none_of_it_exists(tmp_path: Path) -> None:
    async with model_gateway(tmp_path, models="", more="") as gateway:
        answer = await gateway.chat()
        assert (answer.status_code, answer.json()) == (404, {"error": "not found"})


async def test_bodies_are_json_and_bounded(gateway: ModelGateway) -> None:
    path, headers = f"{gateway.origin}/v1/chat/completions", {"authorization": f"Bearer {gateway.token()}"}
    plain = await gateway.http.post(path, content="{}", headers={**headers, "content-type": "text/plain"})
    assert plain.status_code == 415
    json_type = {**headers, "content-type": "application/json"}
    zipped = await gateway.http.post(path, content="{}", headers={**json_type, "content-encoding": "gzip"})
    assert zipped.status_code == 415
    large = json.dumps({"model": "gpt-5-mini", "messages": [{"role": "user", "content": "x" * 5_000_000}]})
    assert (await gateway.http.post(path, content=large, headers=json_type)).status_code == 413
    assert plain.json()["error"]["code"] == "gateway_bad_request"
    assert gateway.first.seen == []


async def test_a_browser_is_kept_out(gateway: ModelGateway) -> None:
    body = {"model": "gpt-5-mini", "messages": HELLO}
    assert (await gateway.post("/v1/chat/completions", body, origin="https://evil.example")).status_code == 403
    assert (await gateway.post("/v1/chat/completions", body, host="evil.example")).status_code == 421


async def test_a_malformed_body_of_a_known_agent_is_written_down(gateway: ModelGateway) -> None:
    assert (await gateway.post("/v1/messages", b"{")).status_code == 400
    with_shape = await gateway.post("/v1/messages", b"{")
    assert with_shape.json()["error"]["type"] == "invalid_request_error"


async def test_every_answer_names_the_request_in_the_audit(gateway: ModelGateway) -> None:
    good, denied = await gateway.chat(), await gateway.chat("gpt-5")
    ids = [row["request_id"] for row in gateway.rows()]
    assert [good.headers["x-gateway-request-id"], denied.headers["x-gateway-request-id"]] == ids


async def test_lists_hold_what_may_be_asked_for_and_are_written_down(gateway: ModelGateway) -> None:
    headers = {"authorization": f"Bearer {gateway.token('bob')}"}
    empty = await gateway.http.get(f"{gateway.origin}/v1/models", headers=headers)
    assert empty.json() == {"object": "list", "data": []}
    hidden = await gateway.http.get(f"{gateway.origin}/v1/models/gpt-5-mini", headers=headers)
    assert hidden.status_code == 404
    nobody = await gateway.http.get(f"{gateway.origin}/v1/models", headers={"anthropic-version": "2023-06-01"})
    assert (nobody.status_code, nobody.json()["error"]["type"]) == (401, "authentication_error")
    assert [row["agent"] for row in gateway.rows("list")] == ["bob", "bob"]
