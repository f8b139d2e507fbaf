"""What is wrong with a condition before it ever runs: limits, unknown names, misspelt fields, costly patterns.

CEL reports an unknown name or function only when it evaluates; in a policy that would be a grant that never holds, or
a deny that always does, found out too late. Every check here yields problems and changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Final

from mcp_gateway.config.toml_lines import did_you_mean
from mcp_gateway.policy.engine import compile_expression, evaluate
from mcp_gateway.policy.expression import (
    LOOPS,
    MAX_LENGTH,
    MAX_MACROS,
    MAX_NESTING,
    ConditionError,
    Expression,
    Problem,
    Reference,
)

if TYPE_CHECKING:
    from cel import Program

FIELDS: Final[Mapping[str, frozenset[str] | None]] = {
    "args": None,
    "claims": None,
    "agent": frozenset({"name"}),
    "task": None,
    "person": frozenset(),
    "now": frozenset(),
    "tool": frozenset({"name", "annotations", "upstream", "tags"}),
    "request": frozenset({"era", "transport", "method"}),
}
"""What conditions see, and the fields of each; None: any, empty: it is one value (`person` may be null)."""

_TYPES: Final = frozenset({"bool", "int", "uint", "double", "string", "bytes", "list", "map", "null_type", "type"})
# fmt: off
_FUNCTIONS: Final = frozenset(
    {"contains", "size", "has", "startsWith", "endsWith", "matches", "string", "bytes", "double", "int",
     "uint", "duration", "timestamp", "type", "dyn", "getFullYear", "getMonth", "getDayOfYear",
     "getDayOfMonth", "getDate", "getDayOfWeek", "getHours", "getMinutes", "getSeconds", "getMilliseconds"}
)
# fmt: on
_ERROR_PLACE: Final = re.compile(r"<input>:(\d+):(\d+): (?:Syntax error: )?(.*?)(?: expecting \{.*)?$", re.MULTILINE)
_COUNTED: Final = re.compile(r"\{(\d+)(?:,(\d*))?\}")
_UNICODE_CLASS: Final = re.compile(r"\\[wWdDsSpP]")
_MAX_REGEX: Final = 256
_MAX_UNICODE_COUNT: Final = 20
"""Most counted repeats next to a Unicode class. Patterns are compiled at every evaluation (cel 0.10): `\\w{200}` took
70 ms, `[A-Za-z0-9_]{200}` 0.05 ms."""


def check(text: str) -> Expression:
    """The expression in `text`, once nothing is wrong with it. Raises `ConditionError` with all that is."""
    if len(text) > MAX_LENGTH:
        raise ConditionError(Problem(f"a condition may have {MAX_LENGTH} characters, this one has {len(text)}"))
    expression = Expression(text)
    if expression.depth() > MAX_NESTING:
        raise ConditionError(Problem(f"brackets nest deeper than {MAX_NESTING}"))
    _check_syntax(text)
    problems = tuple(
        dict.fromkeys(chain(_macros(expression), _functions(expression), _references(expression), _regexes(expression)))
    )
    if problems:
        raise ConditionError(*problems)
    return expression


@lru_cache(maxsize=64)  # what has just been checked is compiled next
def program_of(text: str) -> Program:
    """The CEL program of a text. Raises `ValueError` where it is none."""
    return compile_expression(text)


def _check_syntax(text: str) -> None:
    try:
        program_of(text)
    except ValueError as e:
        place = _ERROR_PLACE.search(str(e))
        message = f"{place[3]} (line {place[1]}, character {place[2]})" if place else "it cannot be parsed"
        raise ConditionError(Problem(f"not valid CEL: {message}")) from e


def _macros(expression: Expression) -> Iterator[Problem]:
    macros = expression.macros()
    if len(macros) > MAX_MACROS:
        yield Problem(f"a condition may have {MAX_MACROS} loops, this one has {len(macros)}")
    for name in sorted(expression.bound_names() & set(FIELDS)):
        yield Problem(f"{name!r} is taken, a loop cannot use it for its variable", "use another name, e.g. x")


def _functions(expression: Expression) -> Iterator[Problem]:
    macros = expression.macros()
    for token, is_method in expression.functions():
        if token.text in LOOPS:
            if token not in macros:
                yield Problem(f"{token.text}() needs a name and a condition", f"write list.{token.text}(x, x > 0)")
        elif token.text not in _FUNCTIONS:
            known = _FUNCTIONS | set(LOOPS) if is_method else _FUNCTIONS
            yield Problem(f"unknown function {token.text}()", did_you_mean(token.text, known))
    for name in expression.struct_names():
        yield Problem(f"{name}{{...}}: messages do not exist here", "use a map: {'key': value}")


def _references(expression: Expression) -> Iterator[Problem]:
    for dot in expression.leading_dots():
        yield Problem(f"the dot at character {dot.start + 1} selects from nothing", "leave it out")
    for reference in expression.references():
        if reference.root in FIELDS:
            yield from _fields(reference)
        elif reference.root not in _TYPES:
            yield Problem(f"unknown name {reference.root!r}", did_you_mean(reference.root, FIELDS))


def _fields(reference: Reference) -> Iterator[Problem]:
    root, field, known = reference.root, reference.field, FIELDS[reference.root]
    if known is None:
        return
    if not known:
        if field is not None:
            yield Problem(f"{root!r} has no fields: it is one value", f"write {root}")
    elif field is None:
        yield Problem(
            f"{root!r} is not a value by itself", f"write {' or '.join(f'{root}.{f}' for f in sorted(known))}"
        )
    elif field not in known:
        yield Problem(f"{root!r} has no field {field!r}", did_you_mean(field, known))


def _regexes(expression: Expression) -> Iterator[Problem]:
    for literal in expression.regex_literals():
        if literal is None:
            # A pattern that an agent could choose is one that an agent could make slow.
            yield Problem("the pattern of matches() must be written out", "write x.matches('...')")
        else:
            yield from _regex(literal.text)


def _regex(literal: str) -> Iterator[Problem]:
    if len(literal) > _MAX_REGEX:
        yield Problem(f"a pattern may have {_MAX_REGEX} characters, this one has {len(literal)}")
        return
    counts = sum(int(most or least) for least, most in _COUNTED.findall(literal))
    if _UNICODE_CLASS.search(literal) and counts > _MAX_UNICODE_COUNT:
        yield Problem(f"the pattern {literal} is too costly", "write [A-Za-z0-9_] for \\w, [0-9] for \\d")
        return
    try:
        evaluate(f"''.matches({literal})")
    except RuntimeError as e:
        reason = str(e).splitlines()
        yield Problem(f"the pattern {literal} is not a regular expression CEL knows: {reason[-1].split('. Check')[0]}")
