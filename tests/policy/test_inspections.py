"""Which guards apply to which call."""

from datetime import UTC, datetime

import pytest

from mcp_gateway.domain import Caller, Kind, Request, Target, Verb
from mcp_gateway.policy.compile import Policy, compile_policy
from mcp_gateway.policy.document import from_sources
from mcp_gateway.policy.inspections import inspections

NOW = datetime(2026, 11, 1, tzinfo=UTC)
MAIL = Target(Kind.TOOL, "mail", "send", "mail__send", {}, "")


def policy(text: str) -> Policy:
    return compile_policy(from_sources({"policies/p.toml": text}))


def asked(text: str, args: dict[str, object] | None = None, agent: str = "bot", task: str = "t") -> list[str]:
    request = Request("", Verb.CALL, "tools/call", Kind.TOOL, "mail__send", {"arguments": args or {}})
    return [found.at for found in inspections(policy(text), Caller(agent, task), request, MAIL, NOW)]


def test_a_policy_without_guards_inspects_nothing() -> None:
    assert asked("") == []


def test_a_guard_without_conditions_applies_to_everything() -> None:
    assert asked('[[guard]]\nfind = ["secrets"]\nthen = "mask"') == ["policies/p.toml:1"]


@pytest.mark.parametrize(
    ("line", "applies"),
    [
        ('tools = ["mail/*"]', True),
        ('tools = ["*"]', True),
        ('tools = ["**"]', True),
        ('tools = ["crm/*"]', False),
        ('tasks = ["t"]', True),
        ('tasks = ["other"]', False),
        ('agents = ["bot"]', True),
        ('agents = ["other"]', False),
        ("when = \"args.to.endsWith('@ours.example')\"", False),
        ("when = \"!args.to.endsWith('@ours.example')\"", True),
        ('when = "args.missing == 1"', True),  # cannot be evaluated: it applies
    ],
)
def test_a_guard_applies_where_it_says(line: str, applies: bool) -> None:
    text = f'[[guard]]\nfind = ["secrets"]\nthen = "block"\n{line}\n'
    assert bool(asked(text, {"to": "x@theirs.example"})) is applies


def test_a_condition_sees_the_arguments() -> None:
    text = """[[guard]]\nfind = ["personal-data"]\nthen = "block"\nwhen = "!args.to.endsWith('@ours.example')"\n"""
    assert asked(text, {"to": "a@ours.example"}) == []
    assert asked(text, {"to": "a@theirs.example"}) == ["policies/p.toml:1"]
