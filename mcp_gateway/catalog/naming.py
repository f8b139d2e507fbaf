"""The names agents see: `<upstream>__<tool>`, never over 64 characters.

Names are compared byte for byte; nothing is folded, trimmed or normalised. Rules:

* A prefix is put in front once and never looked into: `git_status` of upstream `git` is `git__git_status`, because
  dropping the repetition would let two tools of one upstream (`git_status`, `status`) meet in one name. An upstream
  whose operator wrote `prefix = ""` keeps its own names.
* Model providers refuse tool names over 64 characters. A longer name is cut and ends in a hash of the upstream's name
  and its own, so that the same tool has the same name at every start, whatever else is served.
* Names that could be mistaken for another are not shown at all: see `fault_in_tool_name`, `fault_in_prompt_name`.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from mcp_gateway.domain import Kind

MAX_NAME: Final = 64
"""Longest public name: OpenAI's and older Anthropic's limit for tool names."""

SEPARATOR: Final = "__"
_HASH_CHARS: Final = 10  # 50 bits; two names that still meet are refused as a collision, never mixed up

# MCP 2025-11-25 and later, server/tools "Tool Names". Anything else may hide (zero width) or imitate (homoglyphs).
_TOOL_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")
# Prompts have no such rule; people type them. Printable ASCII, no blank at the ends, and no slash: policies write
# `upstream/name`.
_PROMPT_NAME: Final = re.compile(r"(?=.{1,128}\Z)[!-.0-~](?:[ -.0-~]*[!-.0-~])?")

_PREFIXES: Final[Mapping[str, Kind]] = {kind.value: kind for kind in Kind}
_NO_TAGS: Final[Mapping[str, frozenset[str]]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class NamingRule:
    """What an operator wrote about one upstream's names (`prefix`, `include`, `exclude`, `tags` in servers.toml).

    Patterns are written over the upstream's own names: `*` stands for anything but a slash, `**` for anything. A
    pattern is about tools unless it starts with `prompt:`, `resource:` or `template:`. `include` limits only the kinds
    that it names; `exclude` beats it.
    """

    prefix: str | None = None
    """None: the upstream's name. Empty: no prefix."""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    tags: frozenset[str] = frozenset()
    tool_tags: Mapping[str, frozenset[str]] = field(default_factory=lambda: _NO_TAGS)
    """More tags, by pattern of name."""

    def shows(self, kind: Kind, name: str) -> bool:
        """Whether the operator lets this target into the catalog at all."""
        wanted = [pattern for pattern in self.include if _kind_of(pattern) is kind]
        if wanted and not matches_any(wanted, name):
            return False
        return not matches_any([pattern for pattern in self.exclude if _kind_of(pattern) is kind], name)

    def tags_of(self, kind: Kind, name: str) -> frozenset[str]:
        """The upstream's tags, and those written for this target."""
        own = [
            tags for pattern, tags in self.tool_tags.items() if _kind_of(pattern) is kind and _matches(pattern, name)
        ]
        return self.tags.union(*own)


def public_name(upstream: str, name: str, prefix: str | None = None) -> str:
    """The name agents see for an upstream's tool or prompt; at most `MAX_NAME` characters.

    >>> public_name("github", "create_issue")
    'github__create_issue'
    >>> public_name("github", "create_issue", prefix="")
    'create_issue'
    >>> len(public_name("github", "x" * 100))
    64
    """
    prefix = upstream if prefix is None else prefix
    full = f"{prefix}{SEPARATOR}{name}" if prefix else name
    if len(full) <= MAX_NAME:
        return full
    # A slash can stand in neither name, so no two pairs give the same text to hash.
    digest = hashlib.sha256(f"{prefix}/{upstream}/{name}".encode()).digest()
    short = base64.b32encode(digest).decode("ascii").lower()[:_HASH_CHARS]
    return f"{full[: MAX_NAME - _HASH_CHARS - 1]}_{short}"


def fault_in_tool_name(name: str) -> str:
    """Why a tool of this name cannot be shown; empty when it can."""
    return "" if _TOOL_NAME.fullmatch(name) else "tool names are 1 to 128 of A-Z a-z 0-9 _ . -"


def fault_in_prompt_name(name: str) -> str:
    """Why a prompt of this name cannot be shown; empty when it can."""
    return "" if _PROMPT_NAME.fullmatch(name) else "prompt names are 1 to 128 printable ASCII characters, no slash"


def matches_any(patterns: Iterable[str], name: str) -> bool:
    """Whether one of the patterns stands for this name.

    >>> matches_any(["get_*"], "get_issue"), matches_any(["resource:file:///*"], "file:///a/b")
    (True, False)
    """
    return any(_matches(pattern, name) for pattern in patterns)


def _kind_of(pattern: str) -> Kind:
    return _compiled(pattern)[0]


def _matches(pattern: str, name: str) -> bool:
    return _compiled(pattern)[1].fullmatch(name) is not None


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> tuple[Kind, re.Pattern[str]]:
    """What kind a pattern is about, and the names it stands for."""
    head, _, rest = pattern.partition(":")
    kind = _PREFIXES.get(head, Kind.TOOL)
    glob = rest if head in _PREFIXES else pattern
    stars = {"": "", "*": "[^/]*"}
    parts = [stars.get(part, ".*") if part.startswith("*") else re.escape(part) for part in re.split(r"(\*+)", glob)]
    return kind, re.compile("".join(parts), re.DOTALL)
