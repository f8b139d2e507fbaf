"""Why something was decided: each line of the task, what its condition came to, and which part of it decided.

Tells operators, never agents. Decides nothing itself: the decision is `decide`'s own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from mcp_gateway.domain import Caller, Decision, Effect, Request, Target
from mcp_gateway.policy.compile import Candidate, Policy
from mcp_gateway.policy.conditions import TRUE, LeafTrace, Scope, describe
from mcp_gateway.policy.decide import decide, holds, holds_with_scopes, refusal, scope_of
from mcp_gateway.policy.demands import told
from mcp_gateway.policy.document import Grant
from mcp_gateway.policy.remedies import remedies


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a condition."""

    text: str
    value: str
    """`true`, `false`, `cannot be evaluated`, or that it depends on the arguments."""
    problem: str
    decided: bool
    """Whether the condition came out as it did because of this part."""


@dataclass(frozen=True, slots=True)
class Line:
    """One grant or deny of the task."""

    at: str
    effect: str
    """`grant` or `deny`."""
    patterns: tuple[str, ...]
    matched: str
    """The pattern that speaks of the target; empty: none does."""
    condition: str
    value: str
    """What "it matches, and its condition is true" came to; empty where no pattern matches."""
    lacks: tuple[str, ...]
    """Scopes it asks for that the caller's token does not have."""
    parts: tuple[Part, ...]
    decided: bool
    """Whether the decision names this line."""
    demands: tuple[str, ...] = ()
    """What it asks for besides its condition."""
    with_scopes: str = ""
    """What `value` would be, if the token had every scope."""


