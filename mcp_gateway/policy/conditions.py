"""Conditions: CEL compiled once, evaluated to a set of truth values.

A condition is true, false, or cannot be evaluated (a missing claim, a wrong type). Where the arguments are not known
yet, as in lists, it has a *set* of these: every value that some arguments could give it. `&&` and `||` follow CEL:
`false && error` is false, `true || error` is true (CEL language definition, "Logical Operators").

A set is never too small. It can be too large where two parts of a condition speak of the same argument
(`args.a == 1 && args.a == 2`): then something is listed that no arguments can get; never is something hidden that
some arguments could.

Numbers: JSON has one kind, CEL has three. Comparisons cross kinds by themselves; `100.0` arrives as `100`, so both
behave alike in every expression and large ids compare exactly. Arithmetic does not mix kinds (CEL): write
`double(args.amount) * 1.5`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from functools import cached_property, lru_cache, reduce
from typing import TYPE_CHECKING, Any, Final

from mcp_gateway.policy.condition_checks import FIELDS, check, program_of
from mcp_gateway.policy.expression import All, AnyOf, Choice, Expression, Leaf, Node, Not

if TYPE_CHECKING:
    from cel import Program

Values = int
"""A set of truth values, as bits."""
TRUE: Final[Values] = 1
FALSE: Final[Values] = 2
ERROR: Final[Values] = 4
ANYTHING: Final[Values] = TRUE | FALSE | ERROR

MAX_COST: Final = 5_000_000
"""Most steps one evaluation may take, at worst; beyond it the condition cannot be evaluated. About 0.1 s."""

_REGEX_STEPS: Final = 2000
"""A pattern is compiled each time it is tried (cel 0.10), which takes about 50 us."""

_CEL_ERRORS: Final = (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError)
"""What an expression raises that cannot be evaluated: overflow, missing key, wrong type, nesting without end, ..."""
_EXACT_INTEGERS: Final = 2.0**63
_MOST_UNITS: Final = 10**12
"""The largest amount that is summed: a million of these still fit into SQLite's integers as millionths."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What conditions see of one request: everything in `condition_checks.FIELDS`."""

    values: Mapping[str, Any]
    """All names but `args`."""
    args: Mapping[str, Any] | None
    """None: not known yet."""
    granted: frozenset[str] | None = None
    """The scopes of the caller's token; None: it has none and can get none."""
    hidden: frozenset[str] = frozenset()
    """Names whose values are not known here at all, as those of a past call that the audit does not keep."""


@dataclass(frozen=True, slots=True)
class LeafTrace:
    """What one part of a condition came to."""

    text: str
    values: Values
    problem: str = ""
    """Why it could not be evaluated."""
    decided: bool = False
    """Whether the whole condition came out as it did because of this part."""


@dataclass(frozen=True, slots=True)
class _Program:
    """One CEL program and what has to be handed to it."""

    text: str
    compiled: Program
    reads: tuple[tuple[str, frozenset[str] | None], ...]
    """Each name it refers to, with the fields; None: all of it. What is not read is not converted."""
    costs: tuple[tuple[int, int], ...]
    """Pairs (power, steps): evaluation takes at most the sum of `size ** power * steps`."""

    reads_args: bool
    loops: bool

    def evaluate(self, scope: Scope) -> tuple[Values, str]:
        """TRUE, FALSE or ERROR, and for ERROR the reason."""
        try:
            result = self._execute(scope)
        except _CEL_ERRORS as e:
            return ERROR, _reason(e)
        if result is True:
            return TRUE, ""
        return (FALSE, "") if result is False else (ERROR, f"it is a {type(result).__name__}, not true or false")

    def number(self, scope: Scope) -> Any:
        """What it comes to; None where it cannot be evaluated."""
        try:
            return self._execute(scope)
        except _CEL_ERRORS:
            return None

    def exists(self, scope: Scope) -> bool:
        """Whether it can be evaluated at all, to whatever value."""
        try:
            self._execute(scope)
        except _CEL_ERRORS:
            return False
        return True

    def _execute(self, scope: Scope) -> Any:
        variables = {
            root: read(scope.args if root == "args" else scope.values[root], fields) for root, fields in self.reads
        }
        if self.loops and self._cost(variables) > MAX_COST:
            raise OverflowError("too many elements to evaluate it in bounded time")
        return self.compiled.execute(variables)

    def _cost(self, variables: Mapping[str, Any]) -> int:
        size = _size(variables)
        return sum(steps * size**power for power, steps in self.costs)


