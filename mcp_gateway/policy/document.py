"""Policy files as operators wrote them, checked whole: every complaint with its file and line.

`policies/*.toml` are one set: the order of files and tables never matters. A key nobody reads is an error, and so is a
key that is designed but not enforced yet: nobody may believe in a limit that is not there. An empty set is valid and
denies everything. Reads files; knows nothing of callers, targets or decisions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mcp_gateway.config.toml_lines import KeyPath, Lines, did_you_mean, parse
from mcp_gateway.errors import Complaint, ConfigInvalid, PolicyInvalid
from mcp_gateway.policy.conditions import Condition, compile_condition
from mcp_gateway.policy.expression import ConditionError
from mcp_gateway.policy.patterns import Pattern, PatternError, parse_pattern

CODE: Final = "GW-POLICY"
"""The code of every complaint about a policy's content."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TYPE_WORDS: Final[Mapping[type, str]] = {str: "a text", list: "a list", dict: "a table"}

# Keys that are enforced, by the type they have; and those that are designed and not enforced yet.
_TOP: Final[Mapping[str, type]] = {"agents": dict, "tasks": dict}
_AGENT: Final[Mapping[str, type]] = {"tasks": list, "default_task": str}
_TASK: Final[Mapping[str, type]] = {"purpose": str, "allow": list, "grant": list, "deny": list}
_GRANT: Final[Mapping[str, type]] = {"tools": list, "when": str}
_DENY: Final[Mapping[str, type]] = {"tools": list, "when": str, "reason": str}
_TOP_LATER: Final = frozenset({"mode"})
_AGENT_LATER: Final = frozenset({"match"})
_TASK_LATER: Final = frozenset({"ttl", "limit", "models", "routes", "mode"})
_GRANT_LATER: Final = frozenset({"limit", "after", "approval", "mode"})
_DENY_LATER: Final = frozenset({"mode"})


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where something is written. Sorts by file, then line."""

    file: str
    line: int
    column: int = 0
    """Position among patterns of one line; only for a stable order."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Grant:
    """One line that allows or denies."""

    at: Place
    patterns: tuple[Pattern, ...]
    condition: Condition | None = None
    reason: str = ""
    """A deny's own words, for operators."""


@dataclass(frozen=True, slots=True)
class Agent:
    """One `[agents.NAME]` table."""

    name: str
    tasks: tuple[str, ...]
    default_task: str | None
    at: Place


@dataclass(frozen=True, slots=True)
class Task:
    """One `[tasks.NAME]` table."""

    name: str
    purpose: str
    grants: tuple[Grant, ...]
    denies: tuple[Grant, ...]
    at: Place


@dataclass(frozen=True, slots=True)
class PolicyDocument:
    """A whole set of policy files, found valid. The empty one denies everything."""

    agents: Mapping[str, Agent] = field(default_factory=dict)
    tasks: Mapping[str, Task] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    """The text of each file, by the name it has in complaints and decisions."""
    warnings: tuple[Complaint, ...] = ()


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
    return PolicyDocument(reader.agents, reader.tasks, dict(sources), warnings)


class _Reader:
    """Turns parsed files into agents and tasks, collecting complaints on the way."""

    def __init__(self, complaints: list[Complaint]) -> None:
        self.agents: dict[str, Agent] = {}
        self.tasks: dict[str, Task] = {}
        self._complaints = complaints
        self._agent_lines: dict[str, Lines] = {}

    def read_file(self, document: Mapping[str, Any], lines: Lines) -> None:
        table = _Table(document, (), lines, self._complaints)
        table.check_keys(_TOP, _TOP_LATER)
        for name, agent in table.tables("agents"):
            if self._is_new("agent", name, self.agents, agent):
                self.agents[name] = _read_agent(name, agent)
                self._agent_lines[name] = lines
        for name, task in table.tables("tasks"):
            if self._is_new("task", name, self.tasks, task):
                self.tasks[name] = _read_task(name, task)

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

    def _is_new(self, what: str, name: str, known: Mapping[str, Agent | Task], table: _Table) -> bool:
        if not _NAME.fullmatch(name):
            fix = "letters, digits, '.', '_' and '-', at most 64"
            table.complain((), f"{name!r} cannot be the name of an agent or a task", fix)
            return False
        if name in known:
            table.complain((), f"{what} {name!r} is already defined at {known[name].at}", "join the two")
            return False
        return True


