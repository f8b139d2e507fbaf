"""Which calls a line that allows nothing speaks of: by target, task and agent. The same for guards and keeps."""

from __future__ import annotations

from dataclasses import dataclass

from mcp_gateway.domain import Caller, Target
from mcp_gateway.policy.patterns import Match, Pattern, PatternError, parse_pattern
from mcp_gateway.policy.tables import Table


@dataclass(frozen=True, slots=True)
class Reach:
    """`tools`, `tasks` and `agents` of one table. Each empty: all."""

    patterns: tuple[Pattern, ...] = ()
    tasks: frozenset[str] = frozenset()
    agents: frozenset[str] = frozenset()

    def speaks_of(self, caller: Caller, target: Target) -> bool:
        """Whether it is about such calls at all, whatever they hold."""
        if (self.tasks and caller.task not in self.tasks) or (self.agents and caller.agent not in self.agents):
            return False
        matches = (pattern.denies(target.kind, target.upstream, target.name) for pattern in self.patterns)
        return not self.patterns or any(match is not Match.NONE for match in matches)


def read_reach(table: Table) -> Reach:
    """The three keys as written; complaints go where the table's go."""
    patterns = []
    for index, text in table.texts("tools"):
        try:
            patterns.append(parse_pattern(text, any_upstream=True))
        except PatternError as e:
            table.complain(("tools", index), str(e), e.fix)
    tasks, agents = (frozenset(text for _, text in table.texts(key)) for key in ("tasks", "agents"))
    return Reach(tuple(patterns), tasks, agents)
