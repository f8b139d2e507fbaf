"""Policy files as operators wrote them, checked whole: every complaint with its file and line.

`policies/*.toml` are one set: the order of files and tables never matters. A key nobody reads is an error, and so is a
key that is designed but not enforced yet: nobody may believe in a limit that is not there. An empty set is valid and
denies everything. Reads files; knows nothing of callers, targets or decisions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from mcp_gateway.config.toml_lines import KeyPath, Lines, did_you_mean, parse
from mcp_gateway.domain import DRAFTS, MODELS, PROVIDER_TOOLS, Budget
from mcp_gateway.errors import Complaint, ConfigInvalid, PolicyInvalid
from mcp_gateway.policy.budgets import BudgetRule, read_budget_rule
from mcp_gateway.policy.conditions import Condition, compile_condition
from mcp_gateway.policy.demands import (
    LONGEST_TASK_S,
    OWN_FIELDS,
    Demands,
    FlowRule,
    read_budget,
    read_context,
    read_demands,
    read_flow,
)
from mcp_gateway.policy.expression import ConditionError
from mcp_gateway.policy.guarding import Guard, read_guard
from mcp_gateway.policy.keeping import Keep, read_keep
from mcp_gateway.policy.patterns import Pattern, PatternError, parse_pattern
from mcp_gateway.policy.tables import CODE, Place, Table

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")  # RFC 6749 section 3.3

# Keys that are enforced, by the type they have; and those that are designed and not enforced yet.
_TOP: Final[Mapping[str, type]] = {
    "agents": dict,
    "tasks": dict,
    "flow": list,
    "budgets": dict,
    "guard": list,
    "keep": list,
    "mode": str,
}
_AGENT: Final[Mapping[str, type]] = {"match": str, "tasks": list, "default_task": str}
_TASK: Final[Mapping[str, type]] = {
    "purpose": str,
    "allow": list,
    "grant": list,
    "deny": list,
    "ttl": str,
    "limit": dict,
    "context": list,
    "flow": list,
    "models": dict,
    "mode": str,
    "routes": dict,
}
_ROUTES: Final[Mapping[str, type]] = {"allow": list, "drafts": list}
_MODELS: Final[Mapping[str, type]] = {"allow": list, "provider_tools": list}
_GRANT: Final[Mapping[str, type]] = {
    "tools": list,
    "when": str,
    "scopes": list,
    "limit": dict,
    "after": dict,
    "approval": str,
    "mode": str,
}
_DENY: Final[Mapping[str, type]] = {"tools": list, "when": str, "reason": str, "mode": str}
_TOP_LATER: Final[frozenset[str]] = frozenset()
_AGENT_LATER: Final[frozenset[str]] = frozenset()
_TASK_LATER: Final[frozenset[str]] = frozenset()
_GRANT_LATER: Final[frozenset[str]] = frozenset()
_DENY_LATER: Final[frozenset[str]] = frozenset()
_MODES: Final = ("enforce", "shadow")


@dataclass(frozen=True, slots=True)
class Grant:
    """One line that allows or denies."""

    at: Place
    patterns: tuple[Pattern, ...]
    condition: Condition | None = None
    reason: str = ""
    """A deny's own words, for operators."""
    demands: Demands | None = None
    """What it asks for besides its condition."""
    scopes: frozenset[str] = frozenset()
    """What the caller's token must have been given, all of it; a grant only."""
    is_shadow: bool = False
    """Judged and recorded beside the live decision, never enforced."""


@dataclass(frozen=True, slots=True)
class Agent:
    """One `[agents.NAME]` table."""

    name: str
    tasks: tuple[str, ...]
    default_task: str | None
    at: Place
    match: Condition | None = None
    """Over the claims of a verified token: whether it is this agent's."""
    is_shadow: bool = False
    """Named only in a file that is in shadow: to the live policy it is a stranger."""


@dataclass(frozen=True, slots=True)
class Task:
    """One `[tasks.NAME]` table."""

    name: str
    purpose: str
    grants: tuple[Grant, ...]
    denies: tuple[Grant, ...]
    at: Place
    ttl_s: float | None = None
    """The longest a started one lives."""
    budget: Budget = field(default_factory=Budget)
    context: frozenset[str] = frozenset()
    """What whoever starts it has to set."""
    flows: tuple[FlowRule, ...] = ()

    @property
    def has_to_be_started(self) -> bool:
        """Whether there is no such task until somebody starts it: what ends or is used up has to begin."""
        return self.ttl_s is not None or bool(self.budget) or bool(self.context)


