"""The header lines of one request, looked through once for whoever asks.

An agent sends the same lines with every call but for their `Content-Length`, so what follows from the others alone is
worked out once for all requests that have them. What says who is calling is kept nowhere but with the connection that
brought it, as long as that lasts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from starlette.types import Scope

from mcp_gateway.frontdoor.http_exchange import KEPT

Verdict = TypeVar("Verdict")

MAX_KEPT: Final = 2_000
MAX_KEPT_BYTES: Final = 2_048
"""Of one set of lines. Together a few megabytes, whatever anybody sends."""

TASK_HEADER: Final = b"mcp-gateway-task"
"""Carries a task token beside the agent's own credential."""

_HEAD: Final = "mcp_gateway.head"


class Lines:
    """Header lines without credentials and `Content-Length`: names in lower case, in the order they came."""

    __slots__ = ("_raw", "_verdicts", "fields", "size", "text")

    def __init__(self, lines: tuple[tuple[bytes, bytes], ...]) -> None:
        self._raw = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in lines)
        # RFC 9110 section 5.5: white space around a field's value is no part of it.
        self.text = tuple((name, value.strip(" \t")) for name, value in self._raw)
        self.fields = dict(self.text)
        """The last value of each name."""
        self.size = sum(len(name) + len(value) for name, value in lines)
        self._verdicts: dict[Any, Any] = {}

    def values(self, name: str) -> list[str]:
        """Every value of one name, as it came."""
        return [value for key, value in self._raw if key == name]

    def judged(self, judge: Callable[[Lines], Verdict]) -> Verdict:
        """What a function says of these lines alone, asked once."""
        if judge not in self._verdicts:
            self._verdicts[judge] = judge(self)
        verdict: Verdict = self._verdicts[judge]
        return verdict


class Head:
    """All header lines of one request, but for what `Content-Length` says: that is another with each body."""

    __slots__ = ("api_keys", "authorization", "count", "lines", "size", "task_tokens")

    def __init__(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self.authorization: list[str] = []
        self.task_tokens: list[str] = []
        self.api_keys: list[str] = []
        others = []
        own_size = 0
        for line in headers:
            name = line[0]
            if name == b"authorization":
                self.authorization.append(line[1].decode("latin-1"))
                own_size += len(name) + len(line[1])
            elif name == b"content-length":
                own_size += len(name) + len(line[1])
            elif name == TASK_HEADER:
                self.task_tokens.append(line[1].decode("latin-1"))
                own_size += len(name) + len(line[1])
            elif name == b"x-api-key":
                self.api_keys.append(line[1].decode("latin-1"))
                own_size += len(name) + len(line[1])
            else:
                others.append(line)
        self.count = len(headers)
        self.lines = _lines(tuple(others))
        self.size = self.lines.size + own_size


def head_of(scope: Scope) -> Head:
    """The header lines of an ASGI request."""
    head = scope.get(_HEAD)
    if head is None:
        kept = scope.get(KEPT)  # of the connection whose agent sent these very bytes before
        head = None if kept is None else kept.get(_HEAD)
        if head is None:
            head = Head(scope["headers"])
            if kept is not None:
                kept[_HEAD] = head
        scope[_HEAD] = head
    found: Head = head
    return found


_kept: Final[dict[tuple[tuple[bytes, bytes], ...], Lines]] = {}


def _lines(key: tuple[tuple[bytes, bytes], ...]) -> Lines:
    lines = _kept.get(key)
    if lines is None:
        lines = Lines(key)
        if lines.size <= MAX_KEPT_BYTES:
            if len(_kept) >= MAX_KEPT:
                del _kept[next(iter(_kept))]
            _kept[key] = lines
    return lines
