"""Which targets a line of policy speaks of: `upstream/name` patterns, matched byte for byte.

`*` stands for anything within a segment, `**` for anything at all; every other character stands for itself. A pattern
is for tools unless it begins with `prompt:`, `resource:` or `model:`; one for resources speaks of resource templates
too. An upstream is always named: a grant can never be inherited by an upstream that is added later. Denies may be
wider.

Matching takes time linear in the name (a bit-parallel automaton): no name an agent sends can make it slow.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Final
from urllib.parse import unquote

from mcp_gateway.domain import DRAFTS, Kind

MAX_PATTERN: Final = 512
"""Longest pattern accepted, in characters; the automaton's state is that many bits."""

_PREFIX: Final = re.compile(r"^(tool|prompt|resource|model|route):")
_PIECE: Final = re.compile(r"\*\*+|\*|[^*]")
_TEMPLATE_PIECE: Final = re.compile(r"\{[^{}]*\}|.", re.DOTALL)
_REQUEST: Final = re.compile(r"\*|[A-Z]+(?: [/*]|\*\*)")
"""How what names requests of a plain API begins: with a method, or a wildcard for it."""
_SCHEME: Final = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*:(?://)?")
_DECODE_ROUNDS: Final = 3


class Match(Enum):
    """How far a pattern covers a target. `SOME` exists only for templates, which stand for many URIs."""

    NONE = 0
    SOME = 1
    ALL = 2


class PatternError(ValueError):
    """A pattern that cannot be used; the message says why, `fix` what to write instead."""

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.fix = fix


class Glob:
    """One glob over one string, as an automaton with one bit for each place in the pattern."""

    def __init__(self, text: str) -> None:
        self.text = text
        pieces = _PIECE.findall(text)
        self._literal = text if "*" not in text else None
        self._accept = 1 << len(pieces)
        self._masks: dict[str, int] = {}
        self._globstars = self._stars = 0
        for index, piece in enumerate(pieces):
            bit = 1 << index
            if piece.startswith("**"):
                self._globstars |= bit
            elif piece == "*":
                self._stars |= bit
            else:
                self._masks[piece] = self._masks.get(piece, 0) | bit

    @property
    def is_literal(self) -> bool:
        return self._literal is not None

    def matches(self, text: str) -> bool:
        """Whether the whole of `text` is covered."""
        if self._literal is not None:
            return text == self._literal
        return bool(self._run(text, self._skip_stars(1)) & self._accept)

    def match_template(self, template: str) -> Match:
        """How far the URIs that a URI template (RFC 6570) expands to are covered; `{...}` stands for any string.

        `ALL` is said only where it is certain; `NONE` always is.
        """
        some = every = self._skip_stars(1)
        for piece in _TEMPLATE_PIECE.findall(template):
            if len(piece) > 1:
                some = self._reachable(some)
                every = self._skip_stars(every & self._globstars)
            else:
                some, every = self._run(piece, some), self._run(piece, every)
        if every & self._accept:
            return Match.ALL
        return Match.SOME if some & self._accept else Match.NONE

    def _run(self, text: str, state: int) -> int:
        for char in text:
            stay = state & (self._globstars if char == "/" else self._globstars | self._stars)
            state = self._skip_stars(stay | ((state & self._masks.get(char, 0)) << 1))
            if not state:
                break
        return state

    def _skip_stars(self, state: int) -> int:
        """A star may stand for nothing: whoever is at one is past it too."""
        stars = self._globstars | self._stars
        while True:
            wider = state | ((state & stars) << 1)
            if wider == state:
                return state
            state = wider

    def _reachable(self, state: int) -> int:
        """Every place that some string leads to from `state`: the lowest one and all that follow."""
        return -(state & -state) & ((self._accept << 1) - 1) if state else 0


@dataclass(frozen=True, slots=True)
class Pattern:
    """One pattern of a grant or deny."""

    text: str
    kind: Kind
    """TOOL, PROMPT, RESOURCE, MODEL or ROUTE."""
    upstream: str
    """The upstream's name; `*` (any) only in denies."""
    name: Glob = field(repr=False, compare=False)
    plain_name: Glob = field(repr=False, compare=False)
    """`name` with percent-escapes resolved: what the plain form of a URI is held against."""

    def allows(self, kind: Kind, upstream: str, name: str) -> Match:
        """How far a grant with this pattern covers a target.

        A wildcard covers a URI only if it also covers the plain form of it, so `handbook/**` is no way to
        `handbook/../secret` or `handbook/%2e%2e/secret`, whatever the upstream makes of those.
        """
        if not self._is_for(kind, upstream):
            return Match.NONE
        if kind is Kind.TEMPLATE:
            # Never all of them: `..` is among the strings that a template's holes stand for.
            match = self.name.match_template(name)
            return Match.SOME if match is Match.ALL and "{" in name else match
        covered = self.name.matches(name)
        if covered and kind is Kind.RESOURCE and not self.name.is_literal:
            plain = plain_uri(name)
            covered = plain == name or self.plain_name.matches(plain)
        return Match.ALL if covered else Match.NONE

    def denies(self, kind: Kind, upstream: str, name: str) -> Match:
        """How far a deny with this pattern covers a target; a URI is covered in its plain form too."""
        if not self._is_for(kind, upstream):
            return Match.NONE
        if kind is Kind.TEMPLATE:
            return self.name.match_template(name)
        covered = self.name.matches(name)
        if not covered and kind is Kind.RESOURCE:
            covered = self.plain_name.matches(plain_uri(name))
        return Match.ALL if covered else Match.NONE

    def _is_for(self, kind: Kind, upstream: str) -> bool:
        kind = Kind.RESOURCE if kind is Kind.TEMPLATE else kind
        return kind is self.kind and self.upstream in ("*", upstream)


def parse_pattern(text: str, *, any_upstream: bool) -> Pattern:
    """Read one pattern. `any_upstream` (denies) allows `*` for the upstream, alone too: `*`, `prompt:*`, `*/delete_*`.

    Raises `PatternError`.

    >>> parse_pattern("crm/get_*", any_upstream=False).upstream
    'crm'
    """
    prefix = _PREFIX.match(text)
    kind = Kind(prefix[1]) if prefix else Kind.TOOL
    rest = text[prefix.end() :] if prefix else text
    if len(text) > MAX_PATTERN:
        raise PatternError(f"a pattern may have {MAX_PATTERN} characters, this one has {len(text)}")
    if not rest:
        raise PatternError("an empty pattern matches nothing", "write upstream/name, e.g. 'crm/get_*'")
    if any_upstream and rest in ("*", "**"):
        rest = "*/**"
    upstream, slash, name = rest.partition("/")
    if not slash or not upstream or not name:
        raise PatternError(f"{text!r} is not upstream/name", f"write 'UPSTREAM/{rest.strip('/') or '*'}'")
    if "*" in upstream and not (any_upstream and upstream == "*"):
        raise PatternError(_wild_upstream(text, any_upstream), "name the upstream, one pattern for each")
    if kind is Kind.ROUTE and upstream != DRAFTS and not _REQUEST.match(name):
        fix = f"write 'route:{upstream}/* /{name.strip('/')}'"
        raise PatternError(f"{text!r} matches no request: there is no method in it", fix)
    return Pattern(text, kind, upstream, Glob(name), Glob(_plain_text(name)))


def plain_uri(uri: str) -> str:
    """The one form that different spellings of a URI come to.

    Percent-escapes are resolved (nested ones too), a backslash is a slash, the scheme is lower case, repeated slashes
    and dot segments are gone (RFC 3986, section 6.2.2; upstreams that read files do as much or more).

    >>> plain_uri("FILE:///handbook/%2e%2e//secret")
    'file:///secret'
    """
    text = _plain_text(uri).replace("\\", "/")
    scheme = _SCHEME.match(text)
    head = scheme[0].lower() if scheme else ""
    rest = text[len(head) :]
    if "//" not in rest and "." not in rest:
        return head + rest
    return head + _without_dot_segments(rest)


def _without_dot_segments(path: str) -> str:
    kept: list[str] = []
    segments = path.split("/")
    for segment in segments[1:]:
        if segment == "..":
            del kept[-1:]
        elif segment not in ("", "."):
            kept.append(segment)
    trailing = [""] if len(segments) > 1 and segments[-1] in ("", ".", "..") else []
    return "/".join([segments[0], *kept, *trailing])


def _plain_text(text: str) -> str:
    for _ in range(_DECODE_ROUNDS):
        decoded = unquote(text)
        if decoded == text:
            break
        text = decoded
    return text


def _wild_upstream(text: str, any_upstream: bool) -> str:
    if any_upstream:
        return f"{text!r}: the upstream is a name or '*', nothing in between"
    return f"{text!r}: a grant names its upstream, or one added later would inherit it"
