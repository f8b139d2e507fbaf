"""A proposal allows what was used and nothing the policy did not; what it leaves out, nobody used."""

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_replay import past, tool

from mcp_gateway.domain import PastDecision
from mcp_gateway.policy.compile import Policy, compile_policy
from mcp_gateway.policy.document import from_sources
from mcp_gateway.policy.replay import Report, replay
from mcp_gateway.policy.suggest import Evidence, Proposal, suggest

SOURCES = {
    "policies/agents.toml": '# who\n[agents.bot]\ntasks = ["work"]\n\n[agents.other]\ntasks = ["work", "rest"]\n',
    "policies/tasks.toml": """# what
[tasks.work]
purpose = "to be narrowed"
allow = ["crm/*", "mail/send"]   # wide

[[tasks.work.grant]]
tools = ["billing/*"]
when = 'args.amount <= 1000'   # the most there is

[[tasks.work.grant]]
tools = ["files/*"]

[[tasks.work.deny]]
tools = ["crm/drop"]

[tasks.rest]
allow = ["crm/*"]
""",
}
KEYS = ["crm/get", "crm/put", "crm/drop", "mail/send", "billing/refund", "files/read"]
TARGETS = {key: tool(key) for key in KEYS}


def compiled(sources: Any) -> Policy:
    return compile_policy(from_sources(sources))


def proposed(*rows: PastDecision, arguments: bool = True) -> Proposal:
    policy, evidence = compiled(SOURCES), Evidence(TARGETS)
    replay(policy, rows, TARGETS, evidence.hear)
    return suggest(policy, SOURCES, ["work"], evidence, arguments=arguments)


def refunds(amounts: list[int], currency: str = "EUR") -> list[PastDecision]:
    return [past("billing/refund", {"amount": amount, "currency": currency}) for amount in amounts]


def test_patterns_become_the_targets_that_were_used_and_unused_lines_go() -> None:
    proposal = proposed(past("crm/get", {}), past("billing/refund", {"amount": 5}))
    text = proposal.sources["policies/tasks.toml"]
    task = compiled(proposal.sources).tasks["work"]
    assert [[p.text for p in grant.patterns] for grant in task.grants] == [["crm/get"], ["billing/refund"]]
    assert proposal.unused == ("policies/tasks.toml:10 files/*", "policies/tasks.toml:4 mail/send")
    assert "# what" in text
    assert "[[tasks.work.deny]]" in text
    assert proposal.sources["policies/agents.toml"] == SOURCES["policies/agents.toml"]
    assert '[tasks.rest]\nallow = ["crm/*"]' in text


def test_plain_arguments_narrow_a_condition_and_the_old_one_stays() -> None:
    proposal = proposed(*refunds(list(range(10, 40))))
    [grant] = compiled(proposal.sources).tasks["work"].grants
    assert grant.condition is not None
    assert (
        grant.condition.text
        == '(args.amount <= 1000) && args.amount >= 10 && args.amount <= 39 && args.currency == "EUR"'
    )


def test_a_short_line_becomes_a_long_one_where_arguments_were_plain() -> None:
    rows = [past("mail/send", {"to": ["team", "boss"][n % 2], "body": f"text {n}"}) for n in range(30)]
    [grant] = compiled(proposed(*rows).sources).tasks["work"].grants
    assert grant.condition is not None
    assert grant.condition.text == 'args.to in ["boss", "team"]'


def test_an_argument_that_is_sometimes_missing_may_be_missing() -> None:
    rows = [past("mail/send", {"urgent": True} if n % 2 else {}) for n in range(60)]
    [grant] = compiled(proposed(*rows).sources).tasks["work"].grants
    assert grant.condition is not None
    assert grant.condition.text == "(!has(args.urgent) || args.urgent == true)"


