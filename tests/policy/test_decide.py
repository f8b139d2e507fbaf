"""The one decision function: who gets what, and for which reason."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from asking import NOON, call, caller, listing, policy_of, request, target

from mcp_gateway.domain import Caller, Effect, Kind, Reason, Transport, Verb
from mcp_gateway.policy.compile import compile_policy
from mcp_gateway.policy.decide import decide, seen_alike, visible_of
from mcp_gateway.policy.document import from_sources

REFUND = "[[tasks.work.grant]]\ntools = ['billing/refund']\nwhen = 'args.amount <= claims.limit'\n"


@pytest.mark.parametrize(
    ("who", "reason"),
    [
        (Caller("stranger", "work"), Reason.UNKNOWN_AGENT),
        (Caller("bot", None), Reason.NO_TASK),
        (Caller("bot", "other"), Reason.TASK_NOT_ASSIGNED),
        (Caller("bot", ""), Reason.TASK_NOT_ASSIGNED),
        (Caller("stranger", None), Reason.UNKNOWN_AGENT),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_who_may_be_on_no_task_gets_nothing_whatever_the_target(who: Caller, reason: Reason, known: bool) -> None:
    policy = policy_of("allow = ['crm/**']\n", **{"b.toml": "[tasks.other]\nallow = ['crm/**']\n"})
    asked = decide(policy, who, request(Verb.CALL), target("crm/get") if known else None, NOON)
    assert (asked.effect, asked.reason) == (Effect.DENIED, reason)
    assert asked.policy_version == policy.version


def test_an_unknown_target_is_denied() -> None:
    asked = decide(policy_of("allow = ['crm/**']\n"), caller(), request(Verb.CALL), None, NOON)
    assert (asked.effect, asked.reason) == (Effect.DENIED, Reason.UNKNOWN_TARGET)


def test_a_list_itself_is_decided_entry_by_entry() -> None:
    asked = decide(policy_of(""), caller(), request(Verb.LIST), None, NOON)
    assert (asked.effect, asked.reason) == (Effect.ALLOWED, Reason.LIST)
    refused = decide(policy_of(""), caller("stranger"), request(Verb.LIST), None, NOON)
    assert refused.reason is Reason.UNKNOWN_AGENT


def test_a_decision_names_its_line_and_its_policy() -> None:
    policy = policy_of("allow = [\n'crm/get']\n[[tasks.work.deny]]\ntools = ['crm/put']\nreason = 'no'\n")
    allowed, denied = call(policy, "crm/get"), call(policy, "crm/put")
    assert (allowed.reason, allowed.grant, allowed.policy_version) == (Reason.GRANT, "policy.toml:5", policy.version)
    assert (denied.reason, denied.grant, denied.message) == (Reason.DENY, "policy.toml:6", "no")
    assert call(policy, "crm/other").reason is Reason.NO_GRANT


def test_a_list_knows_what_no_arguments_can_change() -> None:
    policy = policy_of(REFUND)
    assert listing(policy, "billing/refund", caller(limit=5)).effect is Effect.DEPENDS
    assert listing(policy, "billing/refund", caller()).reason is Reason.CONDITION_UNEVALUABLE
    assert not listing(policy, "billing/refund", caller()).visible


def test_a_call_is_judged_by_its_arguments() -> None:
    policy = policy_of(REFUND)
    assert call(policy, "billing/refund", {"amount": 5}, caller(limit=5)).allowed
    assert call(policy, "billing/refund", {"amount": 6}, caller(limit=5)).reason is Reason.CONDITION_FALSE
    assert call(policy, "billing/refund", {}, caller(limit=5)).reason is Reason.CONDITION_UNEVALUABLE


def test_a_deny_that_cannot_be_evaluated_denies() -> None:
    policy = policy_of("allow = ['crm/get']\n[[tasks.work.deny]]\ntools = ['*']\nwhen = 'claims.level < 3'\n")
    assert call(policy, "crm/get", who=caller(level=3)).allowed
    assert call(policy, "crm/get", who=caller(level=2)).reason is Reason.DENY
    assert call(policy, "crm/get", who=caller()).reason is Reason.DENY_UNEVALUABLE
    assert call(policy, "crm/get", who=caller(level="3")).reason is Reason.DENY_UNEVALUABLE
    assert not listing(policy, "crm/get", caller()).visible


def test_a_deny_on_arguments_hides_nothing_and_still_denies() -> None:
    policy = policy_of("allow = ['crm/get']\n[[tasks.work.deny]]\ntools = ['*']\nwhen = 'args.id == 1'\n")
    assert listing(policy, "crm/get").effect is Effect.DEPENDS
    assert call(policy, "crm/get", {"id": 2}).allowed
    assert not call(policy, "crm/get", {"id": 1}).allowed
    assert call(policy, "crm/get", {}).reason is Reason.DENY_UNEVALUABLE


def test_a_completion_reveals_what_the_list_does() -> None:
    policy = policy_of(REFUND)
    for limit, allowed in ((caller(limit=5), True), (caller(), False)):
        asked = decide(policy, limit, request(Verb.COMPLETE), target("billing/refund"), NOON)
        assert asked.allowed is allowed


@pytest.mark.parametrize("verb", [Verb.LIST, Verb.CALL])
def test_lists_and_calls_see_the_same_method(verb: Verb) -> None:
    policy = policy_of("[[tasks.work.grant]]\ntools = ['crm/get']\nwhen = 'request.method == \"tools/call\"'\n")
    assert decide(policy, caller(), request(verb), target("crm/get"), NOON).allowed


def test_conditions_see_everything_they_are_promised() -> None:
    policy = policy_of(
        "[[tasks.work.grant]]\ntools = ['crm/get']\n"
        "when = '''agent.name == 'bot' && person == 'ann' && task.name == 'work'"
        " && claims.x == 1 && args.y == 2 && tool.name == 'get' && tool.upstream == 'crm' && tool.tags == ['t']"
        " && tool.annotations.readOnlyHint && request.era == 'modern' && request.transport == 'http'"
        " && now.getHours() == 12'''\n"
    )
    wanted = target("crm/get", tags=("t",), readOnlyHint=True)
    who = caller(person="ann", x=1)
    assert decide(policy, who, request(Verb.CALL, {"y": 2}), wanted, NOON).allowed
    assert not decide(policy, caller(x=1), request(Verb.CALL, {"y": 2}), wanted, NOON).allowed


@pytest.mark.parametrize("annotations", [None, "x", ["destructiveHint"]])
def test_odd_annotations_are_none(annotations: object) -> None:
    policy = policy_of("allow = ['crm/get']\n[[tasks.work.deny]]\ntools = ['*']\nwhen = 'tool.annotations.d == true'\n")
    wanted = target("crm/get")
    odd = type(wanted)(wanted.kind, "crm", "get", "get", {"annotations": annotations}, "")
    assert decide(policy, caller(), request(Verb.CALL), odd, NOON).reason is Reason.DENY_UNEVALUABLE


def test_a_resource_is_judged_by_its_uri_in_lists_too() -> None:
    policy = policy_of("[[tasks.work.grant]]\ntools = ['resource:docs/**']\nwhen = 'args.uri.endsWith(\".md\")'\n")
    for name, allowed in (("file:///a.md", True), ("file:///a.txt", False)):
        wanted = target(f"docs/{name}", Kind.RESOURCE)
        for verb in (Verb.LIST, Verb.READ, Verb.SUBSCRIBE):
            assert (
                decide(policy, caller(), request(verb, kind=Kind.RESOURCE, name=name), wanted, NOON).allowed is allowed
            )


def test_a_subscription_is_judged_as_the_reads_it_stands_for() -> None:
    policy = policy_of(
        "[[tasks.work.grant]]\ntools = ['resource:docs/**']\nwhen = 'request.method == \"resources/read\"'\n"
    )
    wanted = target("docs/file:///a", Kind.RESOURCE)
    for verb in (Verb.READ, Verb.SUBSCRIBE):
        assert decide(policy, caller(), request(verb, kind=Kind.RESOURCE, name="file:///a"), wanted, NOON).allowed


def test_a_template_is_listed_if_some_uri_of_it_can_be_read() -> None:
    policy = policy_of(
        "allow = ['resource:docs/file:///handbook/**']\n"
        "[[tasks.work.deny]]\ntools = ['resource:docs/file:///handbook/secret/**']\n"
    )
    for name, visible in (
        ("file:///{path}", True),
        ("file:///handbook/{page}", True),
        ("file:///handbook/secret/{page}", False),
        ("db://{table}", False),
    ):
        wanted = target(f"docs/{name}", Kind.TEMPLATE)
        assert decide(policy, caller(), request(Verb.LIST), wanted, NOON).visible is visible
        assert decide(policy, caller(), request(Verb.COMPLETE), wanted, NOON).allowed is visible


@pytest.mark.parametrize("name", ["file:///handbook/{page}", "{any}"])
def test_a_template_itself_can_never_be_read(name: str) -> None:
    policy = policy_of("allow = ['resource:docs/**']\n")
    wanted = target(f"docs/{name}", Kind.TEMPLATE)
    assert not decide(policy, caller(), request(Verb.READ, kind=Kind.RESOURCE, name=name), wanted, NOON).allowed


@pytest.mark.parametrize("verb", [Verb.TASK_GET, Verb.TASK_UPDATE, Verb.TASK_CANCEL])
def test_what_comes_after_a_call_is_allowed_as_long_as_some_call_is(verb: Verb) -> None:
    conditional = policy_of("[[tasks.work.grant]]\ntools = ['up/*']\nwhen = 'args.n < 5'\n")
    assert decide(conditional, caller(), request(verb), target("up/run"), NOON).allowed
    denied = policy_of("allow = ['up/*']\n[[tasks.work.deny]]\ntools = ['up/run']\n")
    assert not decide(denied, caller(), request(verb), target("up/run"), NOON).allowed
    assert not decide(conditional, caller(), request(verb), target("other/run"), NOON).allowed
    assert not decide(conditional, caller(task="play"), request(verb), target("up/run"), NOON).allowed


def test_a_condition_on_the_method_sees_the_call_that_a_task_came_of() -> None:
    policy = policy_of("[[tasks.work.grant]]\ntools = ['up/*']\nwhen = 'request.method == \"tools/call\"'\n")
    assert decide(policy, caller(), request(Verb.TASK_GET), target("up/run"), NOON).allowed


SCOPED = """[[tasks.work.grant]]
tools = ['crm/*']
scopes = ['crm:write', 'crm:read']
[[tasks.work.grant]]
tools = ['crm/refund']
scopes = ['crm:all', 'a', 'b']
when = 'args.amount < 10'
[[tasks.work.deny]]
tools = ['crm/secret']
"""


def test_a_grant_with_scopes_is_for_tokens_that_have_all_of_them() -> None:
    policy = policy_of(SCOPED)
    assert call(policy, "crm/put", who=caller(scope="crm:read crm:write x")).allowed
    assert call(policy, "crm/put", who=caller(scp=["crm:read", "crm:write"])).allowed
    for claims in ({"scope": "crm:read"}, {"scope": ""}, {"scope": 7}, {"scp": [["crm:write"]]}, {"iss": "x"}):
        refused = call(policy, "crm/put", who=caller(**claims))
        assert (refused.effect, refused.reason) == (Effect.DENIED, Reason.INSUFFICIENT_SCOPE)
        assert refused.scopes == ("crm:read", "crm:write")
        assert listing(policy, "crm/put", caller(**claims)).effect is Effect.DEPENDS


def test_who_can_get_no_scopes_is_not_told_of_any() -> None:
    policy = policy_of(SCOPED)
    for who in (caller(), caller(certificate={"subject": "CN=a"})):
        refused = call(policy, "crm/put", who=who)
        assert (refused.reason, refused.scopes) == (Reason.CONDITION_FALSE, ())
        assert not listing(policy, "crm/put", who).visible


def test_scopes_are_asked_for_only_where_they_would_be_enough() -> None:
    policy = policy_of(SCOPED)
    secret = call(policy, "crm/secret", who=caller(scope=""))
    assert (secret.reason, secret.scopes) == (Reason.DENY, ())
    unknown = call(policy, "other/put", who=caller(scope=""))
    assert (unknown.reason, unknown.scopes) == (Reason.NO_GRANT, ())


def test_of_several_ways_the_one_that_lacks_least_is_asked_for() -> None:
    policy = policy_of(SCOPED)
    assert call(policy, "crm/refund", {"amount": 5}, caller(scope="")).scopes == ("crm:read", "crm:write")
    assert call(policy, "crm/refund", {"amount": 5}, caller(scope="a b")).scopes == ("a", "b", "crm:all")
    assert call(policy, "crm/refund", {"amount": 50}, caller(scope="a b")).scopes == ("crm:read", "crm:write")


def test_a_completion_is_no_way_around_scopes() -> None:
    policy = policy_of(SCOPED)
    asked = decide(policy, caller(scope=""), request(Verb.COMPLETE), target("crm/put"), NOON)
    assert (asked.effect, asked.reason) == (Effect.DENIED, Reason.INSUFFICIENT_SCOPE)


def test_a_shadow_verdict_names_the_line_that_would_decide() -> None:
    policy = policy_of("allow = ['crm/get']\n[[tasks.work.deny]]\ntools = ['crm/*']\nmode = 'shadow'\n")
    decision = call(policy, "crm/get")
    assert (decision.effect, decision.shadow, decision.shadow_at) == ("allowed", "denied", "policy.toml:5")


def test_nothing_is_recorded_of_targets_no_shadow_line_speaks_of() -> None:
    policy = policy_of("allow = ['crm/get']\n[[tasks.work.deny]]\ntools = ['mail/*']\nmode = 'shadow'\n")
    assert call(policy, "crm/get").shadow == ""


def test_an_agent_of_a_file_in_shadow_is_a_stranger_and_gets_nothing() -> None:
    policy = compile_policy(
        from_sources({"new.toml": "mode = 'shadow'\n[agents.bot]\ntasks = ['work']\n[tasks.work]\nallow = ['a/b']\n"})
    )
    decision = call(policy, "a/b")
    assert (decision.reason, decision.shadow) == ("unknown_agent", "allowed")


@pytest.mark.parametrize(
    ("line", "told_apart"),
    [
        ("", ""),
        ("when = 'args.amount < 100 && tool.name != \"x\"'", ""),
        ("when = 'agent.name == \"bot\"'", "agent"),
        ("when = 'person == \"ann\"'", "person"),
        ("when = 'claims.team == \"ops\"'", "team"),
        ("when = 'request.transport == \"stdio\"'", "transport"),
        ("scopes = ['read']", "scope"),
    ],
)
def test_lists_are_told_apart_by_what_the_lines_of_the_task_look_at(line: str, told_apart: str) -> None:
    grant = f"[[tasks.work.grant]]\ntools = ['crm/*']\n{line}\n"
    policy = policy_of(f"{grant}[agents.other]\ntasks = ['work']\n")
    plain = request(Verb.LIST)
    others = {
        "agent": (caller("other", team="dev", scope="none"), plain),
        "person": (caller(person="ann", team="dev", scope="none"), plain),
        "team": (caller(team="ops", scope="none"), plain),
        "scope": (caller(team="dev", scope="read"), plain),
        "unheard of": (caller(team="dev", scope="none", sub="x"), plain),
        "transport": (caller(team="dev", scope="none"), replace(plain, transport=Transport.STDIO)),
    }
    mine = seen_alike(policy, caller(team="dev", scope="none"), plain, NOON)
    told = {name for name, (who, asked) in others.items() if seen_alike(policy, who, asked, NOON) != mine}
    assert mine is not None
    assert told == ({told_apart} if told_apart else set())


def test_a_list_that_hangs_on_the_time_is_nobody_elses() -> None:
    line = "when = 'now > timestamp(\"2026-01-01T00:00:00Z\")'"
    policy = policy_of(f"[[tasks.work.grant]]\ntools = ['crm/*']\n{line}\n")
    assert seen_alike(policy, caller(), request(Verb.LIST), NOON) is None


@pytest.mark.parametrize("kind", [Kind.RESOURCE, Kind.TEMPLATE, Kind.TOOL])
def test_a_list_holds_what_is_decided_for_each_whatever_the_conditions_look_at(kind: Kind) -> None:
    prefix = "resource:" if kind is not Kind.TOOL else ""
    grant = "[[tasks.work.grant]]\ntools = ['{0}crm/**']\nwhen = '{1}'\n"
    conditions = ('args.uri == "a://1"', 'tool.name == "a://2"', '"secret" in tool.tags', 'person == "ann"')
    lines = [grant.format(prefix, condition) for condition in conditions]
    lines.append("[[tasks.work.flow]]\nonce = ['secret']\nno_more = ['secret']\n")
    targets = [target(f"crm/{name}", kind, tags=tags) for name in ("a://1", "a://2") for tags in ((), ("secret",))]
    asked = request(Verb.LIST, kind=kind)
    for chosen in itertools.chain.from_iterable(itertools.combinations(lines, count) for count in range(4)):
        policy = policy_of("".join(chosen))
        for who in (caller(), caller(person="ann"), caller("stranger")):
            each = tuple(one for one in targets if decide(policy, who, asked, one, NOON).visible)
            assert visible_of(policy, who, asked, targets, NOON) == each
