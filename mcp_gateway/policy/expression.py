"""The shape of a CEL condition: its tokens, what it refers to, and the booleans it is made of.

CEL itself (the `cel` library) decides what is valid and evaluates; this file only looks at text that CEL has accepted.
It finds what CEL's library does not tell: the leaves between `&&`, `||`, `!` and `?:`, the fields a leaf reads, and the
things that can only be a mistake (an unknown name, a misspelt field). Evaluates nothing.

Source: the grammar in https://github.com/google/cel-spec/blob/v0.7.0/doc/langdef.md, section "Syntax".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

MAX_LENGTH: Final = 2000
"""Longest condition, in characters."""
MAX_NESTING: Final = 32
"""Deepest brackets in a condition. CEL's own parser gives up at about 90."""
MAX_MACROS: Final = 4
"""Most loops (`all`, `exists`, `exists_one`, `filter`, `map`) in a condition."""

LOOPS: Final = {"all": 1, "exists": 1, "exists_one": 1, "map": 2, "filter": 2}
"""The macros that walk a list, and the power of its length their cost grows with (cel 0.10: map and filter square)."""

_TOKEN: Final = re.compile(
    r"(?P<skip>[ \t\r\n\f]+|//[^\n]*)"
    r'|(?P<string>(?:[bB][rR]?|[rR])?(?:"""(?:\\.|[^\\])*?"""|\'\'\'(?:\\.|[^\\])*?\'\'\'))'
    r'|(?P<raw>[bB]?[rR](?:"[^"\n]*"|\'[^\'\n]*\'))'
    r'|(?P<quoted>[bB]?(?:"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'))'
    r"|(?P<number>0[xX][0-9a-fA-F]+[uU]?|(?:\d+\.\d+|\.\d+|\d+)(?:[eE][+-]?\d+)?[uU]?)"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<op>&&|\|\||[=!<>]=|[-+*/%<>!?:.,()\[\]{}])",
    re.DOTALL,
)
_CLOSERS: Final = {")": "(", "]": "[", "}": "{"}
_BINARY: Final = frozenset({"==", "!=", "<", "<=", ">", ">=", "+", "-", "*", "/", "%", "in"})
_WORDS: Final = frozenset({"true", "false", "null", "in"})
_LAZY: Final = frozenset({"&&", "||", "?"})


class Problem(NamedTuple):
    """One thing wrong in a condition, and what to write instead."""

    message: str
    fix: str = ""


class ConditionError(ValueError):
    """A condition that cannot be used, with everything found wrong in it."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("; ".join(problem.message for problem in problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a condition and where it stands in the text."""

    kind: str
    """`name`, `string`, `number` or `op`."""
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Reference:
    """One place where a condition reads a variable."""

    root: str
    field: str | None
    """The field read, where the condition says it plainly (`args.amount`, `args["amount"]`); None: any of it."""
    text: str
    """The whole chain that is read, e.g. `claims.limits[task.name]`."""
    is_lazy: bool
    """Whether CEL may leave it out: inside a loop, `has`, or a choice."""
    multiplies: bool
    """Whether it is read again on every turn of a loop."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A part of a condition with no boolean structure of its own that matters."""

    expression: Expression


@dataclass(frozen=True, slots=True)
class Not:
    part: Node


