"""What calls still have to meet: pure values, the same however a policy is written down."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from asking import NOON, caller, policy_of, request, target
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_gateway.domain import Budget, Caller, Decision, Effect, Reason, StartedTask, Verb
from mcp_gateway.policy.compile import Policy, compile_policy
from mcp_gateway.policy.decide import decide
from mcp_gateway.policy.document import from_sources
from mcp_gateway.policy.terms import scope_id

LIMITED = "[[tasks.work.grant]]\ntools = ['a/b']\nlimit = { calls = 5, per = '1h' }\n"
PERSON = "[[tasks.work.grant]]\ntools = ['a/b']\napproval = 'person'\n"


def ask(
    policy: Policy, key: str = "a/b", args: Any = None, verb: Verb = Verb.CALL, who: Caller | None = None, *tags: str
) -> Decision:
    asked = request(verb, None if verb is Verb.LIST else args or {})
    return decide(policy, who or caller(), asked, target(key, tags=tags), NOON)


def on(context: dict[str, Any] | None = None, **more: Any) -> Caller:
    """A caller on a started task."""
    started = StartedTask("abc", "bot", "work", NOON + timedelta(hours=1), context or {})
    return replace(caller(), started=replace(started, **more))


def test_a_call_without_demands_has_no_terms() -> None:
    policy = policy_of(f"allow = ['a/c']\n{LIMITED}")
    assert ask(policy, "a/c").terms is None
    assert ask(policy_of("allow = ['a/b']\n")).terms is None


def test_a_grant_that_demands_nothing_comes_first_wherever_it_stands() -> None:
    assert ask(policy_of(f"{LIMITED}[[tasks.work.grant]]\ntools = ['a/*']\n")).terms is None


def test_offers_without_a_person_come_first() -> None:
    terms = ask(policy_of(PERSON + LIMITED)).terms
    assert terms is not None
    assert [offer.needs_approval for offer in terms.offers] == [False, True]


def test_a_grant_whose_condition_does_not_hold_offers_nothing() -> None:
    policy = policy_of(PERSON + LIMITED + "when = 'args.n < 5'\n")
    small, large = ask(policy, args={"n": 1}).terms, ask(policy, args={"n": 9}).terms
    assert small is not None
    assert large is not None
    assert (len(small.offers), len(large.offers)) == (2, 1)


@pytest.mark.parametrize("verb", [Verb.LIST, Verb.COMPLETE, Verb.SUBSCRIBE, Verb.TASK_GET, Verb.TASK_CANCEL])
def test_only_uses_are_counted(verb: Verb) -> None:
    decision = ask(policy_of(LIMITED), verb=verb)
    assert decision.allowed
    assert decision.terms is None


def test_a_later_round_of_a_call_is_not_counted_again() -> None:
    asked = replace(request(Verb.CALL, {}), inputs={})
    assert decide(policy_of(LIMITED), caller(), asked, target("a/b"), NOON).terms is None


def window_key(policy: Policy, who: Caller | None = None, args: Any = None) -> str:
    terms = ask(policy, who=who, args=args).terms
    assert terms is not None
    assert terms.offers[0].window is not None
    return terms.offers[0].window.key


def test_what_is_counted_together_is_one_grant_one_agent_one_person() -> None:
    key = window_key(policy_of(LIMITED))
    assert window_key(policy_of(f"purpose = 'further down'\n{PERSON}{LIMITED}")) == key
    assert window_key(policy_of(LIMITED.replace("5", "6"))) == key  # raising a limit forgets nothing
    assert window_key(policy_of(LIMITED), on()) == key  # nor does another started task
    assert window_key(policy_of(LIMITED), caller(person="carol")) != key
    assert window_key(policy_of(LIMITED.replace("['a/b']", "['a/b', 'a/c']"))) != key


@pytest.mark.parametrize("n", ["1", -1, None, [], True, 1e13])
def test_an_amount_that_cannot_be_counted_fails_closed(n: Any) -> None:
    policy = policy_of(LIMITED.replace("calls = 5", "sum = 'args.n', at_most = 9"))
    assert ask(policy, args={"n": 9}).allowed
    assert ask(policy, args={"n": n}).reason is Reason.CONDITION_UNEVALUABLE
    assert ask(policy, verb=Verb.LIST).visible


def marks_of(policy: Policy, key: str, args: dict[str, Any]) -> tuple[str, ...]:
    terms = ask(policy, key, args).terms
    return () if terms is None else terms.marks


def test_a_mark_fits_the_call_that_waits_for_it_by_value() -> None:
    after = "[[tasks.work.grant]]\ntools = ['a/b']\nafter = { tool = 'a/get_*', within = '1h', same = { o = 'id' } }\n"
    policy = policy_of(f"allow = ['a/get_x', 'a/put']\n{after}")
    terms = ask(policy, args={"o": 7}).terms
    assert terms is not None
    assert terms.offers[0].after is not None
    wanted = terms.offers[0].after.mark
    assert marks_of(policy, "a/get_x", {"id": 7, "more": 1}) == (wanted,)
    assert marks_of(policy, "a/get_x", {"id": 7.0}) == (wanted,)
    assert marks_of(policy, "a/get_x", {"id": "7"}) != (wanted,)
    assert marks_of(policy, "a/get_x", {}) == ()
    assert marks_of(policy, "a/put", {"id": 7}) == ()


FLOW = """
allow = ['a/*']
[[tasks.work.flow]]
once = ['private', 'untrusted']
no_more = ['sends']
"""


def test_a_flow_bears_on_what_sends_and_is_fed_by_what_reads() -> None:
    policy = policy_of(FLOW)
    reads, sends = (ask(policy, "a/b", None, Verb.CALL, None, tag).terms for tag in ("private", "sends"))
    assert reads is not None
    assert sends is not None
    assert (reads.reads, reads.flows) == ({"private"}, ())
    assert (sends.reads, [flow.once for flow in sends.flows]) == (frozenset(), [{"private", "untrusted"}])
    assert ask(policy, "a/b", None, Verb.CALL, None, "other").terms is None


def test_a_targets_own_tags_count_as_read() -> None:
    terms = ask(policy_of(FLOW), "a/b", None, Verb.CALL, None, "private", "sends").terms
    assert terms is not None
    assert [flow.once for flow in terms.flows] == [{"untrusted"}]


@pytest.mark.parametrize("verb", list(Verb))
def test_what_does_all_of_it_by_itself_is_denied_and_not_even_listed(verb: Verb) -> None:
    decision = ask(policy_of(FLOW), "a/b", None, verb, None, "private", "untrusted", "sends")
    assert (decision.effect, decision.reason) == (Effect.DENIED, Reason.FLOW)


def test_with_approval_it_is_listed_and_waits() -> None:
    policy = policy_of(f"{FLOW}approval = 'person'\n")
    tags = ("private", "untrusted", "sends")
    assert ask(policy, "a/b", None, Verb.LIST, None, *tags).visible
    terms = ask(policy, "a/b", None, Verb.CALL, None, *tags).terms
    assert terms is not None
    assert [(flow.once, flow.needs_approval) for flow in terms.flows] == [(frozenset(), True)]


def test_a_completion_sends_too_and_cannot_wait_for_a_person() -> None:
    terms = ask(policy_of(f"{FLOW}approval = 'person'\n"), "a/b", None, Verb.COMPLETE, None, "sends").terms
    assert terms is not None
    assert [flow.needs_approval for flow in terms.flows] == [False]


def test_the_state_is_the_started_tasks_or_else_the_agents_on_its_task() -> None:
    assert scope_id(on()) == "abc"
    scopes = [caller(), caller(agent="other"), caller(task="rest"), caller(person="carol"), on()]
    assert len({scope_id(who) for who in scopes}) == 5


STARTED = "ttl = '2h'\ncontext = ['customer']\nallow = ['a/c']\n[[tasks.work.grant]]\ntools = ['a/b']\n"
STARTED += "when = 'task.customer == args.customer && task.id == \"abc\"'\n"


def test_a_started_task_is_judged_by_its_own_context_and_time() -> None:
    policy = policy_of(STARTED)
    assert ask(policy, args={"customer": 1}, who=on({"customer": 1})).allowed
    assert not ask(policy, args={"customer": 2}, who=on({"customer": 1})).allowed
    assert ask(policy, "a/c").reason is Reason.TASK_NOT_STARTED
    assert ask(policy, "a/c", who=on({"customer": 1}, expires=NOON)).reason is Reason.TASK_OVER
    assert ask(policy, "a/c", who=on({"customer": 1}, agent="other")).reason is Reason.TASK_OVER
    assert ask(policy, "a/c", who=on({"customer": 1}, task="rest")).reason is Reason.TASK_OVER


def test_a_context_cannot_pass_for_what_every_task_has() -> None:
    policy = policy_of("[[tasks.work.grant]]\ntools = ['a/b']\nwhen = 'task.name == \"other\" || task.id == \"x\"'\n")
    assert not ask(policy, who=on({"name": "other", "id": "x"})).allowed


def test_the_budget_is_the_tighter_one() -> None:
    policy = policy_of("allow = ['a/b']\nlimit = { calls = 5 }\n")
    terms = ask(policy, who=on(budget=Budget(calls=9, bytes=3))).terms
    assert terms is not None
    assert terms.budget == Budget(calls=5, bytes=3)


GRANTS = st.lists(
    st.sampled_from([LIMITED, PERSON, LIMITED + "when = 'args.n == 1'\n", "[[tasks.work.grant]]\ntools = ['a/*']\n"]),
    max_size=3,
)
FLOWS = st.lists(
    st.builds(
        "[[tasks.work.flow]]\nonce = {}\nno_more = {}\n{}".format,
        st.lists(st.sampled_from(["p", "u"]), min_size=1, unique=True),
        st.just(["s"]),
        st.sampled_from(["", "approval = 'person'\n"]),
    ),
    max_size=2,
)
TAGS = [tags for size in range(4) for tags in itertools.combinations("pus", size)]


@settings(deadline=None)
@given(GRANTS, FLOWS, FLOWS)
def test_adding_a_flow_never_allows_more(grants: list[str], some: list[str], more: list[str]) -> None:
    head = "[agents.bot]\ntasks = ['work']\n[tasks.work]\n"
    one = compile_policy(from_sources({"a": head + "".join([*grants, *some])}))
    other = compile_policy(from_sources({"a": head + "".join([*grants, *some, *more])}))
    for tags in TAGS:
        for args in ({"n": 1}, {}):
            before, after = (ask(policy, "a/b", args, Verb.CALL, None, *tags) for policy in (one, other))
            assert after.allowed <= before.allowed
            if after.allowed and before.terms is not None:
                assert after.terms is not None
                assert after.terms.offers == before.terms.offers
                assert after.terms.reads >= before.terms.reads


@settings(deadline=None)
@given(GRANTS, FLOWS, st.randoms(use_true_random=False))
def test_the_order_of_tables_changes_no_terms(grants: list[str], flows: list[str], random: Any) -> None:
    head = "[agents.bot]\ntasks = ['work']\n[tasks.work]\n"
    blocks = [*grants, *flows]
    policies = [
        compile_policy(from_sources({"a": head + "".join(each)}))
        for each in (blocks, random.sample(blocks, len(blocks)))
    ]

    def told(decision: Decision) -> Any:
        terms = decision.terms
        if terms is None:
            return decision.effect
        offers = sorted((offer.needs_approval, offer.window.key if offer.window else "") for offer in terms.offers)
        return offers, sorted((sorted(f.once), f.needs_approval) for f in terms.flows), terms.reads

    for tags in TAGS:
        first, second = (ask(policy, "a/b", {"n": 1}, Verb.CALL, None, *tags) for policy in policies)
        assert told(first) == told(second)


@settings(deadline=None)
@given(GRANTS, FLOWS)
def test_what_is_listed_is_what_some_call_could_be_allowed(grants: list[str], flows: list[str]) -> None:
    policy = compile_policy(
        from_sources({"a": "[agents.bot]\ntasks = ['work']\n[tasks.work]\n" + "".join([*grants, *flows])})
    )
    for tags in TAGS:
        listed = ask(policy, "a/b", None, Verb.LIST, None, *tags).visible
        called = [ask(policy, "a/b", args, Verb.CALL, None, *tags).allowed for args in ({"n": 1}, {"n": 2})]
        assert listed == any(called)
