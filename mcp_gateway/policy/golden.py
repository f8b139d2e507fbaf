"""Tests of a policy, written beside it: `*.test.toml` says who may do what, and this says whether it is so.

    [[case]]
    name = "refunds stay small"          # optional
    agent = "support-bot"
    task = "answer-ticket"               # optional: the agent's default task
    tool = "billing/refund"              # upstream/name; prompt: and resource: as in policies
    args = { amount = 40 }               # absent: judged as a list, so that "depends" is possible
    claims = { approval_limit = 50 }     # optional, as are person, annotations, tags, now
    context = { customer = 42 }          # optional: somebody has started the task, about this
    expect = "allow"                     # "allow", "deny" or "depends"

Asks `decide` as every list and every call does. The target need not exist.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from mcp_gateway.config.toml_lines import Lines, parse
from mcp_gateway.domain import Caller, Decision, Effect, Kind, Request, StartedTask, Target, Verb
from mcp_gateway.errors import Complaint, ConfigInvalid, PolicyInvalid
from mcp_gateway.policy.compile import Policy
from mcp_gateway.policy.decide import decide
from mcp_gateway.policy.patterns import PatternError, parse_pattern
from mcp_gateway.policy.tables import CODE

EXPECTED: Final[Mapping[str, Effect]] = {
    "allow": Effect.ALLOWED,
    "deny": Effect.DENIED,
    "depends": Effect.DEPENDS,
}
_KEYS: Final[Mapping[str, tuple[type, str]]] = {
    "name": (str, "a text"),
    "agent": (str, "a text"),
    "task": (str, "a text"),
    "tool": (str, "a text"),
    "args": (dict, "a table"),
    "claims": (dict, "a table"),
    "context": (dict, "a table"),
    "person": (str, "a text"),
    "annotations": (dict, "a table"),
    "tags": (list, "a list"),
    "now": (datetime, "a date and time with an offset"),
    "expect": (str, "a text"),
}
_REQUIRED: Final = ("agent", "tool", "expect")
_USES: Final = {
    Kind.TOOL: (Verb.CALL, "tools/call", "tools/list"),
    Kind.PROMPT: (Verb.GET, "prompts/get", "prompts/list"),
    Kind.RESOURCE: (Verb.READ, "resources/read", "resources/list"),
    Kind.MODEL: (Verb.MODEL, "model", "models/list"),
}


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One case, and what the policy said."""

    file: str
    line: int
    name: str
    expected: str
    """`allow`, `deny` or `depends`, as written."""
    actual: Decision
    passed: bool


@dataclass(frozen=True, slots=True)
class Question:
    """One thing to ask a policy, without a catalog."""

    caller: Caller
    request: Request
    target: Target
    now: datetime


def run_cases(policy: Policy, files: Sequence[Path], now: datetime | None = None) -> list[CaseResult]:
    """Run every case of `files`; `now` (default: the clock) is the time for cases that name none.

    Raises `PolicyInvalid` with every complaint about malformed cases; then no case has run.
    """
    complaints: list[Complaint] = []
    cases = [found for path in files for found in _cases(path, complaints)]
    for case, lines, index in cases:
        complaints.extend(_check(case, lines, index))
    if complaints:
        raise PolicyInvalid(complaints)
    now = now or datetime.now(UTC)
    return [_run(policy, case, lines, index, now) for case, lines, index in cases]


def question(policy: Policy, case: Mapping[str, Any], now: datetime) -> Question:
    """The question a checked case asks."""
    pattern = parse_pattern(case["tool"], any_upstream=False)
    kind, name = pattern.kind, pattern.name.text
    assignment = policy.assignments.get(case["agent"])
    task = case.get("task", assignment.default_task if assignment else None)
    verb, method, list_method = _USES[kind]
    is_list = "args" not in case
    definition = {"annotations": case.get("annotations", {})}
    now = case.get("now", now)
    return Question(
        Caller(
            case["agent"],
            task,
            person=case.get("person"),
            claims=case.get("claims", {}),
            started=as_if_started(case["agent"], task, case["context"], now) if "context" in case else None,
        ),
        Request(
            request_id="policy-test",
            verb=Verb.LIST if is_list else verb,
            method=list_method if is_list else method,
            kind=kind,
            name="" if is_list else name,
            params={} if is_list else {"arguments": case["args"]},
        ),
        Target(kind, pattern.upstream, name, name, definition, "", frozenset(case.get("tags", ()))),
        now,
    )


def as_if_started(agent: str, task: str | None, context: Mapping[str, Any], now: datetime) -> StartedTask:
    """A task as somebody could have started it, with an hour to go."""
    return StartedTask("as-if", agent, task or "", now + timedelta(hours=1), context)


def _cases(path: Path, complaints: list[Complaint]) -> list[tuple[Mapping[str, Any], Lines, int]]:
    try:
        document, lines = parse(path.read_text(encoding="utf-8"), str(path))
    except ConfigInvalid as e:
        complaints.extend(e.complaints)
        return []
    except (OSError, UnicodeDecodeError) as e:
        complaints.append(Complaint(str(path), 1, f"cannot be read: {e}", code=CODE))
        return []
    complaints.extend(lines.unknown_key((key,), ["case"], CODE) for key in document if key != "case")
    cases = document.get("case", [])
    if not isinstance(cases, list) or not all(isinstance(case, dict) for case in cases):
        complaints.append(lines.complaint(("case",), "'case' must be tables", "write [[case]]", CODE))
        return []
    return [(case, lines, index) for index, case in enumerate(cases)]


def _check(case: Mapping[str, Any], lines: Lines, index: int) -> list[Complaint]:
    found = [lines.complaint(("case", index), f"{key!r} is missing", code=CODE) for key in _REQUIRED if key not in case]
    for key, value in case.items():
        path = ("case", index, key)
        if key not in _KEYS:
            found.append(lines.unknown_key(path, _KEYS, CODE))
        elif (problem := _problem(key, value)) is not None:
            found.append(lines.complaint(path, problem, code=CODE))
    return found


def _problem(key: str, value: Any) -> str | None:
    """What is wrong with the value of a known key; None: nothing."""
    expected_type, words = _KEYS[key]
    is_right = isinstance(value, expected_type)
    if not is_right or (isinstance(value, datetime) and value.tzinfo is None):
        return f"{key!r} must be {words}"
    if key == "expect" and value not in EXPECTED:
        return f"'expect' must be one of {', '.join(EXPECTED)}"
    if key == "tool":
        return _target_problem(value)
    if key == "tags" and not all(isinstance(tag, str) for tag in value):
        return "'tags' must be a list of texts"
    if key in ("args", "claims", "context", "annotations") and not _is_json(value):
        return f"{key!r} holds a date: JSON has none, write it as a text"
    return None


def _target_problem(text: str) -> str | None:
    try:
        pattern = parse_pattern(text, any_upstream=False)
    except PatternError as e:
        return str(e)
    return None if pattern.name.is_literal else f"{text!r} is a pattern: a case names one target"


def _is_json(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_json(item) for item in value.values())
    if isinstance(value, list):
        return all(_is_json(item) for item in value)
    return isinstance(value, (str, int, float))


def _run(policy: Policy, case: Mapping[str, Any], lines: Lines, index: int, now: datetime) -> CaseResult:
    asked = question(policy, case, now)
    actual = decide(policy, asked.caller, asked.request, asked.target, asked.now)
    expected = case["expect"]
    name = case.get("name") or f"{case['agent']} {case['tool']} {expected}"
    return CaseResult(
        lines.file, lines.of(("case", index)), name, expected, actual, actual.effect is EXPECTED[expected]
    )