@dataclass(frozen=True, slots=True)
class All:
    """`a && b && c`."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """`a || b || c`."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """`test ? yes : no`."""

    test: Node
    yes: Node
    no: Node


Node = Leaf | Not | All | AnyOf | Choice


class Expression:
    """The tokens of one expression, with its brackets matched."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = _tokenize(text)
        self._pairs = _match_brackets(self.tokens)
        self._references: list[Reference] | None = None

    def tree(self) -> Node:
        """The boolean structure, down to leaves that have none."""
        return self._choice(0, len(self.tokens))

    def loops(self) -> int:
        """The power of the arguments' size that the cost of evaluating grows with, at worst."""
        powers = sum(LOOPS[name.text] for name in self.macros())
        return powers + any(ref.multiplies and ref.root == "args" for ref in self.references())

    def macros(self) -> list[Token]:
        """The names of the loops, in order."""
        return [token for i, token in enumerate(self.tokens) if self._is_macro(i)]

    def functions(self) -> Iterator[tuple[Token, bool]]:
        """Each name that is called, and whether as a method."""
        for i, token in enumerate(self.tokens):
            if token.kind == "name" and token.text not in _WORDS and self._is(i + 1, "("):
                yield token, self._is(i - 1, ".")

    def bound_names(self) -> set[str]:
        """Names that loops bind: the `x` of `list.all(x, x > 0)`."""
        if not any(token.text in LOOPS for token in self.tokens):
            return set()
        return {self.tokens[i + 2].text for i in range(len(self.tokens) - 2) if self._is_macro(i)}

    def struct_names(self) -> list[str]:
        """Names before a `{`: message literals, which CEL parses and the library cannot build."""
        return [token.text for i, token in enumerate(self.tokens) if token.kind == "name" and self._is(i + 1, "{")]

    def references(self) -> list[Reference]:
        """Every variable read, names that loops bind left out."""
        if self._references is None:
            self._references = self._find_references()
        return self._references

    def _find_references(self) -> list[Reference]:
        bound = self.bound_names()
        lazy = self._lazy_ranges()
        bodies = [(i + 1, self._pairs[i + 1]) for i in range(len(self.tokens)) if self._is_macro(i)]
        found = []
        for i, token in enumerate(self.tokens):
            if self._is_variable(i) and token.text not in bound:
                end = self._chain_end(i, bound)
                found.append(
                    Reference(
                        root=token.text,
                        field=self._field(i),
                        text=self._source(i, end),
                        is_lazy=_inside(i, lazy),
                        multiplies=_inside(i, bodies) and not self._is_macro(end + 2),
                    )
                )
        return found

    def leading_dots(self) -> list[Token]:
        """Dots that select from nothing (`.args`): CEL's root scope, which the library cannot look up."""
        return [token for i, token in enumerate(self.tokens) if self._is(i, ".") and not self._ends_operand(i - 1)]

    def regex_literals(self) -> Iterator[Token | None]:
        """The pattern of each `matches`; None where it is not one plain string."""
        for i, token in enumerate(self.tokens):
            if token.text == "matches" and token.kind == "name" and self._is(i + 1, "("):
                start = i + 2 if self._is(i - 1, ".") else self._after_comma(i + 1)
                plain = self.tokens[start].kind == "string" and self._pairs[i + 1] == start + 1
                yield self.tokens[start] if plain else None

    def depth(self) -> int:
        """How deep the brackets nest."""
        depth = deepest = 0
        for token in self.tokens:
            if token.kind == "op":
                depth += (token.text in "([{") - (token.text in ")]}")
                deepest = max(deepest, depth)
        return deepest

    def _choice(self, low: int, high: int) -> Node:
        question = next(self._at_top(low, high, {"?"}), None)
        if question is None:
            return self._any_of(low, high)
        colon = next(self._at_top(question, high, {":"}))
        return Choice(self._any_of(low, question), self._any_of(question + 1, colon), self._choice(colon + 1, high))

    def _any_of(self, low: int, high: int) -> Node:
        parts = tuple(self._all(*part) for part in self._split(low, high, "||"))
        return parts[0] if len(parts) == 1 else AnyOf(parts)

    def _all(self, low: int, high: int) -> Node:
        parts = tuple(self._negation(*part) for part in self._split(low, high, "&&"))
        return parts[0] if len(parts) == 1 else All(parts)

    def _negation(self, low: int, high: int) -> Node:
        start = low
        while self._is(start, "!"):
            start += 1
        # `!a == b` is `(!a) == b`: the negation is then the leaf's own.
        if start > low and next(self._at_top(start, high, _BINARY), None) is not None:
            return self._leaf(low, high)
        node = self._group(start, high)
        return node if (start - low) % 2 == 0 else Not(node)

    def _group(self, low: int, high: int) -> Node:
        if self._is(low, "(") and self._pairs[low] == high - 1:
            return self._choice(low + 1, high - 1)
        return self._leaf(low, high)

    def _leaf(self, low: int, high: int) -> Leaf:
        return Leaf(Expression(self._source(low, high - 1)))

    def _split(self, low: int, high: int, operator: str) -> Iterator[tuple[int, int]]:
        for place in self._at_top(low, high, {operator}):
            yield low, place
            low = place + 1
        yield low, high

    def _at_top(self, low: int, high: int, texts: frozenset[str] | set[str]) -> Iterator[int]:
        """Places of operators outside all brackets."""
        i = low
        while i < high:
            token = self.tokens[i]
            if token.kind != "string" and token.text in texts:
                yield i
            i = self._pairs.get(i, i) + 1

    def _lazy_ranges(self) -> list[tuple[int, int]]:
        """Brackets whose content CEL may not evaluate, or not all of it."""
        ranges = []
        for opener, closer in self._pairs.items():
            is_special = self._is_macro(opener - 1) or (opener > 0 and self.tokens[opener - 1].text == "has")
            if is_special or next(self._at_top(opener + 1, closer, _LAZY), None) is not None:
                ranges.append((opener, closer))
        return ranges

    def _chain_end(self, i: int, bound: set[str]) -> int:
        """The last token of the chain of selections and plain indexes that begins at `i`."""
        while True:
            if self._is(i + 1, ".") and not self._is(i + 3, "("):
                i += 2
            elif self._is(i + 1, "[") and self._is_plain(i + 2, self._pairs[i + 1], bound):
                i = self._pairs[i + 1]
            else:
                return i

    def _is_plain(self, low: int, high: int, bound: set[str]) -> bool:
        """Whether an index can be evaluated apart: it reads no arguments and nothing that a loop binds."""
        return not any(t.kind == "name" and (t.text == "args" or t.text in bound) for t in self.tokens[low:high])

    def _field(self, i: int) -> str | None:
        if self._is(i + 1, ".") and not self._is(i + 3, "("):
            return self.tokens[i + 2].text
        if self._is(i + 1, "[") and self._pairs[i + 1] == i + 3 and self.tokens[i + 2].kind == "string":
            return plain_string(self.tokens[i + 2].text)
        return None

    def _is_variable(self, i: int) -> bool:
        token = self.tokens[i]
        if token.kind != "name" or token.text in _WORDS or self._is(i + 1, "("):
            return False
        return not self._is(i - 1, ".") or not self._ends_operand(i - 2)

    def _ends_operand(self, i: int) -> bool:
        return i >= 0 and (self.tokens[i].kind != "op" or self.tokens[i].text in _CLOSERS)

    def _is_macro(self, i: int) -> bool:
        """Whether token `i` is the name of a loop: `.all(x, ...)`."""
        if not 0 < i < len(self.tokens) - 3 or self.tokens[i].text not in LOOPS:
            return False
        return self._is(i - 1, ".") and self._is(i + 1, "(") and self._is(i + 3, ",")

    def _after_comma(self, opener: int) -> int:
        return next(self._at_top(opener + 1, self._pairs[opener], {","}), opener) + 1

    def _is(self, i: int, text: str) -> bool:
        return 0 <= i < len(self.tokens) and self.tokens[i].text == text and self.tokens[i].kind != "string"

    def _source(self, first: int, last: int) -> str:
        return self.text[self.tokens[first].start : self.tokens[last].end]


