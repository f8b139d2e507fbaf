"""All grants compiled: immutable, with a version, and quick to ask which lines speak of a target.

Pure: no clock, disk or network. What is remembered between questions is bounded and changes no answer.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from types import MappingProxyType
from typing import Any, Final

from mcp_gateway import jsonrpc
from mcp_gateway.domain import Allowance, Assignment, Caller, Decision, Effect, Kind, Reason, Target
from mcp_gateway.policy.budgets import BudgetRule
from mcp_gateway.policy.conditions import TRUE, Scope
from mcp_gateway.policy.demands import FirstCall, FlowRule
from mcp_gateway.policy.document import Agent, Grant, PolicyDocument, Task
from mcp_gateway.policy.patterns import Match, Pattern
from mcp_gateway.policy.tables import Place

MAX_REMEMBERED: Final = 32_768
"""Most targets whose candidates are remembered. Agents choose URIs, so it has to have an end."""
MAX_REMEMBERED_NAME: Final = 512


@dataclass(frozen=True, slots=True)
class Candidate:
    """One line that speaks of a target."""

    grant: Grant
    pattern: Pattern
    match: Match
    """`SOME` only for templates: some of the URIs it stands for."""

    @property
    def is_certain(self) -> bool:
        """Whether it holds whatever is asked: no condition, no scopes, no demands, and all of the target."""
        grant = self.grant
        return grant.condition is None and not grant.scopes and grant.demands is None and self.match is Match.ALL


@dataclass(frozen=True, slots=True)
class Candidates:
    """All lines of one task that speak of one target."""

    denies: tuple[Candidate, ...]
    grants: tuple[Candidate, ...]
    settled: Decision | None
    """The decision, where no condition has a say in it."""
    first_calls: tuple[FirstCall, ...] = ()
    """What this target's calls are waited for by."""
    demanding: bool = False
    """Whether a grant asks for more than its condition."""

    bears_terms: bool = False
    """Whether a call can have more to meet than conditions, its tags aside."""

    alike: tuple[tuple[int, Match], ...] | None = None
    """Targets of a kind for which it is equal are decided alike in a list, their tags aside; None: conditions look at
    the target."""


@dataclass(frozen=True, slots=True)
class Looks:
    """What the lines of a task look at, besides the target and its arguments."""

    names: Mapping[str, frozenset[str] | None]
    """Each name that a condition refers to, with the fields; None: all of it."""
    at_scopes: bool
    """Whether one asks for scopes of the caller's token."""


class LineIndex:
    """The lines of one task by what they can speak of: a lookup among thousands tries only a few of them."""

    def __init__(self, lines: Sequence[Grant]) -> None:
        self._exact: dict[tuple[Kind, str, str], list[Grant]] = defaultdict(list)
        self._others: dict[tuple[Kind, str], list[Grant]] = defaultdict(list)
        for line in lines:
            for pattern in line.patterns:
                # A URI has several spellings, and a deny speaks of all of them: only names can be looked up.
                if pattern.name.is_literal and pattern.kind is not Kind.RESOURCE:
                    self._exact[pattern.kind, pattern.upstream, pattern.name.text].append(line)
                else:
                    self._others[pattern.kind, pattern.upstream].append(line)

    def about(self, kind: Kind, upstream: str, name: str) -> Iterable[Grant]:
        """Every line that may speak of `upstream/name`, each once; `Pattern` tells which do."""
        kind = Kind.RESOURCE if kind is Kind.TEMPLATE else kind
        found: dict[int, Grant] = {}
        for where in (upstream, "*"):
            for lines in (self._exact.get((kind, where, name), ()), self._others.get((kind, where), ())):
                found.update((id(line), line) for line in lines)
        return found.values()