@dataclass(frozen=True, slots=True)
class PolicyDocument:
    """A whole set of policy files, found valid. The empty one denies everything."""

    agents: Mapping[str, Agent] = field(default_factory=dict)
    tasks: Mapping[str, Task] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    """The text of each file, by the name it has in complaints and decisions."""
    flows: tuple[FlowRule, ...] = ()
    """Those of every task."""
    guards: tuple[Guard, ...] = ()
    keeps: tuple[Keep, ...] = ()
    warnings: tuple[Complaint, ...] = ()
    budgets: tuple[BudgetRule, ...] = ()

    @property
    def has_shadow(self) -> bool:
        """Whether some line is not enforced."""
        lines = (line for task in self.tasks.values() for line in (*task.grants, *task.denies))
        return any(line.is_shadow for line in lines) or any(agent.is_shadow for agent in self.agents.values())

    def enforced(self) -> PolicyDocument:
        """The same without what is in shadow. Tasks stay, empty if need be: a live agent may name them."""
        agents = {name: agent for name, agent in self.agents.items() if not agent.is_shadow}
        tasks = {
            name: replace(task, grants=_enforced(task.grants), denies=_enforced(task.denies))
            for name, task in self.tasks.items()
        }
        return replace(self, agents=agents, tasks=tasks)


def _enforced(lines: Sequence[Grant]) -> tuple[Grant, ...]:
    return tuple(line for line in lines if not line.is_shadow)


def load(directory: Path) -> PolicyDocument:
    """Read `directory/*.toml`, tests (`*.test.toml`) and hidden files left out.

    Raises `PolicyInvalid` with every complaint. A directory that is missing or empty is a valid policy that denies
    everything; `warnings` says so.
    """
    sources: dict[str, str] = {}
    complaints: list[Complaint] = []
    for path in policy_files(directory):
        name = f"{directory.name}/{path.name}"  # the same on every machine: versions and audit rows hold it
        try:
            sources[name] = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as e:
            complaints.append(Complaint(name, 1, f"cannot be read: {e}", code=CODE))
    return _read(sources, complaints, _nothing_there(directory) if not sources else ())


def from_sources(sources: Mapping[str, str]) -> PolicyDocument:
    """The same for texts that are at hand, by file name (a past policy out of the audit, a candidate in a test)."""
    return _read(sources, [], ())


def policy_files(directory: Path) -> list[Path]:
    """The files that make up the policy, in name order. Raises `PolicyInvalid` if the directory cannot be read."""
    return [path for path in _toml_files(directory) if not path.name.endswith(".test.toml")]


def case_files(directory: Path) -> list[Path]:
    """The policy's tests, in name order. Raises `PolicyInvalid` if the directory cannot be read."""
    return [path for path in _toml_files(directory) if path.name.endswith(".test.toml")]


def _toml_files(directory: Path) -> list[Path]:
    try:
        paths = sorted(directory.iterdir(), key=lambda path: path.name)
    except FileNotFoundError:
        return []
    except OSError as e:
        raise PolicyInvalid([Complaint(str(directory), 1, f"cannot be read: {e.strerror}", code=CODE)]) from e
    # Editors leave their lock files as `.#name.toml`.
    return [path for path in paths if path.suffix == ".toml" and not path.name.startswith(".")]


def _nothing_there(directory: Path) -> tuple[Complaint, ...]:
    what = "holds no policy" if directory.is_dir() else "does not exist"
    fix = "write a file such as agents.toml there"
    return (Complaint(str(directory), 1, f"the policy directory {what}: everything is denied", fix, CODE),)


def _read(sources: Mapping[str, str], complaints: list[Complaint], warnings: tuple[Complaint, ...]) -> PolicyDocument:
    reader = _Reader(complaints)
    for file in sorted(sources):
        try:
            document, lines = parse(sources[file], file)
        except ConfigInvalid as e:
            complaints.extend(e.complaints)
            continue
        reader.read_file(document, lines)
    reader.check_names()
    if complaints:
        raise PolicyInvalid(sorted(complaints, key=lambda complaint: (complaint.file, complaint.line)))
    return PolicyDocument(
        agents=reader.agents,
        tasks=reader.tasks,
        sources=dict(sources),
        flows=tuple(reader.flows),
        guards=tuple(reader.guards),
        keeps=tuple(reader.keeps),
        warnings=warnings,
        budgets=tuple(reader.budgets.values()),
    )


