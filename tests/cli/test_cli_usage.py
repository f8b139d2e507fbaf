"""`mcp-gateway usage`: what the audit and the budgets say was used."""

import json
from pathlib import Path
from typing import Any

import anyio
import pytest
from typer.testing import CliRunner

from fakes.model_gateway import MODELS, POLICY, model_gateway
from fakes.providers import INPUT_TOKENS, OUTPUT_TOKENS
from mcp_gateway.audit.query import USAGE_BY
from mcp_gateway.cli.main import app
from mcp_gateway.cli.usage import By


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gateway that has served some calls: two of one model, one without a price, one denied."""
    where = tmp_path_factory.mktemp("usage")

    async def use() -> None:
        policy = f'{POLICY}\n[budgets.daily]\nper = "1d"\ntokens = 1000\nby = ["agent"]\n'
        async with model_gateway(where, policy=policy) as gateway:
            for model in ("gpt-5-mini", "gpt-5-mini", "secondhand", "gpt-5"):
                await gateway.chat(model)
            await gateway.ended(4)

    anyio.run(use)
    return where


def printed(folder: Path, *words: str) -> str:
    done = CliRunner().invoke(app, ["usage", "--config", str(folder / "servers.toml"), *words])
    assert done.exit_code == 0, done.output
    return done.stdout


def rows(folder: Path, *words: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in printed(folder, *words, "--json").splitlines()]


def test_tokens_and_cost_by_model(folder: Path) -> None:
    found = {row["model"]: row for row in rows(folder, "--by", "model")}
    paid = found["gpt-5-mini"]
    assert (paid["calls"], paid["tokens_in"], paid["tokens_out"]) == (2, 2 * INPUT_TOKENS, 2 * OUTPUT_TOKENS)
    assert paid["cost"] > 0
    assert (found["secondhand"]["cost"], found["secondhand"]["unpriced"]) == (None, 1)
    assert (found["gpt-5"]["denied"], found["gpt-5"]["tokens_in"]) == (1, None)


def test_by_agent_and_task_together(folder: Path) -> None:
    [row] = rows(folder, "--by", "agent", "--by", "task")
    assert (row["agent"], row["task"], row["calls"], row["denied"], row["unpriced"]) == ("alice", "work", 4, 1, 1)


def test_people_are_shown_what_has_no_price(folder: Path) -> None:
    said = printed(folder, "--by", "model")
    assert "1 unpriced" in said
    assert "0.000036" in said


def test_nothing_is_nothing(folder: Path) -> None:
    assert printed(folder, "--by", "tool").strip() == "nothing was used"


def test_what_was_taken_out_of_budgets(folder: Path) -> None:
    [row] = rows(folder, "--budgets")
    assert (row["budget"], row["whose"], row["calls"]) == ("daily", "agent=alice", 3)
    assert row["tokens"] == 3 * (INPUT_TOKENS + OUTPUT_TOKENS)
    assert "agent=alice" in printed(folder, "--budgets", "--since", "2d")


def test_every_word_is_one_the_audit_can_tell_by(folder: Path) -> None:
    assert {word.value for word in By} == set(USAGE_BY)
    for word in By:
        rows(folder, "--by", word.value)


def test_why_tells_of_models_before_and_after_a_call(folder: Path) -> None:
    """The decision that would be made, and the one that was, under the line that made it."""

    def why(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["why", *words, "--config", str(folder / "servers.toml")])
        return done.exit_code, done.stdout

    code, said = why("alice", "model:models/gpt-5-mini")
    assert code == 0
    assert "allowed (grant) by policies/agents.toml" in said
    assert why("alice", "model:models/gpt-5")[0] == 1
    assert why("alice", "model:models/nobody-has-this")[0] == 1
    assert why("alice", "model:provider-tools/web_search")[0] == 1
    code, said = why("2")
    assert code == 0
    assert "gpt-5-mini" in said
    assert "matches" in said


def test_check_knows_models(folder: Path) -> None:
    done = CliRunner().invoke(app, ["check", "--config", str(folder / "servers.toml")])
    assert "7 models" in done.stdout
    assert "no server is named" not in done.output


def test_what_a_cache_has_answered_is_counted_and_shown_where_there_is_any(folder: Path, tmp_path: Path) -> None:
    assert "cached" not in printed(folder, "--by", "model")
    models = MODELS.replace("[models.smart]\n", "[models.smart]\ncache_s = 60\n")

    async def use() -> None:
        async with model_gateway(tmp_path, models=models) as gateway:
            for model in ("smart", "smart", "smart", "gpt-5-mini"):
                await gateway.chat(model)
            await gateway.ended(4)

    anyio.run(use)
    found = {row["model"]: row for row in rows(tmp_path, "--by", "model")}
    smart, other = found["smart"], found["gpt-5-mini"]
    assert (smart["calls"], smart["cached"], smart["tokens_in"], smart["unpriced"]) == (3, 2, INPUT_TOKENS, 0)
    assert (other["cached"], other["cost"]) == (0, smart["cost"])
    assert "cached" in printed(tmp_path, "--by", "model")