class Policy:
    """Every agent's tasks and every task's lines. Compare versions to compare policies."""

    def __init__(self, document: PolicyDocument, shadow: Policy | None = None) -> None:
        self.shadow = shadow
        """What the policy would be were everything in it enforced; None: it is."""
        self.live: Policy = self if shadow is None else Policy(document)
        """The same without a shadow."""
        self.text = canonical_text(document.sources)
        self.version = _version(document.sources)
        self.warnings = document.warnings
        self.agents = MappingProxyType(dict(document.agents))
        self.tasks: Mapping[str, Task] = MappingProxyType(dict(document.tasks))
        self.assignments: Mapping[str, Assignment] = MappingProxyType(
            {agent.name: Assignment(agent.name, agent.tasks, agent.default_task) for agent in document.agents.values()}
        )
        self._flows = {
            task.name: tuple(sorted((*document.flows, *task.flows), key=lambda rule: rule.at))
            for task in document.tasks.values()
        }
        self.guards = tuple(sorted(document.guards, key=lambda guard: guard.inspection.at))
        self.keeps = document.keeps
        self._first_calls = {task.name: _first_calls(task) for task in document.tasks.values()}
        self.has_terms = any(self._flows.values()) or any(
            grant.demands is not None for task in document.tasks.values() for grant in task.grants
        )
        """Whether any call can have to meet more than conditions."""
        self.tasks_to_start = frozenset(task.name for task in document.tasks.values() if task.has_to_be_started)
        """Those that exist only while somebody has started them."""
        self._matches = tuple(
            (agent.name, agent.match) for agent in sorted(document.agents.values(), key=_name) if agent.match
        )
        self._looks: dict[str, Looks] = {}
        self.budgets = document.budgets
        self._budgets_of: dict[tuple[Kind, str, str], tuple[BudgetRule, ...]] = {}
        self._refusals = {reason: Decision(Effect.DENIED, reason, policy_version=self.version) for reason in Reason}
        self._lines = {name: (LineIndex(task.denies), LineIndex(task.grants)) for name, task in self.tasks.items()}
        self._remembered: dict[tuple[str, Kind, str, str], Candidates] = {}

    def agents_for(self, claims: Mapping[str, Any]) -> tuple[str, ...]:
        """Every agent whose `match` is true of verified claims, by name; one that cannot be evaluated is not true."""
        scope = Scope({"claims": claims}, {})
        return tuple(name for name, match in self._matches if match.values(scope) == TRUE)

    def refusal(self, reason: Reason) -> Decision:
        """The denial for `reason` that no line decided."""
        return self._refusals[reason]

    def looks_at(self, task: str) -> Looks:
        """What a list on `task`, which must be one of `tasks`, hangs on besides the targets."""
        found = self._looks.get(task)
        if found is None:
            found = self._looks[task] = _looks((*self.tasks[task].grants, *self.tasks[task].denies))
        return found

    def flows(self, task: str) -> tuple[FlowRule, ...]:
        """What reading rules out on `task`, which must be one of `tasks`."""
        return self._flows[task]

    def allowances(self, caller: Caller, target: Target) -> list[Allowance]:
        """What a call is paid from."""
        return [rule.allowance(caller, target) for rule in self._rules_for(target)]

    def _rules_for(self, target: Target) -> tuple[BudgetRule, ...]:
        key = (target.kind, target.upstream, target.name)
        found = self._budgets_of.get(key)
        if found is None:
            found = tuple(rule for rule in self.budgets if rule.counts(target))
            if len(self._budgets_of) < MAX_REMEMBERED and len(target.name) <= MAX_REMEMBERED_NAME:
                self._budgets_of[key] = found
        return found

    def candidates(self, task: str, kind: Kind, upstream: str, name: str) -> Candidates:
        """The lines of `task` that speak of `upstream/name`; `task` must be one of `tasks`."""
        key = (task, kind, upstream, name)
        found = self._remembered.get(key)
        if found is None:
            found = self._look_up(*key)
            if len(name) <= MAX_REMEMBERED_NAME:
                self._remember(key, found)
        return found

    def _look_up(self, task: str, kind: Kind, upstream: str, name: str) -> Candidates:
        all_denies, all_grants = self._lines[task]
        denies = self._matching(all_denies.about(kind, upstream, name), kind, upstream, name, is_deny=True)
        grants = self._matching(all_grants.about(kind, upstream, name), kind, upstream, name, is_deny=False)
        waiting = self._first_calls[task]
        first_calls = tuple(f for f in waiting if f.pattern.allows(kind, upstream, name) is Match.ALL)
        demanding = any(grant.grant.demands is not None for grant in grants)
        settled = self._settle(denies, grants)
        alike = _alike(kind, (*denies, *grants))
        return Candidates(denies, grants, settled, first_calls, demanding, demanding or bool(first_calls), alike)

    def _matching(
        self, lines: Iterable[Grant], kind: Kind, upstream: str, name: str, *, is_deny: bool
    ) -> tuple[Candidate, ...]:
        """The matching lines, each by its widest pattern, in an order that does not depend on how they were read."""
        found = []
        for line in lines:
            matches = [((p.denies if is_deny else p.allows)(kind, upstream, name), p) for p in line.patterns]
            match, pattern = max(matches, key=lambda pair: pair[0].value)
            if match is not Match.NONE:
                found.append(Candidate(line, pattern, match))
        return tuple(sorted(found, key=_preference))

    def _settle(self, denies: Sequence[Candidate], grants: Sequence[Candidate]) -> Decision | None:
        certain_deny = next((deny for deny in denies if deny.is_certain), None)
        if certain_deny is not None:
            return self.decided(Effect.DENIED, Reason.DENY, certain_deny)
        if not grants and not any(deny.grant.condition for deny in denies):
            return self.refusal(Reason.NO_GRANT)
        certain_grant = next((grant for grant in grants if grant.is_certain), None)
        if certain_grant is not None and not denies:
            return self.decided(Effect.ALLOWED, Reason.GRANT, certain_grant)
        return None

    def decided(self, effect: Effect, reason: Reason, by: Candidate) -> Decision:
        """The decision that the line `by` made."""
        scopes = tuple(sorted(by.grant.scopes)) if reason is Reason.INSUFFICIENT_SCOPE else ()
        return Decision(effect, reason, str(by.grant.at), self.version, by.grant.reason, scopes=scopes)

    def _remember(self, key: tuple[str, Kind, str, str], found: Candidates) -> None:
        if len(self._remembered) >= MAX_REMEMBERED:
            self._remembered.clear()
        self._remembered[key] = found


