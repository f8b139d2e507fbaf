"""A cache in shadow through the whole gateway: every answer is the provider's, the audit has what would have been."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fakes.embedders import install
from fakes.model_gateway import MODELS, POLICY, ModelGateway, model_gateway
from mcp_gateway.cli.main import app

SHADOW = MODELS.replace(
    "[models.smart]\n", '[models.smart]\nsemantic_shadow = {{ embedder = "words", threshold = 0.97 }}\n'
)


async def ask(gateway: ModelGateway, question: str, **more: Any) -> str:
    body = {"model": "smart", "temperature": 0, "messages": [{"role": "user", "content": question}], **more}
    answer = await gateway.post("/v1/chat/completions", body)
    assert (answer.status_code, "x-gateway-cache" in answer.headers) == (200, False)
    return answer.headers["x-gateway-request-id"]


async def test_the_provider_answers_every_call_and_the_report_says_what_could_have_been_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "site", monkeypatch)
    async with model_gateway(tmp_path, models=SHADOW) as gateway:
        first = await ask(gateway, "what is the capital of France")
        await ask(gateway, "what is the capital of France?")
        await ask(gateway, "what is the capital of Italy")
        await ask(gateway, "what is the capital of France", temperature=1)
        await gateway.chat("gpt-5-mini")
        rows = await gateway.ended(5)
        assert len(gateway.first.seen) == 5
        assert all(row["t_in"] > 0 for row in rows)
    said = CliRunner().invoke(app, ["usage", "--caches", "--json", "--config", str(tmp_path / "servers.toml")])
    (row,) = [json.loads(line) for line in said.stdout.splitlines()]
    assert (row["target"], row["calls"]) == ("model models/smart", 4)
    assert (row["looked"], row["would_hit"], row["wrong"], row["hit"]) == (3, 1, 0, 0)
    shown = CliRunner().invoke(app, ["usage", "--caches", "--config", str(tmp_path / "servers.toml")])
    assert "would hit" in shown.stdout
    log = CliRunner().invoke(app, ["usage", "--by", "model", "--json", "--config", str(tmp_path / "servers.toml")])
    assert {json.loads(line)["cached"] for line in log.stdout.splitlines()} == {0}
    assert first


async def test_what_would_have_been_wrong_is_reported_as_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "site", monkeypatch)
    async with model_gateway(tmp_path, models=SHADOW) as gateway:
        await ask(gateway, "what is new")
        said = {"role": "assistant", "content": "something else entirely"}
        body = json.dumps({"choices": [{"index": 0, "message": said}], "usage": {"prompt_tokens": 1}}).encode()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        gateway.first.habit, gateway.first.raw = "raw", head + body
        await ask(gateway, "what is new?")
        await gateway.ended(2)
    said_of_it = CliRunner().invoke(app, ["usage", "--caches", "--json", "--config", str(tmp_path / "servers.toml")])
    row = json.loads(said_of_it.stdout)
    assert (row["would_hit"], row["wrong"]) == (1, 1)


async def test_nothing_is_kept_of_what_holds_personal_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "site", monkeypatch)
    async with model_gateway(tmp_path, models=SHADOW, policy=POLICY) as gateway:
        for question in ("who is ann@example.org", "use AKIAIOSFODNN7EXAMPLE"):
            await ask(gateway, question)
        await gateway.ended(2)
        assert len(gateway.parts.senders._shadow._past) == 0
