"""What holds for every policy: random ones, held against every call there can be."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from asking import NOON, caller, request, target
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_gateway.domain import Caller, Decision, Era, Kind, Request, StartedTask, Target, Transport, Verb
from mcp_gateway.policy.compile import Policy, compile_policy
from mcp_gateway.policy.decide import decide, seen_alike, visible_of
from mcp_gateway.policy.document import from_sources

pytestmark = pytest.mark.slow  # many random policies

TARGETS = ["crm/get", "crm/put", "billing/get"]
PATTERNS = ["crm/get", "crm/*", "crm/put", "billing/*", "billing/g*t", "mail/*"]
# Each argument appears in at most one leaf of a condition, so that every mix of values can really be sent.
ARGS: list[dict[str, Any]] = [
    {name: value for name, value in zip("abc", values, strict=True) if value is not None}
    for values in itertools.product([0, 1, "x", None], repeat=3)
]
NAMES = "abcd"
EVERY_MIX: list[dict[str, Any]] = [
    dict(zip(NAMES, values, strict=True)) for values in itertools.product([0, 1, "x"], repeat=len(NAMES))
]
FIXED = ["claims.yes", "claims.no", "claims.missing", "claims.number == 1", "agent.name == 'bot'", "!claims.yes"]
CLAIMS = {"yes": True, "no": False, "number": 1}


@st.composite
def conditions(draw: st.DrawFn) -> str:
    """Conditions in which each part that reads an argument can be true, false and not evaluable."""
    arguments = iter(draw(st.permutations(["args.a > 0", "args.b > 0", "args.c > claims.missing"])))

    def part(depth: int) -> str:
        kind = draw(st.sampled_from(["fixed", "arg", "and", "or", "not", "if"] if depth else ["fixed", "arg"]))
        match kind:
            case "fixed":
                return draw(st.sampled_from(FIXED))
            case "arg":
                return next(arguments, None) or draw(st.sampled_from(FIXED))
            case "not":
                return f"!({part(depth - 1)})"
            case "if":
                return f"({draw(st.sampled_from(FIXED))} ? {part(depth - 1)} : {part(depth - 1)})"
        return f"({part(depth - 1)} {'&&' if kind == 'and' else '||'} {part(depth - 1)})"

    return part(2)


@st.composite
def lines(draw: st.DrawFn, what: str) -> str:
    tools = draw(st.lists(st.sampled_from([*PATTERNS, "*"] if what == "deny" else PATTERNS), min_size=1, max_size=2))
    when = draw(st.none() | conditions())
    condition = f"when = '''{when}'''\n" if when else ""
    return f"[[tasks.work.{what}]]\ntools = {tools!r}\n{condition}"


BOT = "[agents.bot]\ntasks = ['work']\n"
grants = st.lists(lines("grant"), max_size=4)
denies = st.lists(lines("deny"), max_size=2)


def compiled(blocks: list[str]) -> Policy:
    return compile_policy(from_sources({"a.toml": BOT + "[tasks.work]\n" + "".join(blocks)}))


def ask(policy: Policy, key: str, args: dict[str, Any] | None) -> Decision:
    asked = request(Verb.LIST) if args is None else request(Verb.CALL, args)
    return decide(policy, caller(**CLAIMS), asked, target(key), NOON)


@given(grants, denies, lines("deny"))
def test_adding_a_deny_never_allows_more(some: list[str], others: list[str], one: str) -> None:
    before, after = compiled([*some, *others]), compiled([*some, *others, one])
    for key in TARGETS:
        assert ask(before, key, None).visible >= ask(after, key, None).visible
        for args in ARGS:
            assert ask(before, key, args).allowed >= ask(after, key, args).allowed


@given(grants, denies, st.randoms(use_true_random=False))
def test_the_order_of_tables_never_matters(some: list[str], others: list[str], random: Any) -> None:
    blocks = [*some, *others]
    shuffled = random.sample(blocks, len(blocks))
    one, other = compiled(blocks), compiled(shuffled)
    for key in TARGETS:
        for args in (None, *ARGS):
            first, second = ask(one, key, args), ask(other, key, args)
            assert (first.effect, first.reason) == (second.effect, second.reason)


@given(grants, denies, st.booleans())
def test_the_order_of_files_never_matters(some: list[str], others: list[str], agents_first: bool) -> None:
    task = "[tasks.work]\n" + "".join([*some, *others])
    names = ("a.toml", "b.toml") if agents_first else ("b.toml", "a.toml")
    policy = compile_policy(from_sources(dict(zip(names, (BOT, task), strict=True))))
    for key in TARGETS:
        assert ask(policy, key, ARGS[0]).effect is ask(compiled([*some, *others]), key, ARGS[0]).effect


@st.composite
def independent_policies(draw: st.DrawFn) -> list[str]:
    """Policies in which no argument is read twice: the set of values of every part is exact then."""
    blocks = draw(st.lists(lines("grant"), min_size=1, max_size=3)) + draw(denies)
    names = iter(NAMES)

    def own(match: re.Match[str]) -> str:
        name = next(names, None)
        return f"args.{name} > " if name else "claims.number > "

    return [re.sub(r"args\.[abc] > ", own, block) for block in blocks]


@settings(max_examples=60)
@given(independent_policies())
def test_what_is_listed_is_exactly_what_some_call_can_have(blocks: list[str]) -> None:
    policy = compiled(blocks)
    for key in TARGETS:
        assert ask(policy, key, None).visible == any(ask(policy, key, args).allowed for args in EVERY_MIX)


WHO_ASKS = [
    *FIXED, "person == 'ann'", "person == null", "task.c == 1", "has(task.c)", "claims.yes == true",
    "claims.number > 0.5", "request.era == 'legacy'", "request.transport == 'stdio'", "request.method == 'tools/call'",
    "tool.name == 'get'", "args.a > 0", "args.a > claims.number", "'x' in tool.tags",
    "now > timestamp('2026-03-02T12:00:00Z')",
]  # fmt: skip


@dataclass(frozen=True)
class Asking:
    """Who asks for a list, and when."""

    agent: str = "bot"
    person: str | None = None
    claims: str = "{}"
    context: str = "null"
    era: Era = Era.MODERN
    transport: Transport = Transport.HTTP
    later_s: int = 0

    def asked(self) -> tuple[Caller, Request, datetime]:
        context = json.loads(self.context)
        ends = NOON + timedelta(seconds=1)
        started = None if context is None else StartedTask("t", self.agent, "work", ends, context)
        who = Caller(self.agent, "work", self.person, claims=json.loads(self.claims), started=started)
        request = Request("r", Verb.LIST, "tools/list", Kind.TOOL, "", {}, self.era, self.transport)
        return who, request, NOON + timedelta(seconds=self.later_s)


DIFFERING: dict[str, list[Any]] = {
    "agent": ["bot", "other", "nobody"],
    "person": [None, "ann", "bob"],
    "claims": [
        "{}", json.dumps(CLAIMS), '{"yes": 1}', '{"yes": false, "number": 0}', '{"scope": "read"}',
        '{"scope": "read write", "yes": true}',
    ],
    "context": ["null", "{}", '{"c": 1}', '{"c": 2}'],
    "era": list(Era),
    "transport": list(Transport),
    "later_s": [0, 1, 2],
}  # fmt: skip


OF_ONE_KIND = [target(key, tags=tags) for key in (*TARGETS, "crm/got") for tags in ((), ("x",))]


@st.composite
def lines_about_who_asks(draw: st.DrawFn, what: str) -> str:
    tools = draw(st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=2))
    parts = draw(st.lists(st.sampled_from(WHO_ASKS), max_size=2))
    condition = f"when = '''{draw(st.sampled_from([' && ', ' || '])).join(parts)}'''\n" if parts else ""
    scopes = draw(st.sampled_from(["", "scopes = ['read']\n", "scopes = ['read', 'write']\n"]))
    return f"[[tasks.work.{what}]]\ntools = {tools!r}\n{condition}{scopes if what == 'grant' else ''}"


@settings(max_examples=300)
@given(
    st.lists(lines_about_who_asks("grant"), min_size=1, max_size=3),
    st.lists(lines_about_who_asks("deny"), max_size=1),
    st.builds(Asking, **{name: st.sampled_from(values) for name, values in DIFFERING.items()}),
)
def test_those_who_are_told_to_see_the_same_do(some: list[str], others: list[str], one: Asking) -> None:
    context = "context = ['c']\n" if any("task.c" in line for line in (*some, *others)) else ""
    policy = compiled([context, *some, *others, "[agents.other]\ntasks = ['work']\n"])
    seen: dict[Any, list[Target]] = {}
    for asking in [replace(one, **{name: value}) for name, values in DIFFERING.items() for value in values]:
        who, asked, at = asking.asked()
        alike = seen_alike(policy, who, asked, at)
        visible = [each for each in OF_ONE_KIND if decide(policy, who, asked, each, at).visible]
        assert visible_of(policy, who, asked, OF_ONE_KIND, at) == tuple(visible)
        assert alike is None or seen.setdefault(alike, visible) == visible


@given(grants)
def test_a_condition_that_cannot_be_evaluated_never_allows(some: list[str]) -> None:
    broken = [line.replace("when = '''", "when = '''claims.missing && ") for line in some if "when" in line]
    policy = compiled(broken)
    for key in TARGETS:
        assert not ask(policy, key, None).visible
        for args in ARGS:
            assert not ask(policy, key, args).allowed


@given(grants, denies)
def test_what_a_list_says_for_sure_is_so_for_every_call(some: list[str], others: list[str]) -> None:
    policy = compiled([*some, *others])
    for key in TARGETS:
        listed = ask(policy, key, None)
        if listed.allowed:
            assert all(ask(policy, key, args).allowed for args in ARGS)
        if not listed.visible:
            assert not any(ask(policy, key, args).allowed for args in ARGS)


def in_shadow(blocks: list[str]) -> list[str]:
    return [f"{block}mode = 'shadow'\n" for block in blocks]


@given(grants, denies, grants, denies)
def test_what_is_in_shadow_never_changes_an_answer(
    some: list[str], others: list[str], more: list[str], further: list[str]
) -> None:
    live, mixed = compiled([*some, *others]), compiled([*some, *others, *in_shadow([*more, *further])])
    enforced = compiled([*some, *others, *more, *further])
    for key in TARGETS:
        for args in (None, *ARGS):
            before, after = ask(live, key, args), ask(mixed, key, args)
            assert (before.effect, before.reason) == (after.effect, after.reason)
            if after.shadow:
                assert after.shadow == ask(enforced, key, args).effect


@given(grants, denies, grants, denies)
def test_a_verdict_in_shadow_is_missing_only_where_it_would_change_nothing(
    some: list[str], others: list[str], more: list[str], further: list[str]
) -> None:
    mixed = compiled([*some, *others, *in_shadow([*more, *further])])
    enforced = compiled([*some, *others, *more, *further])
    for key in TARGETS:
        for args in ARGS:
            decision = ask(mixed, key, args)
            assert (decision.shadow or decision.effect) == ask(enforced, key, args).effect
