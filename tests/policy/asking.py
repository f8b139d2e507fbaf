"""Short ways to write a policy down and ask it something."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from mcp_gateway.domain import Caller, Decision, Kind, Request, Target, Verb
from mcp_gateway.policy.compile import Policy, compile_policy
from mcp_gateway.policy.conditions import Scope
from mcp_gateway.policy.decide import decide
from mcp_gateway.policy.document import from_sources

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
METHODS = {
    Verb.CALL: "tools/call",
    Verb.GET: "prompts/get",
    Verb.READ: "resources/read",
    Verb.SUBSCRIBE: "resources/subscribe",
    Verb.LIST: "tools/list",
}


def policy_of(task: str, **more_files: str) -> Policy:
    """A policy whose agent `bot` is on the task `work`, written as `task`."""
    head = '[agents.bot]\ntasks = ["work"]\n[tasks.work]\n'
    return compile_policy(from_sources({"policy.toml": head + task, **more_files}))


def target(key: str, kind: Kind = Kind.TOOL, *, tags: tuple[str, ...] = (), **annotations: Any) -> Target:
    upstream, _, name = key.partition("/")
    return Target(kind, upstream, name, f"{upstream}__{name}", {"annotations": annotations}, "", frozenset(tags))


def request(verb: Verb, args: Mapping[str, Any] | None = None, kind: Kind = Kind.TOOL, name: str = "") -> Request:
    params = {} if args is None else {"arguments": args}
    return Request("r", verb, METHODS.get(verb, "completion/complete"), kind, name, params)


def caller(agent: str = "bot", task: str | None = "work", person: str | None = None, **claims: Any) -> Caller:
    return Caller(agent, task, person=person, claims=claims)


def call(policy: Policy, key: str, args: Mapping[str, Any] | None = None, who: Caller | None = None) -> Decision:
    """What a tool call comes to."""
    return decide(policy, who or caller(), request(Verb.CALL, args or {}), target(key), NOON)


def listing(policy: Policy, key: str, who: Caller | None = None) -> Decision:
    """What the tool list says of one tool."""
    return decide(policy, who or caller(), request(Verb.LIST), target(key), NOON)


def scope(args: Mapping[str, Any] | None, *, person: str | None = None, **claims: Any) -> Scope:
    values = {
        "agent": {"name": "bot"},
        "person": person,
        "task": {"name": "work"},
        "claims": claims,
        "tool": {"name": "refund", "annotations": {}, "upstream": "billing", "tags": frozenset({"b", "a"})},
        "request": {"era": "modern", "transport": "http", "method": "tools/call"},
        "now": NOON,
    }
    return Scope(values, args)
