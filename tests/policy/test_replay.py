"""A replay says what `decide` would have said, and `unknown` where the audit does not hold enough to say it."""

import json
from typing import Any

from asking import call, caller
from hypothesis import given, settings
from hypothesis import strategies as st
from test_decide_properties import ARGS, TARGETS, compiled, denies, grants

from mcp_gateway.domain import Kind, PastDecision, Target, Verb
from mcp_gateway.policy.compile import Policy, compile_policy
from mcp_gateway.policy.document import from_sources
from mcp_gateway.policy.replay import Report, replay

AGENT = '[agents.bot]\ntasks = ["work"]\n[tasks.work]\n'


def policy(text: str) -> Policy:
    return compile_policy(from_sources({"a.toml": AGENT + text}))


def tool(key: str) -> Target:
    upstream, _, name = key.partition("/")
    return Target(Kind.TOOL, upstream, name, name, {}, "")


def past(key: str = "a/b", args: Any = None, effect: str = "allowed", **more: Any) -> PastDecision:
    row = {
        "seq": 1,
        "at": "2026-03-02T12:00:00.000Z",
        "verb": Verb.CALL.value,
        "agent": "bot",
        "task": "work",
        "person": None,
        "strength": "api-key",
        "upstream": key.partition("/")[0],
        "name": key.partition("/")[2],
        "target_hash": key,
        "effect": effect,
        "reason": "grant",
        "args": None if args is None else json.dumps(args),
        "args_sha256": None if args is None else "x",
        "redactions": None,
    }
    return PastDecision(**{**row, **more})


def judged(of: Policy, *rows: PastDecision) -> Report:
    return replay(of, rows, {row.target_hash or "": tool(row.target_hash or "") for row in rows})


def after(of: Policy, row: PastDecision) -> str:
    report = judged(of, row)
    return report.changes[0].after if report.changes else row.effect


def test_flips_are_counted_each_way_and_name_the_line_and_the_first_entry() -> None:
    report = judged(
        policy('allow = ["a/c"]\n'),
        past("a/b", seq=3),
        past("a/b", seq=4),
        past("a/c", effect="denied", reason="no_grant", seq=5),
        past("a/d", effect="denied", reason="no_grant"),
    )
    assert (report.judged, report.same, report.newly_allowed, report.newly_denied, report.flips) == (4, 1, 1, 2, 3)
    lost, won = report.changes
    assert (lost.target, lost.before, lost.after, lost.count, lost.first, lost.reason) == (
        "a/b", "allowed", "denied", 2, 3, "no_grant",
    )  # fmt: skip
    assert (won.target, won.at, won.first) == ("a/c", "a.toml:4", 5)
    assert report.used == {"a.toml:4": 1}


def test_what_no_policy_decides_is_skipped() -> None:
    strange = past(target_hash=None, effect="denied", reason="unknown_target")
    report = replay(
        policy('allow = ["a/b"]\n'), [strange, past(effect="denied", reason="held_back")], {"a/b": tool("a/b")}
    )
    assert (report.judged, report.skipped) == (0, 2)


AMOUNT = '[[tasks.work.grant]]\ntools = ["a/b"]\nwhen = "args.amount <= 10"\n'


def test_conditions_are_judged_by_the_arguments_of_then() -> None:
    assert after(policy(AMOUNT), past(args={"amount": 10})) == "allowed"
    assert after(policy(AMOUNT), past(args={"amount": 11})) == "denied"
    assert after(policy(AMOUNT), past(args={})) == "denied"


def test_true_is_not_one() -> None:
    lines = '[[tasks.work.grant]]\ntools = ["a/b"]\nwhen = "args.x == 1"\n'
    report = judged(policy(lines), past(args={"x": 1}), past(args={"x": True}), past(args={"x": 1.0}))
    assert (report.same, report.newly_denied) == (2, 1)


