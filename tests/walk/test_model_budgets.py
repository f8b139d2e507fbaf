"""Budgets hold under concurrency, over a restart, when agents hang up, and for models whose price nobody knows."""

import asyncio
import json
from datetime import timedelta
from pathlib import Path

import pytest

from fakes.model_gateway import HELLO, MODELS, POLICY, ModelGateway, model_gateway
from fakes.providers import INPUT_TOKENS, OUTPUT_TOKENS, provider
from fakes.waiting import until
from mcp_gateway.config.servers import load
from mcp_gateway.storage.budgets import BudgetStore
from mcp_gateway.wiring import utc_now

TOKENS = INPUT_TOKENS + OUTPUT_TOKENS
FAR = "31d"


def with_budget(**keys: str) -> str:
    """POLICY with one budget; values are TOML."""
    lines = "\n".join(f"{key} = {value}" for key, value in {"per": f'"{FAR}"', **keys}.items())
    return f"{POLICY}\n[budgets.one]\n{lines}\n"


async def spent(gateway: ModelGateway) -> tuple[int, int, int]:
    """Calls and tokens of the only budget, and how many calls are under way."""
    await asyncio.wrap_future(gateway.parts.budgets.flush())
    found = gateway.parts.budgets.store.spent(0)
    return (sum(s.calls for s in found), sum(s.tokens for s in found), sum(s.under_way for s in found))


async def test_fifty_at_once_never_take_more_than_the_budget_and_one_reservation(tmp_path: Path) -> None:
    """Over a restart too: what was spent before stays spent."""
    budget, reservation = 10 * TOKENS, 30 + 40
    policy = with_budget(tokens=str(budget), by='["agent"]')
    codes: list[int] = []
    async with provider() as first:
        for _ in range(2):
            async with model_gateway(tmp_path, policy=policy, first=first) as gateway:
                answers = await asyncio.gather(*(gateway.chat(max_tokens=30) for _ in range(50)))
                codes += [answer.status_code for answer in answers]
                calls, tokens, under_way = await spent(gateway)
                assert tokens <= budget + reservation
                assert (calls, under_way) == (codes.count(200), 0)
                refused = next(answer for answer in answers if answer.status_code == 429)
                assert refused.json()["error"]["code"] == "gateway_budget_exceeded"
                assert refused.headers["x-should-retry"] == "false"
                assert int(refused.headers["retry-after"]) > 0
    assert len(first.seen) == codes.count(200) > 1
    assert len(first.seen) * TOKENS <= budget + reservation


async def test_calls_that_come_one_after_another_get_the_whole_budget(tmp_path: Path) -> None:
    """What is set aside and not taken comes back."""
    async with model_gateway(tmp_path, policy=with_budget(tokens=str(10 * TOKENS))) as gateway:
        codes = [(await gateway.chat()).status_code for _ in range(12)]
    assert codes == [200] * 10 + [429] * 2


async def test_each_has_a_budget_of_its_own(tmp_path: Path) -> None:
    policy = POLICY.replace('tasks = ["rest"]\ndefault_task = "rest"', 'tasks = ["work"]\ndefault_task = "work"')
    policy += '\n[budgets.one]\nper = "1d"\ncalls = 1\nby = ["agent", "model"]\n'
    async with model_gateway(tmp_path, policy=policy) as gateway:
        asked = [("alice", "gpt-5-mini"), ("alice", "gpt-5-mini"), ("bob", "gpt-5-mini"), ("alice", "smart")]
        codes = [(await gateway.chat(model, agent)).status_code for agent, model in asked]
    assert codes == [200, 429, 200, 200]


async def test_only_so_many_at_once(tmp_path: Path) -> None:
    async with model_gateway(tmp_path, policy=with_budget(concurrent="2")) as gateway:
        gateway.first.habit = "hang"
        asking = [asyncio.ensure_future(gateway.chat()) for _ in range(6)]
        done, _ = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
        while len(done) < 4:
            more, _ = await asyncio.wait(set(asking) - done, return_when=asyncio.FIRST_COMPLETED)
            done |= more
        assert {task.result().status_code for task in done} == {429}
        gateway.first.release.set()
        assert [(await task).status_code for task in asking if task not in done] == [200, 200]
        assert (await gateway.chat()).status_code == 200