@pytest.mark.parametrize(
    "rows",
    [
        refunds([1, 2, 3]),  # too few to say what is usual
        [past("mail/send", {"to": f"person {n}"}) for n in range(40)],  # too many words
        [past("mail/send", {"to": n if n % 2 else str(n)}) for n in range(40)],  # of several kinds
        [past("mail/send", {"to": ["a"]}) for _ in range(40)],  # no plain value
        [
            past("mail/send", {"to": "x"}, redactions=json.dumps([{"path": "$.to", "rule": "member"}]))
            for _ in range(40)
        ],
        [past("mail/send", None, args_sha256="x") for _ in range(40)],
    ],
)
def test_arguments_that_say_nothing_narrow_nothing(rows: list[PastDecision]) -> None:
    [grant] = compiled(proposed(*rows).sources).tasks["work"].grants
    assert (grant.condition.text if grant.condition else None) in (None, "args.amount <= 1000")


def test_tools_alone_can_be_narrowed() -> None:
    [grant] = compiled(proposed(*refunds(list(range(40))), arguments=False).sources).tasks["work"].grants
    assert grant.condition is not None
    assert grant.condition.text == "args.amount <= 1000"


def test_what_a_person_has_to_approve_beyond_a_limit_stays_with_the_limit() -> None:
    limited = """
[[tasks.pay.grant]]
tools = ["billing/*"]
limit = { calls = 5, per = "1h" }

[[tasks.pay.grant]]
tools = ["billing/*"]
approval = "person"
"""
    sources = {"policies/p.toml": f'[agents.bot]\ntasks = ["pay"]\n[tasks.pay]\nallow = ["crm/*"]\n{limited}'}
    policy, evidence = compiled(sources), Evidence(TARGETS)
    replay(policy, [past("billing/refund", {"amount": 5}, task="pay")], TARGETS, evidence.hear)
    proposal = suggest(policy, sources, ["pay"], evidence, arguments=False)
    grants = compiled(proposal.sources).tasks["pay"].grants
    assert [[pattern.text for pattern in grant.patterns] for grant in grants] == [["billing/refund"]] * 2
    assert all(grant.demands is not None for grant in grants)


def test_what_others_on_the_task_used_stays() -> None:
    proposal = proposed(past("crm/get", {}), past("crm/put", {}, agent="other"))
    [one, two] = compiled(proposal.sources).tasks["work"].grants
    assert {one.patterns[0].text, two.patterns[0].text} == {"crm/get", "crm/put"}


def test_what_the_policy_denies_by_now_is_not_made_room_for() -> None:
    assert compiled(proposed(past("crm/drop", {})).sources).tasks["work"].grants == ()


ARGS = st.fixed_dictionaries(
    {},
    optional={
        "amount": st.integers(-5, 1200) | st.floats(0, 10),
        "to": st.sampled_from(["a", "b"]),
        "x": st.none() | st.booleans(),
    },
)


def flips(report: Report) -> Counter[tuple[str, str]]:
    """How often each target comes out in another way by now; why may differ."""
    found = Counter[tuple[str, str]]()
    for change in report.changes:
        found[change.target, change.after] += change.count
    return found


ROWS = st.lists(st.builds(past, st.sampled_from(KEYS), ARGS), max_size=80)


@settings(max_examples=60)
@given(ROWS, st.lists(st.builds(past, st.sampled_from(KEYS), ARGS), max_size=30), st.integers(1, 30))
def test_nothing_that_was_used_flips_and_nothing_more_is_allowed(
    rows: list[PastDecision], others: list[PastDecision], times: int
) -> None:
    rows = rows * times
    before, narrower = compiled(SOURCES), compiled(proposed(*rows).sources)
    then, now = (replay(policy, rows, TARGETS) for policy in (before, narrower))
    assert flips(then) == flips(now)
    allowed = [[], []]
    for policy, heard in zip((before, narrower), allowed, strict=True):
        replay(policy, others, TARGETS, lambda row, said, heard=heard: heard.append(said.allowed))
    assert all(wide >= narrow for wide, narrow in zip(*allowed, strict=True))