def test_a_redacted_argument_is_unknown_only_where_a_condition_reads_it() -> None:
    redacted = json.dumps([{"path": "$.amount", "rule": "member"}])
    other = json.dumps([{"path": "$.note.deep[0]", "rule": "bearer"}])
    everything = json.dumps([{"path": "$", "rule": "truncated"}])
    args = {"amount": 1, "note": "x"}
    assert after(policy(AMOUNT), past(args=args, redactions=redacted)) == "unknown"
    assert after(policy(AMOUNT), past(args=args, redactions=everything)) == "unknown"
    assert after(policy(AMOUNT), past(args=args, redactions=other)) == "allowed"
    assert after(policy('allow = ["a/b"]\n'), past(args=args, redactions=redacted)) == "allowed"


def test_arguments_that_were_not_kept_are_unknown_and_a_call_without_any_is_not() -> None:
    assert after(policy(AMOUNT), past(args=None, args_sha256="x")) == "unknown"
    assert after(policy(AMOUNT), past(args=None)) == "denied"


def test_what_is_unknown_but_cannot_matter_is_known() -> None:
    lines = '[[tasks.work.grant]]\ntools = ["a/b"]\nwhen = "agent.name == \'ops\' && args.amount <= 10"\n'
    assert after(policy(lines), past(args=None, args_sha256="x")) == "denied"


def test_claims_are_unknown_unless_the_identity_brings_none() -> None:
    lines = '[[tasks.work.grant]]\ntools = ["a/b"]\nwhen = "claims.limit > 5"\n'
    assert after(policy(lines), past(strength="api-key")) == "denied"
    assert after(policy(lines), past(strength="oauth")) == "unknown"


def test_the_era_is_not_kept_the_transport_is() -> None:
    era = '[[tasks.work.grant]]\ntools = ["a/b"]\nwhen = "request.era == \'modern\'"\n'
    transport = '[[tasks.work.grant]]\ntools = ["a/b"]\nwhen = "request.transport == \'stdio\'"\n'
    assert after(policy(era), past()) == "unknown"
    assert after(policy(transport), past(strength="stdio")) == "allowed"
    assert after(policy(transport), past(strength="api-key")) == "denied"


def test_the_time_is_that_of_the_entry() -> None:
    lines = '[[tasks.work.grant]]\ntools = ["a/b"]\nwhen = "now.getHours() < 13"\n'
    late = past(at="2026-03-02T14:00:00.000Z")
    assert (after(policy(lines), past()), after(policy(lines), late)) == ("allowed", "denied")


def test_a_completion_needs_no_arguments() -> None:
    assert after(policy(AMOUNT), past(verb=Verb.COMPLETE.value)) == "allowed"


def test_an_agent_the_candidate_does_not_know_gets_nothing() -> None:
    assert after(policy('allow = ["a/b"]\n'), past(agent="stranger")) == "denied"


@settings(max_examples=50)
@given(grants, denies, st.lists(st.sampled_from(ARGS), min_size=1, max_size=6))
def test_a_replay_of_what_is_known_says_what_decide_says(some: list[str], others: list[str], args: list[Any]) -> None:
    """Every row twice, so that what is remembered is asked too; the caller brings no claims."""
    candidate = compiled([*some, *others])
    rows = [past(key, each) for key in TARGETS for each in [*args, *args]]
    heard: list[tuple[str, str]] = []
    replay(candidate, rows, {key: tool(key) for key in TARGETS}, lambda row, said: heard.append((row.seq, said.effect)))
    expected = [call(candidate, key, each, caller()).effect for key in TARGETS for each in [*args, *args]]
    assert [effect for _, effect in heard] == expected


@settings(max_examples=50)
@given(grants, denies, st.sampled_from(ARGS))
def test_what_is_said_without_knowing_the_arguments_is_so_for_all(
    some: list[str], others: list[str], args: Any
) -> None:
    candidate = compiled([*some, *others])
    for key in TARGETS:
        said = after(candidate, past(key, None, args_sha256="x"))
        if said != "unknown":
            assert said == call(candidate, key, args, caller()).effect