async def test_money_is_counted_in_money(tmp_path: Path) -> None:
    async with model_gateway(tmp_path, policy=with_budget(cost='"0.0001 USD"')) as gateway:
        codes = [(await gateway.chat(max_tokens=5)).status_code for _ in range(12)]
        rows = await gateway.ended(12)
    assert codes.count(200) == 6  # gpt-5-mini: 20 in (4 of them cached) and 7 out are 18.1 millionths, rounded up
    assert 0.0001 <= sum(row["usd"] or 0 for row in rows) <= 0.00013


async def test_a_model_without_a_price_is_not_free(tmp_path: Path) -> None:
    async with model_gateway(tmp_path, policy=with_budget(cost='"5 USD"')) as gateway:
        answer = await gateway.chat("secondhand")
        assert answer.status_code == 429
        assert "price" in answer.text
        assert gateway.spare.seen == []
    async with model_gateway(tmp_path / "uncounted", policy=with_budget(tokens="100")) as gateway:
        assert (await gateway.chat("secondhand", max_tokens=5)).status_code == 200
        [row] = await gateway.ended()
        assert row["usd"] is None


async def test_an_operator_s_price_beats_what_is_known(tmp_path: Path) -> None:
    models = MODELS.replace('"free-1" = {{ input = 0, output = 0 }}', '"unheard-of-1" = {{ input = 1e6, output = 2 }}')
    async with model_gateway(tmp_path, models=models) as gateway:
        assert (await gateway.chat("secondhand")).status_code == 200
        [row] = await gateway.ended()
        assert row["usd"] == pytest.approx(INPUT_TOKENS + OUTPUT_TOKENS * 2e-6)


async def test_a_hang_up_is_charged(tmp_path: Path) -> None:
    async with model_gateway(tmp_path, policy=with_budget(tokens="1_000_000")) as gateway:
        gateway.first.habit = "pause"
        content = json.dumps({"model": "gpt-5-mini", "messages": HELLO, "stream": True})
        headers = {"authorization": f"Bearer {gateway.token()}", "content-type": "application/json"}
        url = f"{gateway.origin}/v1/chat/completions"
        async with gateway.http.stream("POST", url, content=content, headers=headers) as answer:
            async for _ in answer.aiter_raw():
                break
        await gateway.ended()
        calls, tokens, under_way = await spent(gateway)
    assert (calls, under_way) == (1, 0)
    assert 0 < tokens < 1000


@pytest.mark.parametrize(("habit", "is_charged"), [("status:400", False), ("status:500", False), ("html", False)])
async def test_what_failed_at_the_provider_costs_a_call_and_no_tokens(
    tmp_path: Path, habit: str, is_charged: bool
) -> None:
    async with model_gateway(tmp_path, policy=with_budget(tokens="1_000_000")) as gateway:
        gateway.first.habit = habit
        assert (await gateway.chat()).status_code >= 400
        calls, tokens, _ = await spent(gateway)
    assert (calls, tokens > 0) == (1, is_charged)


async def test_budgets_count_other_targets_too(tmp_path: Path) -> None:
    """Tools have no tokens, and are counted by the same rule."""
    policy = with_budget(calls="1", targets='["*", "model:**"]')
    async with model_gateway(tmp_path, policy=policy) as gateway:
        assert [(await gateway.chat()).status_code for _ in range(2)] == [200, 429]


async def test_what_a_dead_process_had_set_aside_counts_as_spent(tmp_path: Path) -> None:
    async with model_gateway(tmp_path, policy=with_budget(tokens="100")) as gateway:
        gateway.first.habit = "hang"
        asking = asyncio.ensure_future(gateway.chat(max_tokens=90))
        while not gateway.first.seen:
            await asyncio.sleep(0.01)
        other = BudgetStore(load(tmp_path / "servers.toml", {}).settings.state)
        [held] = other.spent(0)
        other.close()
        assert (held.calls, held.under_way) == (1, 1)
        assert held.tokens >= 90
        gateway.first.release.set()
        assert (await asking).status_code == 200


