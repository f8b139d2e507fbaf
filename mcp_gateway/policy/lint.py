"""What is odd in a policy that is valid: lines that do nothing, conditions that cannot hold, traps for the unwary.

Looks at the lines beside the definitions of the targets there are: a pattern is odd only in the light of what it could
match. Finds, never proves: no finding does not mean that a policy says what its author meant. Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from mcp_gateway.config.toml_lines import did_you_mean
from mcp_gateway.domain import Effect, Kind, Target
from mcp_gateway.errors import Complaint
from mcp_gateway.policy.compile import Policy
from mcp_gateway.policy.document import Grant, Task
from mcp_gateway.policy.expression import Expression, Token, plain_string
from mcp_gateway.policy.patterns import Match, Pattern
from mcp_gateway.policy.tables import Place

NO_MATCH: Final = "GW-LINT-NO-MATCH"
SHADOWED: Final = "GW-LINT-SHADOWED"
NEVER: Final = "GW-LINT-NEVER"
MISSING: Final = "GW-LINT-MISSING"
UNREACHABLE: Final = "GW-LINT-UNREACHABLE"
NOBODY: Final = "GW-LINT-NOBODY"

MAX_NAMED: Final = 5

_OPERATORS: Final = frozenset({"==", "!=", "<", "<=", ">", ">="})
_TURNED: Final = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_KINDS_OF: Final[Mapping[type, frozenset[str]]] = {
    str: frozenset({"string"}),
    bool: frozenset({"boolean"}),
    int: frozenset({"integer", "number"}),
    float: frozenset({"integer", "number"}),
    type(None): frozenset({"null"}),
}


@dataclass(frozen=True, slots=True)
class _Comparison:
    """`args.NAME OP literal`, or `args.NAME in [literals]`."""

    name: str
    operator: str
    values: tuple[Any, ...]


def lint(policy: Policy, targets: Sequence[Target], known: Iterable[str]) -> list[Complaint]:
    """Everything odd, by place. `targets`: what there is now of the upstreams in `known`; of others nothing is said."""
    there: dict[str, list[Target]] = defaultdict(list)
    for target in targets:
        there[target.upstream].append(target)
    asked = frozenset(known)
    found = [complaint for task in policy.tasks.values() for complaint in _task(policy, task, there, asked)]
    found += _nobody(policy)
    found += _unreachable(policy, there)
    return sorted(found, key=lambda each: (each.file, each.line, each.message))


def _task(policy: Policy, task: Task, there: Mapping[str, list[Target]], asked: frozenset[str]) -> Iterator[Complaint]:
    for lines, is_deny in ((task.grants, False), (task.denies, True)):
        for line in lines:
            matched = _matched(line, there, is_deny)
            yield from _patterns(line, there, asked, is_deny)
            if not is_deny and matched:
                yield from _shadowed(policy, task, line, matched)
            if line.condition is not None:
                yield from _condition(line, matched, is_deny)


def _matched(line: Grant, there: Mapping[str, list[Target]], is_deny: bool) -> list[Target]:
    return [target for target in _near(line, there) if any(_covers(p, target, is_deny) for p in line.patterns)]


def _near(line: Grant, there: Mapping[str, list[Target]]) -> Iterator[Target]:
    upstreams = {pattern.upstream for pattern in line.patterns}
    for upstream in there if "*" in upstreams else sorted(upstreams & there.keys()):
        yield from there[upstream]


def _covers(pattern: Pattern, target: Target, is_deny: bool) -> bool:
    covers = pattern.denies if is_deny else pattern.allows
    return covers(target.kind, target.upstream, target.name) is not Match.NONE


def _patterns(
    line: Grant, there: Mapping[str, list[Target]], asked: frozenset[str], is_deny: bool
) -> Iterator[Complaint]:
    """Patterns that match nothing. Of an upstream with templates any URI may be good, so nothing is said; nor of paths
    of plain APIs, which nobody lists."""
    for pattern in line.patterns:
        if pattern.kind is Kind.ROUTE:
            continue
        if pattern.upstream != "*" and pattern.upstream not in asked:
            continue
        near = [t for name in (there if pattern.upstream == "*" else [pattern.upstream]) for t in there.get(name, ())]
        if pattern.kind is Kind.RESOURCE and any(target.kind is Kind.TEMPLATE for target in near):
            continue
        if not any(_covers(pattern, target, is_deny) for target in near):
            names = {t.name for t in near if t.kind is pattern.kind}
            yield _at(line.at, NO_MATCH, f"{pattern.text!r} matches nothing", did_you_mean(pattern.name.text, names))


def _shadowed(policy: Policy, task: Task, line: Grant, matched: Sequence[Target]) -> Iterator[Complaint]:
    by = set()
    for target in matched:
        settled = policy.candidates(task.name, target.kind, target.upstream, target.name).settled
        if settled is None or settled.effect is not Effect.DENIED:
            return
        by.add(settled.grant)
    yield _at(
        line.at, SHADOWED, f"it allows nothing: all it matches is denied by {', '.join(sorted(by))}", "leave one out"
    )


def _condition(line: Grant, matched: Sequence[Target], is_deny: bool) -> Iterator[Complaint]:
    assert line.condition is not None  # noqa: S101 - asked before
    guarded = _guarded(line.condition.text)
    schemas = [schema for target in matched if isinstance(schema := target.raw.get("inputSchema"), Mapping)]
    for leaf in line.condition.leaves:
        yield from _traps(line, leaf, guarded, schemas, is_deny)
        faults = [_fault(leaf, schema) for schema in schemas]
        if faults and all(faults):
            yield _at(line.at, NEVER, f"`{' '.join(leaf.text.split())}`: {faults[0]}", "compare with the tool's schema")


def _guarded(text: str) -> set[tuple[str, str]]:
    """The fields that some `has()` of the condition asks for."""
    tokens = Expression(text).tokens
    return {
        (tokens[i + 2].text, tokens[i + 4].text)
        for i in range(len(tokens) - 4)
        if tokens[i].text == "has" and tokens[i + 1].text == "("
    }


def _traps(
    line: Grant, leaf: Expression, guarded: set[tuple[str, str]], schemas: Sequence[Mapping[str, Any]], is_deny: bool
) -> Iterator[Complaint]:
    """Fields that may be missing, where that decides otherwise than a reader would think."""
    is_negative = any(token.text in ("!=", "!") for token in leaf.tokens)
    for reference in leaf.references():
        name = reference.field
        if reference.root not in ("claims", "args") or name is None or (reference.root, name) in guarded:
            continue
        if reference.root == "args" and not _is_optional(name, schemas):
            continue
        what = f"{reference.root}.{name}"
        if is_deny:
            message = f"whoever comes without {what} is denied: the condition cannot be evaluated then"
            yield _at(line.at, MISSING, message, f"if that is not meant: has({what}) && ...")
        elif is_negative and reference.root == "claims":
            message = f"without {what} this does not hold, though nothing forbidden is there"
            yield _at(line.at, MISSING, message, f"if that is not meant: !has({what}) || ...")


def _is_optional(name: str, schemas: Sequence[Mapping[str, Any]]) -> bool:
    return any(
        name in (schema.get("properties") or {}) and name not in (schema.get("required") or ()) for schema in schemas
    )


def _fault(leaf: Expression, schema: Mapping[str, Any]) -> str:
    """Why no arguments that the schema lets through can make this part true; empty: some may."""
    properties = schema.get("properties") or {}
    if schema.get("additionalProperties") is False:
        for reference in leaf.references():
            if reference.root == "args" and reference.field is not None and reference.field not in properties:
                return f"the tool has no argument {reference.field!r}{_meant(reference.field, properties)}"
    compared = _comparison(leaf.tokens)
    member = properties.get(compared.name) if compared is not None else None
    return _mismatch(compared, member) if compared is not None and isinstance(member, Mapping) else ""


def _meant(name: str, properties: Mapping[str, Any]) -> str:
    fix = did_you_mean(name, properties)
    return f" ({fix})" if fix else ""


def _comparison(tokens: Sequence[Token]) -> _Comparison | None:
    texts = [token.text for token in tokens]
    if len(texts) == 5 and texts[:2] == ["args", "."] and texts[3] in _OPERATORS:
        return _made(texts[2], texts[3], tokens[4:])
    if len(texts) == 5 and texts[2:4] == ["args", "."] and texts[1] in _OPERATORS:
        return _made(texts[4], _TURNED.get(texts[1], texts[1]), tokens[:1])
    if len(texts) > 6 and texts[:2] == ["args", "."] and texts[3:5] == ["in", "["] and texts[-1] == "]":
        return _made(texts[2], "in", [token for token in tokens[5:-1] if token.text != ","])
    return None


def _made(name: str, operator: str, tokens: Sequence[Token]) -> _Comparison | None:
    values = [_value(token) for token in tokens]
    return None if _NO_LITERAL in values else _Comparison(name, operator, tuple(values))


_NO_LITERAL: Final = object()


def _value(token: Token) -> Any:
    if token.kind == "string":
        text = plain_string(token.text)
        return _NO_LITERAL if text is None else text
    try:
        return orjson.loads(token.text)
    except orjson.JSONDecodeError:
        return _NO_LITERAL


def _mismatch(compared: _Comparison, member: Mapping[str, Any]) -> str:
    """Why the values a schema allows never compare so."""
    kinds = member.get("type")
    allowed = {kinds} if isinstance(kinds, str) else set(kinds) if isinstance(kinds, list) else set()
    if allowed and not any(_KINDS_OF[type(value)] & allowed for value in compared.values if type(value) in _KINDS_OF):
        is_different = "is always so" if compared.operator == "!=" else "never is"
        return f"{compared.name!r} is {' or '.join(sorted(allowed))}, it {is_different}"
    options = member.get("enum")
    if (
        compared.operator in ("==", "in")
        and isinstance(options, list)
        and not set(map(str, options)) & set(map(str, compared.values))
    ):
        return f"{compared.name!r} is one of {', '.join(map(str, options[:MAX_NAMED]))}"
    return _out_of_range(compared, member)


def _out_of_range(compared: _Comparison, member: Mapping[str, Any]) -> str:
    lowest, highest = member.get("minimum"), member.get("maximum")
    [value] = compared.values if len(compared.values) == 1 else [None]
    if not isinstance(value, (int, float)):
        return ""
    if isinstance(lowest, (int, float)) and _is_below(compared.operator, value, lowest):
        return f"{compared.name!r} is at least {lowest}"
    if isinstance(highest, (int, float)) and _is_below(_TURNED.get(compared.operator, "=="), -value, -highest):
        return f"{compared.name!r} is at most {highest}"
    return ""


def _is_below(operator: str, value: float, lowest: float) -> bool:
    """Whether nothing from `lowest` on compares so with `value`."""
    return (operator == "<" and value <= lowest) or (operator in ("<=", "==") and value < lowest)


def _nobody(policy: Policy) -> Iterator[Complaint]:
    assigned = {task for assignment in policy.assignments.values() for task in assignment.tasks}
    for name in policy.tasks.keys() - assigned:
        yield _at(
            policy.tasks[name].at, NOBODY, f"no agent may be on the task {name!r}", "name it in an agent's 'tasks'"
        )


def _unreachable(policy: Policy, there: Mapping[str, list[Target]]) -> Iterator[Complaint]:
    """Tools that no line of any task could ever allow, one finding for each upstream."""
    lines = [line for task in policy.tasks.values() for line in task.grants]
    by_upstream: dict[str, list[Pattern]] = defaultdict(list)
    for line in lines:
        for pattern in line.patterns:
            by_upstream[pattern.upstream].append(pattern)
    for upstream, targets in sorted(there.items()):
        tools = [target for target in targets if target.kind is Kind.TOOL]
        alone = [t.name for t in tools if not any(_covers(p, t, False) for p in by_upstream.get(upstream, ()))]
        if alone:
            more = f" and {len(alone) - MAX_NAMED} more" if len(alone) > MAX_NAMED else ""
            message = f"no task can use {', '.join(alone[:MAX_NAMED])}{more} of {upstream!r}"
            yield Complaint("servers.toml", 0, message, "exclude them there, or grant them to a task", UNREACHABLE)


def _at(place: Place, code: str, message: str, fix: str = "") -> Complaint:
    return Complaint(place.file, place.line, message, fix, code)
