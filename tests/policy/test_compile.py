"""A compiled policy has a version, keeps its text, and finds the lines that speak of a target."""

from __future__ import annotations

import pytest
from asking import call, policy_of

from mcp_gateway.domain import Assignment, Kind
from mcp_gateway.policy import compile as compiling
from mcp_gateway.policy.compile import canonical_text, compile_policy, sources_of
from mcp_gateway.policy.document import PolicyDocument, from_sources
from mcp_gateway.policy.patterns import Match

ONE = "[agents.a]\ntasks = ['t']\ndefault_task = 't'\n"
TWO = "[tasks.t]\nallow = ['crm/get']\n"


def test_the_version_is_that_of_the_content() -> None:
    policy = compile_policy(from_sources({"policies/a.toml": ONE, "policies/b.toml": TWO}))
    same = compile_policy(from_sources({"elsewhere/b.toml": TWO, "elsewhere/a.toml": ONE}))
    other = compile_policy(from_sources({"policies/a.toml": ONE, "policies/b.toml": TWO + "# more\n"}))
    assert policy.version == same.version
    assert policy.version != other.version
    assert len(policy.version) == 64


def test_the_text_can_be_taken_apart_and_compiled_again() -> None:
    sources = {"p/a.toml": ONE, "p/b.toml": "\n\n" + TWO + "==> x (3 lines) <==\n".replace("==>", "#"), "p/c.toml": ""}
    policy = compile_policy(from_sources(sources))
    again = compile_policy(from_sources(sources_of(policy.text)))
    assert (again.version, again.text) == (policy.version, policy.text)
    assert sources_of(canonical_text({})) == {}


def test_assignments_say_which_tasks_an_agent_may_be_on() -> None:
    policy = compile_policy(from_sources({"a.toml": ONE, "b.toml": TWO}))
    assert dict(policy.assignments) == {"a": Assignment("a", ("t",), "t")}


def test_the_empty_policy_denies() -> None:
    policy = compile_policy(PolicyDocument())
    assert dict(policy.assignments) == {}
    assert not call(policy, "crm/get").allowed


def test_lines_that_speak_of_a_target_are_found_in_one_order() -> None:
    policy = policy_of(
        "[[tasks.work.grant]]\ntools = ['crm/*']\nwhen = 'args.a == 1'\n"
        "[[tasks.work.grant]]\ntools = ['crm/get', 'crm/**']\n"
        "[[tasks.work.deny]]\ntools = ['*']\nwhen = 'args.b == 1'\n"
    )
    found = policy.candidates("work", Kind.TOOL, "crm", "get")
    assert [str(candidate.grant.at) for candidate in found.grants] == ["policy.toml:7", "policy.toml:4"]
    assert [candidate.pattern.text for candidate in found.grants] == ["crm/get", "crm/*"]
    assert all(candidate.match is Match.ALL for candidate in found.grants)
    assert found.settled is None
    assert policy.candidates("work", Kind.TOOL, "crm", "get") is found


def test_what_is_remembered_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "MAX_REMEMBERED", 3)
    policy = policy_of("allow = ['resource:docs/**']\n")
    for number in range(10):
        assert policy.candidates("work", Kind.RESOURCE, "docs", f"file:///{number}").settled is not None
    assert len(policy._remembered) <= 3
    policy.candidates("work", Kind.RESOURCE, "docs", "file:///" + "x" * 10_000)
    assert all(len(name) < 10_000 for _, _, _, name in policy._remembered)


def test_an_agent_is_whoever_its_match_is_true_of() -> None:
    text = """
[agents.support]
tasks = []
match = 'claims.iss == "https://idp" && claims.azp == "support"'

[agents.ops]
tasks = []
match = '"ops" in claims.groups'

[agents.by-key]
tasks = []
"""
    policy = compile_policy(from_sources({"a.toml": text}))
    assert policy.agents_for({"iss": "https://idp", "azp": "support"}) == ("support",)
    assert policy.agents_for({"iss": "https://evil", "azp": "support"}) == ()
    assert policy.agents_for({"iss": "https://idp", "azp": "support", "groups": ["ops"]}) == ("ops", "support")
    assert policy.agents_for({}) == ()
    assert policy.agents_for({"groups": "ops"}) == ()