@dataclass(frozen=True, slots=True)
class _LeafProgram:
    """A leaf of the boolean structure."""

    program: _Program
    needs: tuple[_Program, ...]
    """What it reads besides the arguments, whatever they are: if one of these is missing, no arguments help."""

    def values(self, scope: Scope) -> tuple[Values, str]:
        """Every value some arguments could give it."""
        if scope.hidden and any(root in scope.hidden for root, _ in self.program.reads):
            return ANYTHING, ""
        if scope.args is not None or not self.program.reads_args:
            return self.program.evaluate(scope)
        missing = next((need.text for need in self.needs if not need.exists(scope)), None)
        return (ANYTHING, "") if missing is None else (ERROR, f"{missing} is not there")


class Condition:
    """One `when`, compiled."""

    def __init__(self, text: str) -> None:
        expression = check(text)
        self.text = text
        self._tree = expression.tree()
        self._parts = {leaf.expression.text: leaf.expression for leaf in _leaves(self._tree)}
        self._whole = _compile(expression, tuple(_cost_of(leaf) for leaf in self._parts.values()))

    @property
    def reads_args(self) -> bool:
        return self._whole.reads_args

    def fields_of(self, root: str) -> frozenset[str]:
        """The fields of one name that it reads, as far as it names them plainly."""
        return dict(self._whole.reads).get(root) or frozenset()

    @property
    def roots(self) -> frozenset[str]:
        """The names it refers to, of those in `condition_checks.FIELDS`."""
        return frozenset(root for root, _ in self._whole.reads)

    @cached_property
    def reads(self) -> Mapping[str, frozenset[str] | None]:
        """Each name it refers to with the fields it reads of it; None: all of it."""
        return dict(self._whole.reads)

    @property
    def leaves(self) -> tuple[Expression, ...]:
        """Its parts that have no boolean structure of their own, in the order written."""
        return tuple(self._parts.values())

    @cached_property
    def _leaves(self) -> Mapping[str, _LeafProgram]:
        # Only lists and explanations look at parts: a large policy is compiled in half the time without them.
        return {text: _compile_leaf(leaf) for text, leaf in self._parts.items()}

    def values(self, scope: Scope) -> Values:
        """Every value the condition could have; exactly one where the arguments are known or do not matter."""
        if not scope.hidden and (scope.args is not None or not self._whole.reads_args):
            return self._whole.evaluate(scope)[0]
        found = {text: leaf.values(scope)[0] for text, leaf in self._leaves.items()}
        return _combine(self._tree, found)

    def trace(self, scope: Scope) -> tuple[LeafTrace, ...]:
        """Each part with its value, in the order written."""
        found = {text: leaf.values(scope) for text, leaf in self._leaves.items()}
        values = {text: value for text, (value, _) in found.items()}
        deciding = set(_deciding(self._tree, values))
        return tuple(LeafTrace(text, *found[text], text in deciding) for text in self._leaves)


class Amount:
    """A number that is made of one call, compiled once."""

    def __init__(self, text: str) -> None:
        expression = check(text)
        self.text = text
        steps = len(expression.tokens) + _REGEX_STEPS * len(list(expression.regex_literals()))
        self._program = _compile(expression, ((expression.loops(), steps),))

    def of(self, scope: Scope) -> int | None:
        """The number in millionths, rounded up; None for what is no number, is negative, or is too large."""
        return millionths(self._program.number(scope))