class _Reader:
    """Turns parsed files into agents and tasks, collecting complaints on the way."""

    def __init__(self, complaints: list[Complaint]) -> None:
        self.agents: dict[str, Agent] = {}
        self.tasks: dict[str, Task] = {}
        self.flows: list[FlowRule] = []
        self.budgets: dict[str, BudgetRule] = {}
        self.guards: list[Guard] = []
        self.keeps: list[Keep] = []
        self._complaints = complaints
        self._agent_lines: dict[str, Lines] = {}

    def read_file(self, document: Mapping[str, Any], lines: Lines) -> None:
        table = Table(document, (), lines, self._complaints)
        table.check_keys(_TOP, _TOP_LATER)
        is_shadow = _is_shadow(table)
        for name, agent in table.tables("agents"):
            if self._is_new("agent", name, self.agents, agent):
                self.agents[name] = replace(_read_agent(name, agent), is_shadow=is_shadow)
                self._agent_lines[name] = lines
        for name, task in table.tables("tasks"):
            if self._is_new("task", name, self.tasks, task):
                self.tasks[name] = _in_shadow(_read_task(name, task), is_shadow or _is_shadow(task))
        flows = [read_flow(each) for each in table.array("flow")]
        self.flows.extend(() if is_shadow else flows)
        for name, budget in table.tables("budgets"):
            if self._is_new("budget", name, self.budgets, budget):
                self.budgets[name] = read_budget_rule(name, budget)
        self.guards.extend(read_guard(each, is_shadow=is_shadow) for each in table.array("guard"))
        keeps = [read_keep(each) for each in table.array("keep")]
        self.keeps.extend(() if is_shadow else keeps)

    def check_names(self) -> None:
        """What agents say of tasks, once all files are read."""
        for agent in self.agents.values():
            lines = self._agent_lines[agent.name]
            for index, task in enumerate(agent.tasks):
                if task not in self.tasks:
                    path: KeyPath = ("agents", agent.name, "tasks", index)
                    fix = did_you_mean(task, self.tasks)
                    self._complaints.append(lines.complaint(path, f"there is no task {task!r}", fix, CODE))
            if agent.default_task is not None and agent.default_task not in agent.tasks:
                path = ("agents", agent.name, "default_task")
                message = f"default_task {agent.default_task!r} is not among the agent's tasks"
                self._complaints.append(
                    lines.complaint(path, message, did_you_mean(agent.default_task, agent.tasks), CODE)
                )

    def _is_new(self, what: str, name: str, known: Mapping[str, Agent | Task | BudgetRule], table: Table) -> bool:
        if not _NAME.fullmatch(name):
            fix = "letters, digits, '.', '_' and '-', at most 64"
            table.complain((), f"{name!r} cannot be the name of an agent, a task or a budget", fix)
            return False
        if name in known:
            table.complain((), f"{what} {name!r} is already defined at {known[name].at}", "join the two")
            return False
        return True


def _read_agent(name: str, table: Table) -> Agent:
    table.check_keys(_AGENT, _AGENT_LATER)
    table.require("tasks", 'write tasks = ["..."]')
    tasks = tuple(text for _, text in table.texts("tasks"))
    return Agent(name, tasks, table.text("default_task"), table.place(), _match(table))


def _match(table: Table) -> Condition | None:
    """`match`. It says who somebody is, so it sees the claims and nothing that comes of knowing that."""
    condition = _condition(table, "match")
    others = sorted(condition.roots - {"claims"}) if condition else []
    for name in others:
        table.complain(("match",), f"'match' cannot refer to {name!r}", "it sees claims only, e.g. claims.client_id")
    return None if others else condition


def _read_task(name: str, table: Table) -> Task:
    table.check_keys(_TASK, _TASK_LATER)
    short = [
        Grant(table.place(("allow", index)), patterns)
        for index, text in table.texts("allow")
        if (patterns := _patterns(table, "allow", [(index, text)], any_upstream=False))
    ]
    grant_tables, deny_tables = list(table.array("grant")), list(table.array("deny"))
    grants = [_read_grant(each, _GRANT, _GRANT_LATER, any_upstream=False) for each in grant_tables]
    denies = [_read_grant(each, _DENY, _DENY_LATER, any_upstream=True) for each in deny_tables]
    limit, context = table.table("limit"), read_context(table)
    _check_context([*grant_tables, *deny_tables], [*grants, *denies], context)
    return Task(
        name,
        table.text("purpose") or "",
        (*short, *_read_models(table.table("models")), *_read_routes(table.table("routes")), *grants),
        tuple(denies),
        table.place(),
        ttl_s=table.seconds("ttl", LONGEST_TASK_S),
        budget=Budget() if limit is None else read_budget(limit),
        context=context,
        flows=tuple(read_flow(each) for each in table.array("flow")),
    )


