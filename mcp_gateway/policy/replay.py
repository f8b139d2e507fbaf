"""Every past decision again, under a candidate policy: what flips each way, and what cannot be known.

The audit keeps arguments redacted and bounded, and neither claims nor a task's context: where a condition needs what is
not kept, all values it could have are taken, and if they do not agree the answer is `unknown`, never a guess. Rows that
are judged alike (one agent, task and target, and no condition that tells them apart) are judged once. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from mcp_gateway.domain import (
    Caller,
    Decision,
    Effect,
    Json,
    Kind,
    PastDecision,
    Reason,
    Request,
    StartedTask,
    Strength,
    Target,
    Verb,
)
from mcp_gateway.policy.compile import Candidates, Policy
from mcp_gateway.policy.conditions import Condition, Scope, Values
from mcp_gateway.policy.decide import for_verb, refusal, scope_of, weigh

MAX_REMEMBERED: Final = 200_000
"""Values of conditions that are remembered."""

_KEPT: Final[Mapping[str, frozenset[str] | None]] = {
    "args": None,
    "person": None,
    "now": None,
    "agent": frozenset({"name"}),
    "task": frozenset({"name", "id"}),
    "tool": frozenset({"name", "annotations", "upstream", "tags"}),
    "request": frozenset({"transport", "method"}),
}
"""What the audit (and today's servers.toml, for tags) tells of what conditions see; None: all of it."""

_WITHOUT_CLAIMS: Final = frozenset({Strength.API_KEY.value, Strength.STDIO.value, Strength.ANONYMOUS.value})
"""Identities that bring no claims: nothing about them is unknown."""

_METHODS: Final[Mapping[Verb, str]] = {
    Verb.CALL: "tools/call",
    Verb.GET: "prompts/get",
    Verb.READ: "resources/read",
}
_OF_THE_MOMENT: Final = frozenset(
    reason.value
    for reason in (
        Reason.TASK_OVER,
        Reason.BUDGET_SPENT,
        Reason.LIMIT_REACHED,
        Reason.OUT_OF_ORDER,
        Reason.APPROVAL_PENDING,
        Reason.APPROVAL_DENIED,
        Reason.FLOW,
    )
)
"""Refusals that hung on what else had happened by then: where the candidate would allow, nobody knows."""

_NOT_THE_POLICY_S: Final = frozenset({Reason.UNKNOWN_TARGET.value, Reason.HELD_BACK.value, Reason.MISUSE.value})

UNKNOWN: Final = "unknown"
_MISSING: Final = object()


@dataclass(frozen=True, slots=True)
class Change:
    """Past decisions that come out alike now: which, how many, and by which line."""

    agent: str
    task: str
    target: str
    before: str
    after: str
    """`allowed`, `denied` or `unknown`."""
    reason: str
    at: str
    """`file:line` of the line that decides now."""
    count: int
    first: int
    """The number of the first such entry."""


@dataclass(slots=True)
class Report:
    """What a replay came to."""

    judged: int = 0
    same: int = 0
    skipped: int = 0
    """Requests for what did not exist, or was held back, or not the caller's: no policy has a say in those."""
    changes: list[Change] = field(default_factory=list)
    used: Counter[str] = field(default_factory=Counter)
    """How often each line decides now."""

    @property
    def newly_allowed(self) -> int:
        return sum(change.count for change in self.changes if change.after == Effect.ALLOWED)

    @property
    def newly_denied(self) -> int:
        return sum(change.count for change in self.changes if change.after == Effect.DENIED)

    @property
    def flips(self) -> int:
        return self.newly_allowed + self.newly_denied

    @property
    def unknown(self) -> int:
        return sum(change.count for change in self.changes if change.after == UNKNOWN)


def replay(
    policy: Policy,
    past: Iterable[PastDecision],
    targets: Mapping[str, Target],
    hears: Callable[..., None] | None = None,
) -> Report:
    """Judge every past decision again; `targets` by the key that entries refer to.

    `hears(row, decision)` is told of each that was judged with what it comes to now.
    """
    memo = _Memo()
    groups: dict[tuple[Any, ...], _Group | None] = {}
    skipped = 0
    for row in past:
        key = (row.agent, row.task, row.verb, row.target_hash, row.person, row.strength, row.started)
        if key not in groups:
            groups[key] = _group(policy, row, targets, memo)
        group = groups[key]
        if group is None or row.reason in _NOT_THE_POLICY_S:
            skipped += 1
            continue
        decision = group.settled or group.judge(row)
        group.count(row, decision)
        if hears is not None:
            hears(row, decision)
    return _report((group for group in groups.values() if group is not None), skipped)


def _report(groups: Iterable[_Group], skipped: int) -> Report:
    """What the groups counted, put together."""
    report = Report(skipped=skipped)
    found: dict[tuple[str, str, str, str, str, str, str], tuple[int, int]] = {}
    for group in groups:
        for before, was_of_the_moment, decision, count, first in group.counted():
            report.judged += count
            report.used[decision.grant] += count
            after = UNKNOWN if decision.effect is Effect.DEPENDS else decision.effect.value
            if was_of_the_moment and after == Effect.ALLOWED:
                after = UNKNOWN
            if after == before:
                report.same += count
                continue
            change = (*group.whose, before, after, decision.reason.value, decision.grant)
            so_far, earliest = found.get(change, (0, first))
            found[change] = so_far + count, min(earliest, first)
    report.changes = [Change(*change, *counts) for change, counts in found.items()]
    report.changes.sort(key=lambda change: (-change.count, change.agent, change.target, change.after))
    del report.used[""]
    return report


def _group(policy: Policy, row: PastDecision, targets: Mapping[str, Target], memo: _Memo) -> _Group | None:
    target = targets.get(row.target_hash or "")
    return None if target is None else _Group(policy, row, target, memo)


class _Memo:
    """What conditions came to that read nothing but arguments: the same for every agent and target."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], Values] = {}

    def values(self, condition: Condition, fields: tuple[str, ...], args: Json, scope: Scope) -> Values:
        """As `Condition.values` for these arguments."""
        values = tuple([args.get(name, _MISSING) for name in fields])
        kinds = tuple([value.__class__ for value in values])  # 1 and True are equal, and not the same to a condition
        if list in kinds or dict in kinds:
            return condition.values(replace(scope, args=args))
        key = (condition, kinds, values)
        found = self._known.get(key)
        if found is None:
            found = condition.values(replace(scope, args=args))
            if len(self._known) < MAX_REMEMBERED:
                self._known[key] = found
        return found


class _Group:
    """Rows of one agent on one task for one target."""

    def __init__(self, policy: Policy, row: PastDecision, target: Target, memo: _Memo) -> None:
        self._target, self._memo = target, memo
        self._policy, self._verb = policy, Verb(row.verb)
        self._caller = Caller(row.agent, row.task, row.person, started=_started(row))
        self._at = datetime.fromisoformat(row.at)
        self.whose = (row.agent, row.task or "", target.key)
        transport = "stdio" if row.strength == Strength.STDIO else "http"
        request = Request("replay", self._verb, _METHODS.get(self._verb, ""), target.kind, target.name, {})
        scope = scope_of(self._caller, request, target, self._at)
        values = {**scope.values, "request": {**scope.values["request"], "transport": transport}}
        self._scope = replace(scope, values=values)
        self._candidates = Candidates((), (), None)
        self._reads: dict[str, set[str] | None] = {}
        self._conditions: tuple[tuple[Condition, tuple[str, ...]], ...] = ()
        """All that decide, with the arguments they read, where they read nothing else."""
        self._known: dict[Any, Decision] = {}
        self._counts: dict[tuple[str, bool, int], list[Any]] = {}
        self.settled = self._settle(row)

    def judge(self, row: PastDecision) -> Decision:
        """What the policy says of one row."""
        if not self._conditions or row.args is None or row.redactions:
            decision = self._weigh(row)
            return self._known.setdefault(decision, decision)
        args, scope, memo = orjson.loads(row.args), self._scope, self._memo
        key = tuple([memo.values(condition, fields, args, scope) for condition, fields in self._conditions])
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._weigh(row)
        return known

    def count(self, row: PastDecision, decision: Decision) -> None:
        key = (
            row.effect,
            row.reason in _OF_THE_MOMENT,
            id(decision),
        )  # decisions of a group are kept, so none takes another's place
        known = self._counts.get(key)
        if known is None:
            self._counts[key] = [1, row.seq, decision]
        else:
            known[0] += 1

    def counted(self) -> Iterator[tuple[str, bool, Decision, int, int]]:
        """What was decided then, whether that hung on the moment, what is now, how often, and the first such entry."""
        for (before, was_of_the_moment, _), (count, first, decision) in self._counts.items():
            yield before, was_of_the_moment, decision, count, first

    def _settle(self, row: PastDecision) -> Decision | None:
        """The decision where it is the same for all rows of the group."""
        if (reason := refusal(self._policy, self._caller, self._at)) is not None:
            return self._policy.refusal(reason)
        target = self._target
        self._candidates = self._policy.candidates(row.task or "", target.kind, target.upstream, target.name)
        if self._candidates.settled is not None:
            return self._candidates.settled
        for line in (*self._candidates.denies, *self._candidates.grants):
            if line.grant.condition is not None:
                _add_reads(self._reads, line.grant.condition.reads)
        if "args" in self._reads and self._scope.args is not None and target.kind is not Kind.RESOURCE:
            self._conditions = self._on_arguments_alone()
            return None
        return None if "now" in self._reads else self._weigh(row)

    def _on_arguments_alone(self) -> tuple[tuple[Condition, tuple[str, ...]], ...]:
        lines = (*self._candidates.denies, *self._candidates.grants)
        conditions = [line.grant.condition for line in lines if line.grant.condition is not None]
        fields = self._reads["args"]
        if fields is None or self._reads.keys() != {"args"}:
            return ()
        return tuple((each, tuple(each.reads["args"] or ())) for each in conditions)

    def _weigh(self, row: PastDecision) -> Decision:
        hidden = self._hidden(row)
        args = self._args(row, hidden)
        values = {**self._scope.values, "now": datetime.fromisoformat(row.at)}
        scope = replace(self._scope, values=values, args=args, hidden=hidden)
        decision = weigh(self._policy, self._candidates, scope)
        if row.strength not in _WITHOUT_CLAIMS and (asked := self._scopes()):
            # The scopes of a token are not kept: they matter where having all of them or none makes a difference.
            decision = self._if_both(decision, weigh(self._policy, self._candidates, replace(scope, granted=asked)))
            hidden = hidden | {"claims"}
        return (
            decision if hidden and decision.effect is Effect.DEPENDS else for_verb(self._policy, self._verb, decision)
        )

    def _scopes(self) -> frozenset[str]:
        return frozenset[str]().union(*(line.grant.scopes for line in self._candidates.grants))

    def _if_both(self, one: Decision, other: Decision) -> Decision:
        """A decision that is the same either way; else one that is open."""
        if one.effect is other.effect or other.effect is not Effect.ALLOWED:
            return other
        return replace(other, effect=Effect.DEPENDS, reason=Reason.GRANT_DEPENDS)

    def _args(self, row: PastDecision, hidden: frozenset[str]) -> Mapping[str, Any] | None:
        if self._scope.args is None or self._target.kind is Kind.RESOURCE:
            return self._scope.args  # what lists and completions see; a resource's own URI
        return orjson.loads(row.args) if row.args and "args" not in hidden else {}

    def _hidden(self, row: PastDecision) -> frozenset[str]:
        """The names among those read whose values the audit does not hold for this row."""
        hidden = {root for root, fields in self._reads.items() if not _is_kept(root, fields)}
        if row.strength in _WITHOUT_CLAIMS:
            hidden.discard("claims")
        if "args" in self._reads and self._target.kind is not Kind.RESOURCE and not _has_args(row, self._reads["args"]):
            hidden.add("args")
        return frozenset(hidden)


def _started(row: PastDecision) -> StartedTask | None:
    """The started task of then; what it was about is not kept, and it had not ended: that has a reason of its own."""
    if row.started is None or row.task is None:
        return None
    return StartedTask(row.started, row.agent, row.task, datetime.max.replace(tzinfo=UTC))


def _add_reads(reads: dict[str, set[str] | None], more: Mapping[str, frozenset[str] | None]) -> None:
    for root, fields in more.items():
        known = reads.setdefault(root, set())
        reads[root] = None if fields is None or known is None else known | fields


def _is_kept(root: str, fields: set[str] | None) -> bool:
    if root not in _KEPT:
        return False
    kept = _KEPT[root]
    return kept is None or (fields is not None and fields <= kept)


def _has_args(row: PastDecision, fields: set[str] | None) -> bool:
    """Whether the arguments a condition reads are there as they were sent."""
    if row.args is None:
        return row.args_sha256 is None  # a call without arguments
    if not row.redactions:
        return True
    touched = {str(each.get("path", "$")) for each in orjson.loads(row.redactions)}
    names = {path.removeprefix("$.").partition(".")[0].partition("[")[0].partition("|")[0] for path in touched}
    return fields is not None and "$" not in touched and not names & fields
