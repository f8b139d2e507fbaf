"""Limits, order, approvals, budgets and flows as they are written: read whole, complained about with their line."""

from __future__ import annotations

import pytest

from mcp_gateway.domain import Budget
from mcp_gateway.errors import PolicyInvalid
from mcp_gateway.policy.demands import tightest, told
from mcp_gateway.policy.document import PolicyDocument, from_sources

GRANT = "[agents.bot]\ntasks = ['t']\n[tasks.t]\n[[tasks.t.grant]]\ntools = ['a/b']\n"
TASK = "[agents.bot]\ntasks = ['t']\n[tasks.t]\n"


def read(text: str) -> PolicyDocument:
    return from_sources({"a.toml": text})


def complaints(text: str) -> list[str]:
    with pytest.raises(PolicyInvalid) as caught:
        read(text)
    return [str(complaint) for complaint in caught.value.complaints]


def test_what_a_grant_demands_is_read() -> None:
    text = GRANT + (
        "limit = { calls = 5, per = '1h', sum = 'args.amount', at_most = 500.5 }\n"
        "after = { tool = 'crm/get_*', within = '30m', same = ['id'] }\napproval = 'person'\n"
    )
    [grant] = read(text).tasks["t"].grants
    demands = grant.demands
    assert demands is not None
    assert demands.limit is not None
    assert demands.after is not None
    assert (demands.limit.per_s, demands.limit.calls, demands.limit.at_most) == (3600, 5, 500_500_000)
    assert (demands.after.pattern.text, demands.after.within_s, demands.after.same) == (
        "crm/get_*",
        1800,
        (("id", "id"),),
    )
    assert demands.approval == "person"
    assert told(demands) == (
        "at most 5 calls within 3600 s",
        "at most 500.5 of args.amount within 3600 s",
        "crm/get_* with the same id within 1800 s before",
        "a person's approval",
    )


def test_a_grant_that_demands_nothing_has_no_demands() -> None:
    [grant] = read(GRANT).tasks["t"].grants
    assert grant.demands is None


def test_a_task_has_its_life_and_its_budget() -> None:
    text = TASK + (
        "ttl = '2h'\ncontext = ['customer']\n"
        "limit = { calls = 200, tokens = 50_000, cost = '1.50 USD', concurrent = 4, bytes = 1000 }\n"
    )
    task = read(text).tasks["t"]
    assert (task.ttl_s, task.context) == (7200, {"customer"})
    assert task.budget == Budget(200, 4, 1000, 50_000, 1_500_000, "USD")
    assert task.has_to_be_started


@pytest.mark.parametrize("key", ["ttl = '2h'", "context = ['x']", "limit = { calls = 1 }"])
def test_what_ends_or_is_used_up_has_to_be_started(key: str) -> None:
    assert read(f"{TASK}{key}\n").tasks["t"].has_to_be_started
    assert not read(TASK).tasks["t"].has_to_be_started


def test_flows_are_read_for_one_task_and_for_all() -> None:
    flow = "once = ['reads-private']\nno_more = ['sends-outside']\n"
    document = read(f"{TASK}[[tasks.t.flow]]\n{flow}approval = 'person'\n[[flow]]\n{flow}reason = 'no'\n")
    [own], [everybodys] = document.tasks["t"].flows, document.flows
    assert (own.once, own.no_more, own.approval) == ({"reads-private"}, {"sends-outside"}, "person")
    assert (everybodys.approval, everybodys.reason, str(everybodys.at)) == ("", "no", "a.toml:8")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (GRANT + "limit = { calls = 5 }\n", "a.toml:6: 'per' is missing (write per = \"1h\")"),
        (GRANT + "limit = { per = '1h' }\n", "a.toml:6: 'limit' bounds nothing"),
        (GRANT + "limit = { calls = 0, per = '1h' }\n", "a.toml:6: 'calls' must be more than 0"),
        (GRANT + "limit = { calls = true, per = '1h' }\n", "a.toml:6: 'calls' must be a whole number"),
        (GRANT + "limit = { calls = 5, per = 'often' }\n", "a.toml:6: 'often' cannot be the length of 'per'"),
        (GRANT + "limit = { calls = 5, per = '9w' }\n", "at most 31 days"),
        (GRANT + "limit = { cals = 5, per = '1h' }\n", "a.toml:6: unknown key 'cals' (did you mean 'calls'?)"),
        (GRANT + "limit = { sum = 'args.a', per = '1h' }\n", "'sum' and 'at_most' need each other"),
        (GRANT + "limit = { sum = 'arg.a', at_most = 5, per = '1h' }\n", "unknown name 'arg' (did you mean 'args'?)"),
        (GRANT + "limit = { sum = 'args.a', at_most = -5, per = '1h' }\n", "'at_most' must be a number"),
        (GRANT + "after = { tool = 'a/c' }\n", "'within' is missing"),
        (GRANT + "after = { tool = '*', within = '1h' }\n", "a.toml:6: "),
        (GRANT + "after = { tool = 'a/c', within = '1h', same = 'x' }\n", "'same' must be names of arguments"),
        (GRANT + "after = { tool = 'a/c', within = '1h', same = [1] }\n", "'same' must be names of arguments"),
        (GRANT + "approval = 'anybody'\n", "'approval' cannot be 'anybody' (write approval = \"person\""),
        (TASK + "limit = { cost = '1.50' }\n", "'1.50' is no cost"),
        (TASK + "limit = { hours = 5 }\n", "unknown key 'hours'"),
        (TASK + "ttl = 5\n", "'ttl' must be a text"),
        (TASK + "context = ['name']\n", "'name' cannot be the name of something in 'context'"),
        (TASK + "context = ['a b']\n", "'a b' cannot be the name"),
        (GRANT + "when = 'task.customer == 1'\n", "this task has no 'customer' in its context"),
        (TASK + "[[tasks.t.flow]]\nonce = ['x']\n", "'no_more' is missing"),
        ("[[flow]]\nonce = []\nno_more = ['x']\n", "'once' is empty"),
        ("[[flow]]\nonce = ['x']\nno_more = ['y']\nthen = 1\n", "unknown key 'then'"),
    ],
)
def test_what_cannot_be_meant_is_complained_about(text: str, complaint: str) -> None:
    assert any(complaint in found for found in complaints(text)), complaints(text)


def test_a_misspelt_part_of_the_context_is_named_with_its_fix() -> None:
    text = "[agents.b]\ntasks=['t']\n[tasks.t]\ncontext = ['customer']\n[[tasks.t.grant]]\ntools = ['a/b']\n"
    assert any("did you mean 'customer'?" in each for each in complaints(text + "when = 'task.custmer == 1'\n"))
    assert read(text + "when = 'task.customer == 1 && task.name == task.id'\n")


def test_the_tighter_bound_counts_and_two_currencies_leave_nothing() -> None:
    one, other = Budget(calls=5, tokens=10, cost=7, currency="USD"), Budget(calls=3, bytes=2, cost=9, currency="USD")
    assert tightest(one, other) == Budget(calls=3, tokens=10, bytes=2, cost=7, currency="USD")
    assert tightest(one, Budget(cost=9, currency="EUR")).cost == 0
    assert tightest(Budget(), Budget()) == Budget()