def _read_models(table: Table | None) -> list[Grant]:
    """`[tasks.NAME.models]`: short for grants of `model:models/...` and of what providers do by themselves."""
    if table is None:
        return []
    table.check_keys(_MODELS, frozenset())
    return [
        Grant(table.place((key, index)), patterns)
        for key, upstream in (("allow", MODELS), ("provider_tools", PROVIDER_TOOLS))
        for index, text in table.texts(key)
        if (patterns := _patterns(table, key, [(index, f"model:{upstream}/{text}")], any_upstream=False))
    ]


def _check_context(tables: Sequence[Table], grants: Sequence[Grant], context: frozenset[str]) -> None:
    """Conditions may read of their task what it always has, and what it is started with."""
    known = OWN_FIELDS | context
    for table, grant in zip(tables, grants, strict=True):
        for name in sorted((grant.condition.fields_of("task") if grant.condition else frozenset()) - known):
            fix = did_you_mean(name, known) if context else f"write context = [{name!r}] into the task"
            table.complain(("when",), f"this task has no {name!r} in its context", fix)


def _read_routes(table: Table | None) -> list[Grant]:
    """`[tasks.NAME.routes]`: `"orders: GET /v1/**"` is short for a grant of `route:orders/GET /v1/**`.

    `drafts` names routes whose drafts are there besides: `"orders/v3"`, short for `route:_drafts/orders/v3`.
    """
    if table is None:
        return []
    table.check_keys(_ROUTES, frozenset())
    grants = []
    for index, text in table.texts("allow"):
        server, colon, line = text.partition(": ")
        methods, space, path = line.strip().partition(" ")
        if not (colon and space and path.startswith(("/", "**"))):
            fix = 'write "SERVER: GET /v1/orders/**"'
            table.complain(("allow", index), f"{text!r} is not a server, a method and a path", fix)
            continue
        texts = [(index, f"route:{server}/{method} {path}") for method in methods.split(",")]
        grants.append(Grant(table.place(("allow", index)), _patterns(table, "allow", texts, any_upstream=False)))
    for index, text in table.texts("drafts"):
        texts = [(index, f"route:{DRAFTS}/{text}")]
        grants.append(Grant(table.place(("drafts", index)), _patterns(table, "drafts", texts, any_upstream=False)))
    return grants


def _read_grant(table: Table, known: Mapping[str, type], later: frozenset[str], *, any_upstream: bool) -> Grant:
    table.check_keys(known, later)
    table.require_some("tools", 'write tools = ["upstream/name"]')
    patterns = _patterns(table, "tools", list(table.texts("tools")), any_upstream=any_upstream)
    demands = None if any_upstream else read_demands(table)
    condition, reason = _condition(table, "when"), table.text("reason") or ""
    return Grant(table.place(), patterns, condition, reason, demands, _scopes(table), _is_shadow(table))


def _scopes(table: Table) -> frozenset[str]:
    scopes = []
    for index, text in table.texts("scopes"):
        if not _SCOPE.fullmatch(text):
            table.complain(("scopes", index), f"{text!r} is no scope", 'one word, such as "crm:write"')
        scopes.append(text)
    return frozenset(scopes)


def _in_shadow(task: Task, is_shadow: bool) -> Task:
    """The task with all its lines in shadow, if it is; what it rules out is then not enforced either."""
    if not is_shadow:
        return task
    grants, denies = ([replace(line, is_shadow=True) for line in lines] for lines in (task.grants, task.denies))
    return replace(task, grants=tuple(grants), denies=tuple(denies), flows=())


def _is_shadow(table: Table) -> bool:
    """Whether its `mode` says that nothing in it is enforced."""
    mode = table.text("mode")
    if mode is not None and mode not in _MODES:
        table.complain(("mode",), f"'mode' cannot be {mode!r}", did_you_mean(mode, _MODES))
    return mode == "shadow"


def _patterns(table: Table, key: str, texts: Sequence[tuple[int, str]], *, any_upstream: bool) -> tuple[Pattern, ...]:
    patterns = []
    for index, text in texts:
        try:
            patterns.append(parse_pattern(text, any_upstream=any_upstream))
        except PatternError as e:
            table.complain((key, index), str(e), e.fix)
    return tuple(patterns)


def _condition(table: Table, key: str) -> Condition | None:
    text = table.text(key)
    if text is None:
        return None
    try:
        return compile_condition(text)
    except ConditionError as e:
        for problem in e.problems:
            table.complain((key,), problem.message, problem.fix)
        return None