class _Table:
    """One TOML table, with its place; every wrong thing found is complained about once."""

    def __init__(self, values: Mapping[str, Any], path: KeyPath, lines: Lines, complaints: list[Complaint]) -> None:
        self._values = values
        self._path = path
        self._lines = lines
        self._complaints = complaints

    def complain(self, path: KeyPath, message: str, fix: str = "") -> None:
        self._complaints.append(self._lines.complaint((*self._path, *path), message, fix, CODE))

    def check_keys(self, known: Mapping[str, type], later: frozenset[str]) -> None:
        for key, value in self._values.items():
            if key in later:
                self.complain((key,), f"{key!r} is not supported yet: it would not be enforced", "leave it out")
            elif key not in known:
                self._complaints.append(self._lines.unknown_key((*self._path, key), {*known, *later}, CODE))
            elif not isinstance(value, known[key]):
                self.complain((key,), f"{key!r} must be {_TYPE_WORDS[known[key]]}")

    def require(self, key: str, fix: str) -> None:
        if key not in self._values:
            self.complain((), f"{key!r} is missing", fix)

    def require_some(self, key: str, fix: str) -> None:
        self.require(key, fix)
        if self._values.get(key) == []:
            self.complain((key,), f"{key!r} is empty: it speaks of nothing", fix)

    def text(self, key: str) -> str | None:
        value = self._values.get(key)
        return value if isinstance(value, str) else None

    def texts(self, key: str) -> Iterator[tuple[int, str]]:
        """The texts of a list, with their positions."""
        for index, item in self._items(key):
            if isinstance(item, str):
                yield index, item
            else:
                self.complain((key, index), f"{key!r} must be a list of texts")

    def tables(self, key: str) -> Iterator[tuple[str, _Table]]:
        """The named tables below `key`."""
        value = self._values.get(key)
        for name, item in value.items() if isinstance(value, dict) else ():
            if isinstance(item, dict):
                yield name, self._at((key, name), item)
            else:
                self.complain((key, name), f"'{key}.{name}' must be a table", f"write [{key}.{name}]")

    def array(self, key: str) -> Iterator[_Table]:
        """The tables of an array of tables."""
        for index, item in self._items(key):
            if isinstance(item, dict):
                yield self._at((key, index), item)
            else:
                self.complain((key, index), f"{key!r} must be tables", f"write [[{self._name()}.{key}]]")

    def place(self, path: KeyPath = ()) -> Place:
        return Place(self._lines.file, self._lines.of((*self._path, *path)), _position(path))

    def _items(self, key: str) -> Iterator[tuple[int, Any]]:
        value = self._values.get(key)
        yield from enumerate(value if isinstance(value, list) else ())

    def _at(self, path: KeyPath, values: Mapping[str, Any]) -> _Table:
        return _Table(values, (*self._path, *path), self._lines, self._complaints)

    def _name(self) -> str:
        return ".".join(str(part) for part in self._path)


def _position(path: KeyPath) -> int:
    return next((part for part in path if isinstance(part, int)), 0)


def _read_agent(name: str, table: _Table) -> Agent:
    table.check_keys(_AGENT, _AGENT_LATER)
    table.require("tasks", 'write tasks = ["..."]')
    tasks = tuple(text for _, text in table.texts("tasks"))
    return Agent(name, tasks, table.text("default_task"), table.place())


def _read_task(name: str, table: _Table) -> Task:
    table.check_keys(_TASK, _TASK_LATER)
    short = [
        Grant(table.place(("allow", index)), patterns)
        for index, text in table.texts("allow")
        if (patterns := _patterns(table, "allow", [(index, text)], any_upstream=False))
    ]
    grants = [_read_grant(each, _GRANT, _GRANT_LATER, any_upstream=False) for each in table.array("grant")]
    denies = [_read_grant(each, _DENY, _DENY_LATER, any_upstream=True) for each in table.array("deny")]
    return Task(name, table.text("purpose") or "", (*short, *grants), tuple(denies), table.place())


def _read_grant(table: _Table, known: Mapping[str, type], later: frozenset[str], *, any_upstream: bool) -> Grant:
    table.check_keys(known, later)
    table.require_some("tools", 'write tools = ["upstream/name"]')
    patterns = _patterns(table, "tools", list(table.texts("tools")), any_upstream=any_upstream)
    return Grant(table.place(), patterns, _condition(table), table.text("reason") or "")


def _patterns(table: _Table, key: str, texts: Sequence[tuple[int, str]], *, any_upstream: bool) -> tuple[Pattern, ...]:
    patterns = []
    for index, text in texts:
        try:
            patterns.append(parse_pattern(text, any_upstream=any_upstream))
        except PatternError as e:
            table.complain((key, index), str(e), e.fix)
    return tuple(patterns)


def _condition(table: _Table) -> Condition | None:
    text = table.text("when")
    if text is None:
        return None
    try:
        return compile_condition(text)
    except ConditionError as e:
        for problem in e.problems:
            table.complain(("when",), problem.message, problem.fix)
        return None