async def test_a_started_task_pays_for_its_models_too(tmp_path: Path) -> None:
    """Set aside before, settled with what was taken; what nobody can price is refused where money is counted."""
    for limit, model, codes in (
        (f"tokens = {3 * TOKENS}", "gpt-5-mini", [200, 200, 429]),
        ('cost = "5 USD"', "secondhand", [429]),
        ('cost = "5 USD"', "gpt-5-mini", [200]),
    ):
        policy = POLICY.replace(
            "[tasks.work.models]", f'[tasks.work]\nttl = "2h"\nlimit = {{ {limit} }}\n[tasks.work.models]'
        )
        async with model_gateway(tmp_path / f"{limit[:4]}{model}", policy=policy) as gateway:
            token, _ = gateway.tasks.start("alice", "work", timedelta(hours=1), utc_now())
            body = {"model": model, "messages": HELLO, "max_tokens": 5}
            answers = [await gateway.post("/v1/chat/completions", body, mcp_gateway_task=token) for _ in codes]
            assert [answer.status_code for answer in answers] == codes


async def test_a_grant_s_limit_holds_for_models(tmp_path: Path) -> None:
    grant = '\n[[tasks.work.grant]]\ntools = ["model:models/gpt-5"]\nlimit = { calls = 2, per = "1h" }\n'
    async with model_gateway(tmp_path, policy=POLICY + grant) as gateway:
        assert [(await gateway.chat("gpt-5")).status_code for _ in range(3)] == [200, 200, 429]
        assert [row["reason"] for row in gateway.rows()][-1] == "limit_reached"


async def test_what_a_provider_does_by_itself_cannot_be_counted_and_so_not_limited(tmp_path: Path) -> None:
    grant = '\n[[tasks.work.grant]]\ntools = ["model:provider-tools/*"]\nlimit = { calls = 2, per = "1h" }\n'
    async with model_gateway(tmp_path, policy=POLICY + grant) as gateway:
        assert (await gateway.chat(tools=[{"type": "web_search"}])).status_code == 403
        assert gateway.first.seen == []


async def test_agents_are_told_what_is_left_of_their_own(tmp_path: Path) -> None:
    """With answers, streams and refusals; not of what is shared with others."""
    shared = '\n[budgets.shared]\nper = "1d"\ntokens = 100_000\n'
    async with model_gateway(tmp_path, policy=with_budget(tokens="100", by='["agent"]') + shared) as gateway:
        answers = [await gateway.chat(max_tokens=5) for _ in range(2)] + [await gateway.chat(max_tokens=5, stream=True)]
        left = [answer.headers["ratelimit"].split(";")[1] for answer in answers]
        assert left[:2] == [f"r={100 - TOKENS}", f"r={100 - 2 * TOKENS}"]
        assert answers[2].headers["ratelimit-policy"] == f'"one-tokens";q=100;qu="tokens";w={31 * 86_400}'
        assert (await gateway.chat()).status_code == 200
        refused = await gateway.chat()
        assert refused.status_code == 429
        assert refused.headers["ratelimit"].startswith('"one-tokens";r=0;t=')
        assert abs(int(refused.headers["ratelimit"].split("t=")[1]) - int(refused.headers["retry-after"])) <= 1
        assert "ratelimit" not in (await gateway.chat("gpt-5")).headers, "nobody is told of what they may not use"


async def test_operators_are_told_once_when_a_budget_is_nearly_used_up(tmp_path: Path) -> None:
    """Once for a window, over a restart too."""
    policy = with_budget(tokens=str(10 * TOKENS), by='["agent"]', alert_at="0.5")
    notes: list[int] = []
    async with provider() as first:
        for calls in (4, 4, 1):
            async with model_gateway(tmp_path, policy=policy, first=first) as gateway:
                for _ in range(calls):
                    await gateway.chat(max_tokens=5)
                await spent(gateway)
                await asyncio.sleep(0)
                await until(lambda: not gateway.parts._noting)
                notes.append(len(gateway.rows_of("budget")))
    assert notes == [0, 1, 1]


async def test_an_answer_that_a_guard_blocked_is_paid_for(tmp_path: Path) -> None:
    guard = '\n[[guard]]\nfind = ["personal-data"]\nin = ["results"]\nthen = "block"\n'
    async with model_gateway(tmp_path, policy=with_budget(tokens="100") + guard) as gateway:
        tool = {"type": "function", "function": {"name": "mail", "parameters": {}}}
        gateway.first.arguments = '{"to":"jane.doe@example.com"}'
        assert (await gateway.chat(tools=[tool])).status_code == 403
        assert await spent(gateway) == (1, TOKENS, 0)
        assert [(row["ended"], row["t_in"]) for row in await gateway.ended()] == [("blocked", INPUT_TOKENS)]
