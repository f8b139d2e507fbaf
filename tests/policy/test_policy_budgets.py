"""`[budgets.NAME]`: whose calls are counted together, and what a mistake is told as."""

import pytest

from mcp_gateway.domain import Allowance, Caller, Kind, Target
from mcp_gateway.errors import PolicyInvalid
from mcp_gateway.policy.compile import Policy, compile_policy
from mcp_gateway.policy.document import from_sources

MODEL = Target(Kind.MODEL, "models", "org/m", "org/m", {}, "")
TOOL = Target(Kind.TOOL, "crm", "get", "crm__get", {}, "")
CALLER = Caller("planner", "work", "ada")


def policy(toml: str) -> Policy:
    return compile_policy(from_sources({"a.toml": toml}))


def test_a_budget_counts_every_model_unless_it_says_what() -> None:
    found = policy('[budgets.b]\nper = "1d"\ntokens = 5\n')
    assert found.allowances(CALLER, MODEL) == [Allowance("b", "", 86_400, tokens=5)]
    assert found.allowances(CALLER, TOOL) == []
    others = policy('[budgets.b]\nper = "1h"\ncalls = 5\ntargets = ["crm/*", "model:models/org/*"]\n')
    assert len(others.allowances(CALLER, TOOL)) == len(others.allowances(CALLER, MODEL)) == 1


def test_those_named_in_by_have_one_each() -> None:
    found = policy('[budgets.b]\nper = "1d"\ncost = "1.50 USD"\nby = ["agent", "person", "task", "model"]\n')
    [allowance] = found.allowances(CALLER, MODEL)
    assert allowance.subject == "agent=planner\nperson=ada\ntask=work\nmodel=models/org/m"
    assert allowance.cost == 1_500_000


def test_a_policy_without_budgets_has_none_to_look_through() -> None:
    assert policy("").budgets == ()


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[budgets.b]\ntokens = 5", "'per' is missing"),
        ('[budgets.b]\nper = "1d"', "bounds nothing"),
        ('[budgets.b]\nper = "soon"\ntokens = 5', "cannot be the length"),
        ('[budgets.b]\nper = "1d"\ntokens = 0', "must be more than 0"),
        ('[budgets.b]\nper = "1d"\ncost = "5 EUR"', "a budget is in USD"),
        ('[budgets.b]\nper = "1d"\ncost = "much"', "is no cost"),
        ('[budgets.b]\nper = "1d"\ntokens = 5\nby = ["team"]', "'by' cannot be 'team'"),
        ('[budgets.b]\nper = "1d"\ntokens = 5\ntargets = ["x"]', "is not upstream/name"),
        ('[budgets.b]\nper = "1d"\ntokens = 5\nrenew = 1', "renew"),
        ('[budgets."a b"]\nper = "1d"\ntokens = 5', "cannot be the name"),
        ('[tasks.t.models]\nallow = ["m"]\nlimit = 5', "limit"),
        ('[tasks.t.models]\nallow = [""]', "model:models/"),
        ("[tasks.t]\nmodels = 5", "must be a table"),
    ],
)
def test_each_mistake_has_its_place(toml: str, message: str) -> None:
    with pytest.raises(PolicyInvalid, match=message) as raised:
        policy(toml)
    assert all(complaint.line >= 1 for complaint in raised.value.complaints)
