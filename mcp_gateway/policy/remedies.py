"""What would have to change for a denied call to be allowed: in the call, or in the policy. For operators.

Says which places decide, never that one should be changed. A deny has to stop holding; of the grants one has to hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from mcp_gateway.domain import Caller, Effect, Kind, Reason, Target
from mcp_gateway.policy.compile import Policy

MAX_REMEDIES: Final = 12


class Part(Protocol):
    """One part of a condition, as `explain` has it."""

    @property
    def text(self) -> str: ...
    @property
    def value(self) -> str: ...
    @property
    def problem(self) -> str: ...
    @property
    def decided(self) -> bool: ...


class Line(Protocol):
    """One line of a task, as `explain` has it."""

    @property
    def at(self) -> str: ...
    @property
    def effect(self) -> str: ...
    @property
    def matched(self) -> str: ...
    @property
    def value(self) -> str: ...
    @property
    def with_scopes(self) -> str: ...
    @property
    def lacks(self) -> Sequence[str]: ...
    @property
    def parts(self) -> Sequence[Part]: ...


def remedies(policy: Policy, caller: Caller, target: Target | None, reason: Reason, lines: Sequence[Line]) -> list[str]:
    """Sentences, what is in the way first; nothing for what is allowed or does not exist."""
    if target is None:
        return []
    match reason:
        case Reason.UNKNOWN_AGENT:
            found = [f"a policy would have to name the agent: [agents.{caller.agent}]"]
        case Reason.NO_TASK:
            found = list(_by_another_task(policy, caller, target))
        case Reason.TASK_NOT_ASSIGNED:
            found = [f"{caller.task!r} would have to be among the tasks of [agents.{caller.agent}]"]
        case Reason.TASK_NOT_STARTED | Reason.TASK_OVER:
            found = [f"somebody would have to start the task: mcp-gateway task start {caller.agent} {caller.task}"]
        case Reason.NO_GRANT:
            written = target.key if target.kind is Kind.TOOL else f"{target.kind.value}:{target.key}"
            found = [f"a line of [tasks.{caller.task}] would have to allow {written!r}"]
            found += _by_another_task(policy, caller, target)
        case Reason.DENY | Reason.DENY_UNEVALUABLE:
            found = [*_denies(lines), *_grants(lines, only_if_none_holds=True)]
        case Reason.CONDITION_FALSE | Reason.CONDITION_UNEVALUABLE | Reason.INSUFFICIENT_SCOPE:
            found = list(_grants(lines, only_if_none_holds=False))
        case _:
            found = []
    return found[:MAX_REMEDIES]


def _denies(lines: Sequence[Line]) -> Iterator[str]:
    for line in lines:
        if line.effect == "deny" and line.matched and line.value != "false":
            if not line.parts:
                yield f"the deny at {line.at} would have to go: it has no condition"
            else:
                yield f"the deny at {line.at} would have to be false: {_parts(line)}"


def _grants(lines: Sequence[Line], *, only_if_none_holds: bool) -> Iterator[str]:
    matching = [line for line in lines if line.effect == "grant" and line.matched]
    if only_if_none_holds and any(line.value == "true" for line in matching):
        return
    if not matching:
        yield "and some line would have to allow it"
    for line in sorted(matching, key=lambda line: not _lacks_scopes_only(line)):
        scopes = f"the token would need the scope{'s' if len(line.lacks) > 1 else ''} {' '.join(line.lacks)}"
        if _lacks_scopes_only(line):
            yield f"{scopes}, for the grant at {line.at}"
        else:
            also = f"{scopes}, and " if line.lacks else ""
            yield f"{also}the grant at {line.at} would have to be true: {_parts(line)}"


def _lacks_scopes_only(line: Line) -> bool:
    """Whether it would hold if the token had every scope."""
    return bool(line.lacks) and line.with_scopes == "true"


def _parts(line: Line) -> str:
    """The parts because of which its condition came out as it did."""
    told = []
    for part in line.parts:
        if part.decided:
            problem = f" ({part.problem})" if part.problem else ""
            value = part.value if part.value.startswith(("cannot", "depends")) else f"is {part.value}"
            told.append(f"`{' '.join(part.text.split())}` {value}{problem}")
    return ", ".join(told) or line.with_scopes


def _by_another_task(policy: Policy, caller: Caller, target: Target) -> Iterator[str]:
    """The agent's other tasks that speak of the target."""
    assignment = policy.assignments.get(caller.agent)
    for task in assignment.tasks if assignment else ():
        if task == caller.task:
            continue
        found = policy.candidates(task, target.kind, target.upstream, target.name)
        if found.grants and (found.settled is None or found.settled.effect is not Effect.DENIED):
            yield f"the agent would have to be on its task {task!r}, which has a grant for it"