def _name(agent: Agent) -> str:
    return agent.name


def compile_policy(document: PolicyDocument) -> Policy:
    """Compile a document. `compile_policy(PolicyDocument())` denies everything."""
    if not document.has_shadow:
        return Policy(document)
    return Policy(document.enforced(), Policy(document))


def canonical_text(sources: Mapping[str, str]) -> str:
    """All files as one text that can be read and taken apart again: what the audit keeps of a policy."""
    parts = []
    for file in sorted(sources):
        text = sources[file].removesuffix("\n")
        parts.append(f"==> {file} ({text.count(chr(10)) + 1} lines) <==\n{text}\n")
    return "".join(parts)


def sources_of(text: str) -> dict[str, str]:
    """The files in a `canonical_text`, for `document.from_sources`."""
    sources = {}
    lines = text.split("\n")
    at = 0
    while at < len(lines) and lines[at]:
        file, _, count = lines[at].removeprefix("==> ").removesuffix(" lines) <==").rpartition(" (")
        end = at + 1 + int(count)
        sources[file] = "\n".join(lines[at + 1 : end]) + "\n"
        at = end
    return sources


def _preference(candidate: Candidate) -> tuple[bool, bool, Place]:
    """What demands nothing comes first: a call is never counted, or held, that another grant lets through."""
    grant = candidate.grant
    return (grant.demands is not None, grant.condition is not None, grant.at)


def _first_calls(task: Task) -> tuple[FirstCall, ...]:
    return tuple(grant.demands.after for grant in task.grants if grant.demands and grant.demands.after)


def _alike(kind: Kind, candidates: Sequence[Candidate]) -> tuple[tuple[int, Match], ...] | None:
    """Which lines speak of a target, and how far; None where a condition can tell it from others in a list."""
    conditions = [candidate.grant.condition for candidate in candidates if candidate.grant.condition is not None]
    # Of arguments a list knows the URI of a resource, and nothing else.
    if any("tool" in each.reads or (kind is Kind.RESOURCE and each.reads_args) for each in conditions):
        return None
    return tuple((id(candidate.grant), candidate.match) for candidate in candidates)


def _looks(lines: Sequence[Grant]) -> Looks:
    names: dict[str, frozenset[str] | None] = {}
    for reads in [line.condition.reads for line in lines if line.condition is not None]:
        for name in reads.keys() - {"tool", "args"}:
            known, fields = names.get(name, frozenset()), reads[name]
            names[name] = None if known is None or fields is None else known | fields
    return Looks(MappingProxyType(names), any(line.scopes for line in lines))


def _version(sources: Mapping[str, str]) -> str:
    """SHA-256 (hex) over the files' own names and texts: where the directory stands makes no other policy of it."""
    content = sorted([PurePath(file).name, text.removesuffix("\n")] for file, text in sources.items())
    return hashlib.sha256(jsonrpc.canonical(content)).hexdigest()
