"""The narrowest policy that would have allowed what was really used: an edit of the files, never a wider one.

Each line keeps what it says besides (its condition, its limits, its mode); its patterns become the targets it was used
for, its condition gets narrower where arguments were plain, and a line that decided nothing goes. What another agent on
the same task used counts too: a task is narrowed for all who are on it. Files are edited as text, comments and all.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
import tomlkit
from tomlkit.items import AoT, Array, Table

from mcp_gateway.domain import Decision, Effect, Kind, PastDecision, Target
from mcp_gateway.policy.compile import Policy
from mcp_gateway.policy.document import Grant
from mcp_gateway.policy.patterns import Match, Pattern

FEWEST_CALLS: Final = 20
"""Calls of one target before its arguments say anything about what is usual."""
MOST_WORDS: Final = 8
"""Different texts of one argument that are still a closed set."""
CALLS_PER_WORD: Final = 5
"""How often each of them comes up on average; fewer, and the next call may bring another."""
MAX_TEXT: Final = 80
MAX_VALUES: Final = 64
MAX_FIELDS: Final = 40


@dataclass(slots=True)
class _Argument:
    """What one argument of one target was."""

    count: int = 0
    values: Counter[Any] = field(default_factory=Counter)
    kinds: set[type] = field(default_factory=set)
    lowest: float | int = 0
    highest: float | int = 0
    is_plain: bool = True

    def see(self, value: Any) -> None:
        self.count += 1
        self.kinds.add(type(value))
        if not isinstance(value, (str, int, float, bool)) or (isinstance(value, str) and len(value) > MAX_TEXT):
            self.is_plain = False
        if not self.is_plain:
            return
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            self.lowest = value if self.count == 1 else min(self.lowest, value)
            self.highest = value if self.count == 1 else max(self.highest, value)
        elif len(self.values) <= MAX_VALUES:
            self.values[value] += 1

    def condition(self, name: str, calls: int) -> str:
        """The narrowest plain condition that held in every call; empty where none is plain."""
        if not self.is_plain or self.count < FEWEST_CALLS or not name.isidentifier():
            return ""
        found = self._range(f"args.{name}") if self.kinds <= {int, float} else self._words(f"args.{name}")
        return found if not found or self.count == calls else f"(!has(args.{name}) || {found})"

    def _range(self, name: str) -> str:
        if self.lowest == self.highest:
            return f"{name} == {_literal(self.lowest)}"
        return f"{name} >= {_literal(self.lowest)} && {name} <= {_literal(self.highest)}"

    def _words(self, name: str) -> str:
        words = sorted(self.values, key=str)
        is_closed = len(words) <= MOST_WORDS and self.count >= CALLS_PER_WORD * len(words)
        if len(self.kinds) != 1 or not is_closed:
            return ""
        if len(words) == 1:
            return f"{name} == {_literal(words[0])}"
        return f"{name} in [{', '.join(map(_literal, words))}]" if self.kinds == {str} else ""


@dataclass(slots=True)
class Use:
    """How one line was used for one target."""

    calls: int = 0
    target: Target | None = None
    arguments: dict[str, _Argument] = field(default_factory=dict)
    is_known: bool = True
    """False: the audit does not hold the arguments of every call as they were."""

    def see(self, row: PastDecision) -> None:
        self.calls += 1
        if row.redactions or (row.args is None and row.args_sha256 is not None):
            self.is_known = False
        if not self.is_known or row.args is None:
            return
        for name, value in orjson.loads(row.args).items():
            if name in self.arguments or len(self.arguments) < MAX_FIELDS:
                self.arguments.setdefault(name, _Argument()).see(value)

    def conditions(self) -> list[str]:
        """What held of the arguments of every call."""
        if not self.is_known:
            return []
        found = (argument.condition(name, self.calls) for name, argument in sorted(self.arguments.items()))
        return [condition for condition in found if condition]


class Evidence:
    """What was used, by line and target: gathered while the current policy is replayed."""

    def __init__(self, targets: Mapping[str, Target]) -> None:
        self.uses: dict[str, dict[str, Use]] = defaultdict(lambda: defaultdict(Use))
        """`file:line` of a grant -> target as policies write it -> use."""
        self.agents: set[str] = set()
        self._targets = targets

    def hear(self, row: PastDecision, decision: Decision) -> None:
        """One past decision, and what the current policy says of it. What that denies is nothing to make room for."""
        if row.effect == Effect.ALLOWED and decision.effect is not Effect.DENIED and decision.grant:
            self.agents.add(row.agent)
            target = self._targets[row.target_hash or ""]
            use = self.uses[decision.grant][_written(target)]
            use.target = target
            use.see(row)


@dataclass(frozen=True, slots=True)
class Proposal:
    """Edited files, and what the edit left out."""

    sources: Mapping[str, str]
    """Every file of the policy, edited or not."""
    unused: tuple[str, ...]
    """`file:line` and pattern of what nothing used."""
    narrowed: tuple[str, ...]


def suggest(
    policy: Policy, sources: Mapping[str, str], tasks: Iterable[str], evidence: Evidence, *, arguments: bool
) -> Proposal:
    """Narrow these tasks to what was used. Everything else in the files stays as it is."""
    documents = {file: tomlkit.parse(text) for file, text in sources.items()}
    unused: list[str] = []
    narrowed: list[str] = []
    for name in sorted(tasks):
        task = policy.tasks[name]
        table = documents[task.at.file]["tasks"][name]
        _share_among_demanding(task.grants, evidence)
        lines = {str(grant.at): grant for grant in task.grants}
        unused += [f"{grant.at} {pattern.text}" for grant, pattern in _unused(task.grants, evidence)]
        narrowed += [at for at in lines if evidence.uses.get(at)]
        _Edit(table, task.grants, evidence, arguments).make()
    texts = {file: tomlkit.dumps(document) for file, document in documents.items()}
    return Proposal(texts, tuple(sorted(unused)), tuple(sorted(narrowed)))


def _share_among_demanding(grants: Iterable[Grant], evidence: Evidence) -> None:
    """Where one line with limits or approvals was used, count it for every such line that speaks of the same target.

    A policy alone does not tell which of them carried a call: that hung on what had been used up at that moment.
    """
    demanding = [grant for grant in grants if grant.demands is not None]
    used = {target: use for grant in demanding for target, use in evidence.uses.get(str(grant.at), {}).items()}
    for grant in demanding:
        for written, use in used.items():
            t = use.target
            if t is not None and any(p.allows(t.kind, t.upstream, t.name) is not Match.NONE for p in grant.patterns):
                evidence.uses[str(grant.at)].setdefault(written, use)


def _unused(grants: Iterable[Grant], evidence: Evidence) -> Iterator[tuple[Grant, Pattern]]:
    for grant in grants:
        targets = [use.target for use in evidence.uses.get(str(grant.at), {}).values() if use.target is not None]
        for pattern in grant.patterns:
            if not any(pattern.allows(t.kind, t.upstream, t.name) is not Match.NONE for t in targets):
                yield grant, pattern


class _Edit:
    """One `[tasks.NAME]` table being narrowed."""

    def __init__(self, table: Any, grants: tuple[Grant, ...], evidence: Evidence, arguments: bool) -> None:
        self._table, self._evidence, self._arguments = table, evidence, arguments
        allow = table.get("allow")
        count = len(allow) if isinstance(allow, list) else 0
        # A document's grants are its `allow` lines first, then its tables, each in the order written.
        self._short, self._long = grants[:count], grants[count:]

    def make(self) -> None:
        more = self._narrow_allow()
        self._narrow_grants()
        for target, use in more:
            self._add(target, use.conditions())

    def _uses(self, grant: Grant) -> Mapping[str, Use]:
        return self._evidence.uses.get(str(grant.at), {})

    def _narrow_allow(self) -> list[tuple[str, Use]]:
        """Write the used targets in the place of `allow`; returns those that need the long form for a condition."""
        used = {target: use for grant in self._short for target, use in self._uses(grant).items()}
        if "allow" not in self._table:
            return []
        long = {target for target, use in used.items() if self._arguments and use.conditions()}
        allow = tomlkit.array()
        allow.extend(sorted(used.keys() - long))
        allow.multiline(len(allow) > 4)
        if len(allow):
            self._table["allow"] = allow
        else:
            del self._table["allow"]
        return [(target, used[target]) for target in sorted(long)]

    def _narrow_grants(self) -> None:
        written = self._table.get("grant")
        if not isinstance(written, (AoT, Array, list)):
            return
        for index in range(len(written) - 1, -1, -1):
            uses = self._uses(self._long[index])
            if not uses:
                del written[index]
                continue
            written[index]["tools"] = sorted(uses)
            conditions = _shared(uses.values()) if self._arguments else []
            if conditions:
                before = [f"({self._long[index].condition.text})"] if self._long[index].condition else []  # type: ignore[union-attr]
                written[index]["when"] = " && ".join([*(each.strip() for each in before), *conditions])
        if not len(written):
            del self._table["grant"]

    def _add(self, target: str, conditions: list[str]) -> None:
        if not isinstance(self._table.get("grant"), AoT):
            self._table["grant"] = tomlkit.aot()
        grant: Table = tomlkit.table()
        grant["tools"] = [target]
        grant["when"] = " && ".join(conditions)
        self._table["grant"].append(grant)


def _shared(uses: Iterable[Use]) -> list[str]:
    """Conditions for one line that is used for several targets: those that all of them have in common."""
    several = [use.conditions() for use in uses]
    return [each for each in several[0] if all(each in others for others in several[1:])]


def _written(target: Target) -> str:
    kind = Kind.RESOURCE if target.kind is Kind.TEMPLATE else target.kind
    return target.key if kind is Kind.TOOL else f"{kind.value}:{target.key}"


def _literal(value: Any) -> str:
    """A value as CEL writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return orjson.dumps(value).decode() if isinstance(value, str) else repr(value)
