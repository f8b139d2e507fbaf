"""Older and other endpoints of the OpenAI wire: passed on, judged, counted, priced only where that is known."""

from pathlib import Path
from typing import Any

import pytest

from fakes.model_gateway import MODELS, POLICY, ModelGateway, model_gateway
from fakes.providers import INPUT_TOKENS, OUTPUT_TOKENS, WORDS

IMAGES = ("/v1/images/generations", {"prompt": "a cat"})
COMPLETIONS = ("/v1/completions", {"prompt": "hello"})
MODERATIONS = ("/v1/moderations", {"input": "hello"})
PRICED = MODELS.replace("idle_timeout_s = 5", 'prices = {{ "gpt-5-mini" = {{ input = 1, output = 10 }} }}', 1)


async def asked(gateway: ModelGateway, endpoint: tuple[str, dict[str, Any]], **more: Any) -> Any:
    return await gateway.post(endpoint[0], {"model": "gpt-5-mini", **endpoint[1], **more})


@pytest.mark.parametrize("endpoint", [IMAGES, COMPLETIONS, MODERATIONS], ids=lambda endpoint: endpoint[0])
async def test_other_endpoints_walk_like_the_rest(tmp_path: Path, endpoint: tuple[str, dict[str, Any]]) -> None:
    async with model_gateway(tmp_path) as gateway:
        assert (await asked(gateway, endpoint)).status_code == 200
        assert gateway.first.seen[-1].path == endpoint[0]
        assert (await gateway.post(endpoint[0], {"model": "gpt-5", **endpoint[1]})).status_code == 404
        assert (await gateway.post(endpoint[0], endpoint[1])).status_code == 400, "what has no model cannot be judged"
        assert len(gateway.first.seen) == 1


async def test_a_completion_is_streamed_and_its_usage_known(tmp_path: Path) -> None:
    async with model_gateway(tmp_path) as gateway:
        answer = await asked(gateway, COMPLETIONS, stream=True)
        assert all(f'"text": "{word}"' in answer.text for word in WORDS)
        assert answer.text.endswith("data: [DONE]\n\n")
        assert "usage" not in answer.text, "the agent did not ask for it"
        [row] = await gateway.ended()
        assert (row["t_in"], row["t_out"], row["ended"]) == (INPUT_TOKENS, OUTPUT_TOKENS, "ok")
        assert row["usd"] > 0


async def test_an_image_is_priced_by_the_operator_or_not_at_all(tmp_path: Path) -> None:
    """The public prices are of text; a picture told without its tokens is not counted by its length."""
    async with model_gateway(tmp_path / "one") as gateway:
        await asked(gateway, IMAGES)
        gateway.first.habit = "no_usage"
        await asked(gateway, IMAGES)
        rows = await gateway.ended(2)
        assert [row["usd"] for row in rows] == [None, None]
        assert rows[1]["t_out"] < 10
    async with model_gateway(tmp_path / "two", models=PRICED) as gateway:
        await asked(gateway, IMAGES)
        gateway.first.habit = "no_usage"
        await asked(gateway, IMAGES)
        priced, unknown = [row["usd"] for row in await gateway.ended(2)]
        assert priced == pytest.approx((INPUT_TOKENS * 1 + OUTPUT_TOKENS * 10) / 1e6)
        assert unknown is None


async def test_money_is_not_spent_on_what_has_no_price(tmp_path: Path) -> None:
    policy = f'{POLICY}\n[budgets.one]\nper = "1d"\ncost = "5.00 USD"\n'
    async with model_gateway(tmp_path, policy=policy) as gateway:
        assert (await asked(gateway, IMAGES)).status_code == 429
        assert (await asked(gateway, COMPLETIONS)).status_code == 200
        assert len(gateway.first.seen) == 1