def plain_string(literal: str) -> str | None:
    """What a string literal says, where that takes no knowledge of escapes; None else.

    >>> plain_string("'amount'"), plain_string("b'x'")
    ('amount', None)
    """
    is_plain = literal[0] in "\"'" and not literal.startswith(('"""', "'''")) and "\\" not in literal
    return literal[1:-1] if is_plain else None


def _tokenize(text: str) -> list[Token]:
    tokens = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ConditionError(Problem(f"unexpected {text[position]!r} at character {position + 1}"))
        kind = match.lastgroup or ""
        if kind != "skip":
            kind = "string" if kind in ("raw", "quoted") else kind
            tokens.append(Token(kind, match[0], position, match.end()))
        position = match.end()
    return tokens


def _match_brackets(tokens: list[Token]) -> dict[int, int]:
    pairs: dict[int, int] = {}
    open_ones: list[int] = []
    for i, token in enumerate(tokens):
        if token.kind != "op":
            continue
        if token.text in "([{":
            open_ones.append(i)
        elif token.text in _CLOSERS:
            if not open_ones or tokens[open_ones[-1]].text != _CLOSERS[token.text]:
                raise ConditionError(Problem(f"{token.text!r} at character {token.start + 1} closes nothing"))
            pairs[open_ones.pop()] = i
    if open_ones:
        unclosed = tokens[open_ones[-1]]
        raise ConditionError(Problem(f"{unclosed.text!r} at character {unclosed.start + 1} stays open"))
    return pairs


def _inside(i: int, ranges: list[tuple[int, int]]) -> bool:
    return any(low < i < high for low, high in ranges)