def millionths(value: Any) -> int | None:
    """A number that is not negative in millionths, rounded up, so that sums are exact; None for anything else.

    >>> millionths(0.1) * 3 == millionths(0.3), millionths(-1)
    (True, None)
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _MOST_UNITS:
        return None
    return int((Decimal(repr(value)) * 1_000_000).to_integral_value(ROUND_CEILING))


def compile_amount(text: str) -> Amount:
    """Compile an expression for a number. Raises `expression.ConditionError` with everything wrong in it."""
    return Amount(text)


@lru_cache(maxsize=16_384)  # one edit leaves most conditions as they were
def compile_condition(text: str) -> Condition:
    """Compile one condition. Raises `expression.ConditionError` with everything wrong in it.

    >>> scope = Scope({"agent": {"name": "bot"}}, None)
    >>> compile_condition("agent.name == 'ops' && args.amount < 100").values(scope) == FALSE
    True
    """
    return Condition(text)


def describe(values: Values) -> str:
    """A set of truth values in words, as `why` shows it."""
    names = [name for bit, name in ((TRUE, "true"), (FALSE, "false"), (ERROR, "cannot be evaluated")) if values & bit]
    return names[0] if len(names) == 1 else f"depends on the arguments ({' or '.join(names)})"


def _compile(expression: Expression, costs: tuple[tuple[int, int], ...]) -> _Program:
    fields: dict[str, set[str] | None] = {}
    for reference in expression.references():
        if reference.root in FIELDS:
            known = fields.setdefault(reference.root, set())
            if reference.field is None or known is None:
                fields[reference.root] = None
            else:
                known.add(reference.field)
    reads = tuple((root, None if names is None else frozenset(names)) for root, names in fields.items())
    return _Program(
        text=expression.text,
        compiled=program_of(expression.text),
        reads=reads,
        costs=costs,
        reads_args="args" in fields,
        loops=any(power for power, _ in costs),
    )


def _compile_leaf(leaf: Expression) -> _LeafProgram:
    chains = {
        reference.text
        for reference in leaf.references()
        if reference.root in FIELDS and reference.root != "args" and not reference.is_lazy
    }
    needs = tuple(_compile(Expression(chain), ()) for chain in sorted(chains))
    return _LeafProgram(_compile(leaf, (_cost_of(leaf),)), needs)


def _cost_of(leaf: Expression) -> tuple[int, int]:
    return leaf.loops(), len(leaf.tokens) + _REGEX_STEPS * len(list(leaf.regex_literals()))


def _leaves(node: Node) -> Iterator[Leaf]:
    if isinstance(node, Leaf):
        yield node
    for part in _parts(node):
        yield from _leaves(part)


def _parts(node: Node) -> tuple[Node, ...]:
    match node:
        case Leaf():
            return ()
        case Not(part):
            return (part,)
        case Choice(test, yes, no):
            return (test, yes, no)
        case All(parts) | AnyOf(parts):
            return parts


def _combine(node: Node, found: Mapping[str, Values]) -> Values:
    """The set of values of `node`, given those of its leaves."""
    match node:
        case Leaf(expression):
            return found[expression.text]
        case Not(part):
            return _NOT[_combine(part, found)]
        case All(parts):
            return reduce(lambda a, b: _AND[a][b], (_combine(part, found) for part in parts))
        case AnyOf(parts):
            return reduce(lambda a, b: _OR[a][b], (_combine(part, found) for part in parts))
        case Choice(test, yes, no):
            which = _combine(test, found)
            chosen = _combine(yes, found) if which & TRUE else 0
            return chosen | (_combine(no, found) if which & FALSE else 0) | (which & ERROR)


def _deciding(node: Node, found: Mapping[str, Values]) -> Iterator[str]:
    """The leaves because of which `node` came out as it did."""
    if isinstance(node, Leaf):
        yield node.expression.text
        return
    values = _combine(node, found)
    for part in _parts(node):
        theirs = _combine(part, found)
        if isinstance(node, Not) or _weighs(node, part, theirs, values, found):
            yield from _deciding(part, found)


def _weighs(node: Node, part: Node, theirs: Values, values: Values, found: Mapping[str, Values]) -> bool:
    if isinstance(node, Choice):
        which = _combine(node.test, found)
        return part is node.test or bool(which & (TRUE if part is node.yes else FALSE))
    # One false part settles `&&`, one true part `||`; the other way round it takes them all.
    settling = FALSE if isinstance(node, All) else TRUE
    if values in (TRUE, FALSE):
        return theirs == values
    return theirs != (TRUE if settling == FALSE else FALSE)


def _and(a: Values, b: Values) -> Values:
    if FALSE in (a, b):
        return FALSE
    return ERROR if ERROR in (a, b) else TRUE


def _negate(values: Values) -> Values:
    return (values & ERROR) | (TRUE if values & FALSE else 0) | (FALSE if values & TRUE else 0)


def _members(values: Values) -> list[Values]:
    return [bit for bit in (TRUE, FALSE, ERROR) if values & bit]


_SETS: Final = range(ANYTHING + 1)
_NOT: Final = tuple(_negate(values) for values in _SETS)
_AND: Final = tuple(
    tuple(
        reduce(lambda all_, one: all_ | one, (_and(a, b) for a in _members(left) for b in _members(right)), 0)
        for right in _SETS
    )
    for left in _SETS
)
_OR: Final = tuple(tuple(_NOT[_AND[_NOT[left]][_NOT[right]]] for right in _SETS) for left in _SETS)


def read(value: Any, fields: frozenset[str] | None) -> Any:
    """What a condition is handed of one name if it reads these fields of it; None: all."""
    if fields is not None and isinstance(value, Mapping):
        return {name: plain(value[name]) for name in fields if name in value}
    return plain(value)


def plain(value: Any) -> Any:
    """JSON as CEL gets it: whole numbers as integers, whatever the kind of mapping or sequence."""
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if kind is float:
        return int(value) if value.is_integer() and abs(value) < _EXACT_INTEGERS else value
    if kind is dict or isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return sorted(value) if isinstance(value, (set, frozenset)) else value


def _size(value: Any) -> int:
    """How many steps it takes to look at all of `value`: one for each element, and for every 32 characters."""
    size = 0
    rest = [value]
    while rest:
        item = rest.pop()
        size += 1
        if isinstance(item, dict):
            rest.extend(item)
            rest.extend(item.values())
        elif isinstance(item, list):
            rest.extend(item)
        elif isinstance(item, str):
            size += len(item) // 32
    return size


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error.args[0]!r} is not there"
    return str(error).split(". ")[0].splitlines()[0]