@dataclass(frozen=True, slots=True)
class Other:
    """An agent on a task that may use the target, or might for some arguments, with the same claims and arguments."""

    agent: str
    task: str
    effect: Effect


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything that went into one decision."""

    agent: str
    task: str | None
    target: str
    """`upstream/name`; empty where the catalog knows none."""
    decision: Decision
    lines: tuple[Line, ...]
    others: tuple[Other, ...]
    remedies: tuple[str, ...] = ()
    """What would have to change for it to be allowed."""
    in_shadow: tuple[Line, ...] = ()
    """Lines that are not enforced."""

    def to_dict(self) -> dict[str, Any]:
        """The explanation as plain JSON values."""
        return {
            "agent": self.agent,
            "task": self.task,
            "target": self.target,
            "decision": {name: str(value) for name, value in asdict(replace(self.decision, terms=None)).items()},
            "lines": [asdict(line) for line in self.lines],
            "in_shadow": [asdict(line) for line in self.in_shadow],
            "others": [{"agent": o.agent, "task": o.task, "effect": str(o.effect)} for o in self.others],
            "would_have_to_change": list(self.remedies),
        }

    def to_lines(self) -> list[str]:
        """The explanation as text to read."""
        by = f" by {self.decision.grant}" if self.decision.grant else ""
        target = self.target or "a target that nobody offers"
        lines = [
            f"{self.agent} on task {self.task or '(none)'}: {target}",
            f"{self.decision.effect} ({self.decision.reason}){by}, policy {self.decision.policy_version[:8]}",
        ]
        if self.decision.message:
            lines.append(f"because: {self.decision.message}")
        for line in self.lines:
            lines.extend(_line_text(line))
        if self.decision.shadow:
            by = f" by {self.decision.shadow_at}" if self.decision.shadow_at else ""
            lines.append(f"in shadow: {self.decision.shadow}{by}")
        for line in self.in_shadow:
            lines.extend(_line_text(line))
        lines.extend(f"would have to change: {remedy}" for remedy in self.remedies)
        lines.extend(f"could: {other.agent} on task {other.task} ({other.effect})" for other in self.others)
        return lines


def explain(policy: Policy, caller: Caller, request: Request, target: Target | None, now: datetime) -> Explanation:
    """What `decide` says of the same, and why."""
    decision = decide(policy, caller, request, target, now)
    lines: tuple[Line, ...] = ()
    others: tuple[Other, ...] = ()
    if target is not None:
        others = tuple(_others(policy, caller, request, target, now))
        if refusal(policy, caller, now) is None:
            lines = tuple(_lines(policy, caller, target, scope_of(caller, request, target, now), decision.grant))
    in_shadow = _in_shadow(policy, caller, request, target, now, decision) if policy.shadow is not None else ()
    changes = tuple(remedies(policy, caller, target, decision.reason, lines))
    key = target.key if target else ""
    return Explanation(caller.agent, caller.task, key, decision, lines, others, changes, in_shadow)


def _in_shadow(
    policy: Policy, caller: Caller, request: Request, target: Target | None, now: datetime, decision: Decision
) -> tuple[Line, ...]:
    """The lines of the task that only the policy in shadow has."""
    shadow = policy.shadow
    if shadow is None or target is None or refusal(shadow, caller, now) is not None:
        return ()
    scope = scope_of(caller, request, target, now)
    task = shadow.tasks[caller.task or ""]
    hidden = {str(line.at) for line in (*task.grants, *task.denies) if line.is_shadow}
    lines = _lines(shadow, caller, target, scope, decision.shadow_at)
    return tuple(replace(line, effect=f"{line.effect} (in shadow)") for line in lines if line.at in hidden)


def _lines(policy: Policy, caller: Caller, target: Target, scope: Scope, decided_by: str) -> Iterator[Line]:
    task = policy.tasks[caller.task or ""]
    candidates = policy.candidates(task.name, target.kind, target.upstream, target.name)
    matching = {id(candidate.grant): candidate for candidate in (*candidates.denies, *candidates.grants)}
    for effect, grants in (("deny", task.denies), ("grant", task.grants)):
        for grant in sorted(grants, key=lambda grant: grant.at):
            yield _line(effect, grant, matching.get(id(grant)), scope, decided_by)


def _line(effect: str, grant: Grant, candidate: Candidate | None, scope: Scope, decided_by: str) -> Line:
    matched, value, with_scopes = "", "", ""
    parts: tuple[Part, ...] = ()
    if candidate is not None:
        matched, value = candidate.pattern.text, describe(holds(candidate, scope))
        with_scopes = describe(holds_with_scopes(candidate, scope))
        parts = tuple(_part(trace) for trace in grant.condition.trace(scope)) if grant.condition else ()
    return Line(
        at=str(grant.at),
        effect=effect,
        patterns=tuple(pattern.text for pattern in grant.patterns),
        matched=matched,
        condition=grant.condition.text if grant.condition else "",
        value=value,
        lacks=tuple(sorted(grant.scopes - (scope.granted or frozenset()))) if candidate is not None else (),
        parts=parts,
        decided=candidate is not None and str(grant.at) == decided_by,
        demands=told(grant.demands) if grant.demands else (),
        with_scopes=with_scopes,
    )


def _part(trace: LeafTrace) -> Part:
    return Part(trace.text, describe(trace.values), trace.problem, trace.decided)


def _others(policy: Policy, caller: Caller, request: Request, target: Target, now: datetime) -> Iterator[Other]:
    for assignment in sorted(policy.assignments.values(), key=lambda assignment: assignment.agent):
        for task in sorted(assignment.tasks):
            if (assignment.agent, task) != (caller.agent, caller.task):
                other = _as_if(caller, assignment.agent, task)
                decision = decide(policy, other, request, target, now)
                if decision.visible:
                    yield Other(assignment.agent, task, decision.effect)


def _as_if(caller: Caller, agent: str, task: str) -> Caller:
    """The caller as another agent on another task, which somebody had started for it where one is started here."""
    started = None if caller.started is None else replace(caller.started, agent=agent, task=task)
    return replace(caller, agent=agent, task=task, started=started)


def _line_text(line: Line) -> Iterator[str]:
    mark = ">" if line.decided else " "
    if not line.matched:
        yield f"{mark} {line.effect} {line.at}: not matched ({', '.join(line.patterns)})"
        return
    yield f"{mark} {line.effect} {line.at}: {line.matched} matches, {_verdict(line)}"
    yield from (f"    asks for {demand}" for demand in line.demands)
    for part in line.parts:
        problem = f": {part.problem}" if part.problem else ""
        yield f"    {'*' if part.decided else ' '} {' '.join(part.text.split())}  ->  {part.value}{problem}"


def _verdict(line: Line) -> str:
    if line.lacks:
        return f"the token lacks the scope {' '.join(line.lacks)}"
    if not line.condition:
        return "without a condition" if line.value == describe(TRUE) else f"in part: {line.value}"
    return f"its condition: {line.value}"
