"""Resource templates: which URIs a template stands for (RFC 6570, the operators MCP servers use).

Only whether a URI belongs to a template is asked, never what its variables are, so matching can be linear: a `{var}`
ends at the first place where the literal after it begins, and is never taken back. Templates for which that would not
be exact are not accepted: see `TemplateError`.

A URI made from a template is written by the agent, so it is judged before it may match: no dot segments, however
encoded, no backslashes, no control characters. What policies see is then what the upstream will resolve.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar
from urllib.parse import unquote

T = TypeVar("T")

MAX_URI: Final = 8192
"""Longest URI matched against templates, in characters."""

_MAX_TEMPLATE: Final = 2048
_EXPRESSION: Final = re.compile(r"\{([+#./;?&]?)([^{}]*)\}")
_VARIABLES: Final = re.compile(r"[A-Za-z0-9_.%]+(?:\*|:\d{1,4})?(?:,[A-Za-z0-9_.%]+(?:\*|:\d{1,4})?)*")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_UNFIT: Final = re.compile(r"[\x00-\x20\x7f\\]")

_PLAIN: Final = "[^/?#]"
# RFC 6570 section 3.2: what each operator can expand to, nothing included where all its variables may be undefined.
_TAILS: Final = {
    "#": "(?:#.*)?",
    ".": r"(?:\.[^/?#]*)?",
    ";": "(?:;[^/?#]*)?",
    "?": r"(?:\?[^#]*)?",
    "&": "(?:&[^#]*)?",
}


class TemplateError(ValueError):
    """A template whose URIs we cannot tell exactly in linear time, or that claims every URI there is."""


@dataclass(frozen=True, slots=True)
class UriTemplate:
    """One compiled template."""

    text: str
    literal: str
    """What every URI of it begins with; never empty."""
    sample: str
    """One URI of it."""
    _pattern: re.Pattern[str]

    def matches(self, uri: str) -> bool:
        """Whether `uri`, which `is_unambiguous`, can be made from this template."""
        return self._pattern.fullmatch(uri) is not None


def compile_template(text: str) -> UriTemplate:
    """Compile a URI template.

    Raises `TemplateError` for a template without a literal scheme, with a syntax error, or with a variable that may
    hold slashes or be left out (`{+a}` `{/a*}` `{?a}`) anywhere but at its end.

    >>> compile_template("file:///{dir}/{name}.txt").matches("file:///a/b.txt")
    True
    >>> compile_template("file:///{name}").matches("file:///a/b")
    False
    """
    if len(text) > _MAX_TEMPLATE:
        raise TemplateError(f"it is longer than {_MAX_TEMPLATE} characters")
    literals, expressions = _split(text)
    if not _SCHEME.match(literals[0]):
        raise TemplateError("it does not begin with a scheme, so it could claim any URI")
    ending = _first_open(expressions)
    pattern, sample = re.escape(literals[0]), literals[0]
    for at in range(ending):
        pattern += _until(literals[at + 1])
        sample += "x" + literals[at + 1]
    if ending < len(expressions):
        pattern, sample = pattern + _tail(literals, expressions, ending), sample + _tail_sample(expressions[ending])
        sample += literals[ending + 1]
    elif expressions:
        # The last literal stands at the end of the URI, so its variable ends there and not at its first occurrence.
        last = literals[-1]
        pattern = pattern[: len(pattern) - len(_until(last))] + f"{_PLAIN}+{re.escape(last)}"
    return UriTemplate(text, literals[0], sample, re.compile(pattern, re.DOTALL))


class TemplateIndex(Generic[T]):
    """Templates with something attached to each, found by the URIs they stand for. Immutable."""

    def __init__(self, entries: Iterable[tuple[UriTemplate, T]]) -> None:
        self._by_literal: dict[str, list[tuple[UriTemplate, T]]] = defaultdict(list)
        for template, attached in entries:
            self._by_literal[template.literal].append((template, attached))
        self._lengths = sorted({len(literal) for literal in self._by_literal}, reverse=True)

    def matching(self, uri: str) -> list[T]:
        """What is attached to the templates that `uri`, which `is_unambiguous`, can be made from; in their order."""
        candidates = (self._by_literal.get(uri[:length], ()) for length in self._lengths)
        return [attached for group in candidates for template, attached in group if template.matches(uri)]


def is_unambiguous(uri: str) -> bool:
    """Whether a URI an agent wrote means the same to everyone who reads it: the policy, us and the upstream.

    >>> is_unambiguous("file:///a/b"), is_unambiguous("file:///a/%2e%2e/b"), is_unambiguous("file:///a/..%2fb")
    (True, False, False)
    """
    if len(uri) > MAX_URI or _UNFIT.search(uri):
        return False
    decoded = unquote(unquote(uri))  # twice: %252e%252e is two dots to whoever decodes once too often
    segments = re.split(r"[/\\?#]", decoded)
    return not _UNFIT.search(decoded.replace(" ", "")) and "." not in segments and ".." not in segments


def _split(text: str) -> tuple[list[str], list[tuple[str, str]]]:
    """The literals (one more than there are expressions, neighbours merged) and (operator, variables) pairs."""
    parts = _EXPRESSION.split(text)
    literals, expressions = [parts[0]], list[tuple[str, str]]()
    for operator, variables, literal in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        if not _VARIABLES.fullmatch(variables):
            raise TemplateError(f"{{{operator}{variables}}} is not an expression of RFC 6570")
        if expressions and not (literals[-1] or operator or expressions[-1][0]):
            literals[-1] = literal  # {a}{b} stands for what {a} stands for
        else:
            expressions.append((operator, variables))
            literals.append(literal)
    if any("{" in literal or "}" in literal for literal in literals):
        raise TemplateError("it has a brace that belongs to no expression")
    return literals, expressions


def _first_open(expressions: list[tuple[str, str]]) -> int:
    """Where the end of the template begins: the first expression that may hold slashes or be left out."""
    return next((at for at, (operator, _) in enumerate(expressions) if operator), len(expressions))


def _until(literal: str) -> str:
    """A plain variable up to the first occurrence of `literal`; all there is when nothing separates it."""
    return f"(?>{_PLAIN}+?{re.escape(literal)})" if literal else f"{_PLAIN}++"


def _tail(literals: list[str], expressions: list[tuple[str, str]], start: int) -> str:
    operator, variables = expressions[start]
    between, last = literals[start + 1 : -1], literals[-1]
    if any(between) or (last and len(expressions) > start + 1) or (last and operator not in "+/"):
        raise TemplateError("a variable that may hold slashes or be left out stands before its end")
    if operator == "+" and start and not literals[start]:
        raise TemplateError("nothing separates a variable that may hold slashes from the one before it")
    if operator == "+":
        return f".+{re.escape(last)}"  # it can hold whatever the optional expressions after it could
    if operator == "/":
        count = variables.count(",") + 1
        first = "(?:/.*)?" if "*" in variables else f"(?:/[^/?#]*){{0,{count}}}"
        return first + re.escape(last) + ("(?:[?&#].*)?" if len(expressions) > start + 1 else "")
    rest = [other for other, _ in expressions[start:]]
    if "+" in rest or "/" in rest:
        raise TemplateError("a variable that may hold slashes stands after one that may be left out")
    return "".join(_TAILS[each] for each in dict.fromkeys(rest))


def _tail_sample(expression: tuple[str, str]) -> str:
    return {"+": "x", "/": "/x"}.get(expression[0], "")
