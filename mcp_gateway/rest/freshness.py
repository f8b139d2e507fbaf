"""What HTTP says may be kept, for how long, and when it has to be asked for again: RFC 9111 as functions. Pure.

As a shared cache, and stricter than it has to be: nothing is kept on a guess (no heuristics), and a `Cache-Control`
that cannot be read counts as `no-store`. Header names are in lower case. Times are seconds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

Headers = Mapping[str, str]
Directives = Mapping[str, str]
"""By name in lower case; empty where there is no value, or where it is given twice in different words."""

STORABLE: Final = frozenset({200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501})
"""RFC 9110 section 15.1 without 206: parts are never kept."""
MAX_AGE_S: Final = 2**31
"""RFC 9111 section 1.2.2."""

_DIRECTIVE: Final = re.compile(
    r"\s*(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:=(?:\"(?P<quoted>(?:[^\"\\]|\\.)*)\"|(?P<plain>[^\s,\";]*)))?\s*(?:,|\Z)"
)
_UNREADABLE: Final[Directives] = {"no-store": ""}
_ETAG: Final = re.compile(r'(?:W/)?"[^"]*"')


def directives(text: str) -> Directives:
    """The directives of a `Cache-Control`.

    >>> directives('public, Max-Age="60"'), directives("max-age=60; public")
    ({'public': '', 'max-age': '60'}, {'no-store': ''})
    """
    found: dict[str, str] = {}
    at, text = 0, text.replace(",,", ",").strip(" \t,")
    while at < len(text):
        match = _DIRECTIVE.match(text, at)
        if match is None:
            return _UNREADABLE
        name, value = match["name"].lower(), match["quoted"] or match["plain"] or ""
        found[name] = value if found.get(name, value) == value else ""
        at = match.end()
    return found


def seconds_in(said: Directives, name: str) -> int | None:
    """The seconds a directive gives; 0 for something else than seconds, None where it is not there."""
    value = said.get(name)
    if value is None:
        return None
    return min(int(value), MAX_AGE_S) if value.isascii() and value.isdigit() and len(value) < 20 else 0


def may_be_stored(status: int, headers: Headers, *, is_credentialed: bool) -> bool:
    """Whether an answer to a GET may be kept at all (section 3). `is_credentialed`: our request carried a secret."""
    said = directives(headers.get("cache-control", ""))
    if status not in STORABLE or "no-store" in said or "private" in said:
        return False
    if "set-cookie" in headers or "content-range" in headers or selecting(headers) is None:
        return False
    # Section 3.5. Whatever carries the secret: not every API takes it as `Authorization`.
    if is_credentialed and not said.keys() & {"public", "s-maxage", "must-revalidate"}:
        return False
    return bool(lifetime_s(headers, 0.0)) or has_validator(headers)


def lifetime_s(headers: Headers, now_s: float) -> float:
    """How long an answer is fresh, counted from when it was made (section 4.2.1); 0 where it does not say."""
    said = directives(headers.get("cache-control", ""))
    if "no-cache" in said:
        return 0.0
    for name in ("s-maxage", "max-age"):
        seconds = seconds_in(said, name)
        if seconds is not None:
            return float(seconds)
    expires = moment_in(headers.get("expires", ""))
    if expires is None:
        return 0.0
    made_at = moment_in(headers.get("date", ""))
    return max(expires - (now_s if made_at is None else made_at), 0.0)


def initial_age_s(headers: Headers, asked_s: float, answered_s: float) -> float:
    """How old an answer was when it came (section 4.2.3)."""
    made_at = moment_in(headers.get("date", ""))
    apparent_s = 0.0 if made_at is None else max(answered_s - made_at, 0.0)
    said = headers.get("age", "").partition(",")[0].strip()
    age_s = min(int(said), MAX_AGE_S) if said.isascii() and said.isdigit() and len(said) < 20 else 0
    return max(apparent_s, age_s + max(answered_s - asked_s, 0.0))


def may_be_stale(headers: Headers) -> bool:
    """Whether an answer may be given although it is too old (sections 4.2.4 and 5.2.2.10)."""
    said = directives(headers.get("cache-control", ""))
    return not said.keys() & {"must-revalidate", "proxy-revalidate", "s-maxage", "no-cache"}


def has_validator(headers: Headers) -> bool:
    """Whether it can be asked if an answer still holds."""
    return bool(conditions(headers))


def conditions(headers: Headers) -> dict[str, str]:
    """What makes a request ask whether this answer still holds (section 4.3.1)."""
    found = {}
    if _ETAG.fullmatch(headers.get("etag", "")):
        found["if-none-match"] = headers["etag"]
    if moment_in(headers.get("last-modified", "")) is not None:
        found["if-modified-since"] = headers["last-modified"]
    return found


def is_known_by(asked: Headers, stored: Headers) -> bool:
    """Whether an agent has this very answer already, as its own conditions say (section 4.3.2)."""
    known = asked.get("if-none-match")
    if known is not None:
        tags = {tag.removeprefix("W/") for tag in _ETAG.findall(known)}
        return known.strip() == "*" or stored.get("etag", "?").removeprefix("W/") in tags
    since, changed_at = moment_in(asked.get("if-modified-since", "")), moment_in(stored.get("last-modified", ""))
    return since is not None and changed_at is not None and changed_at <= since


def is_same(known: Headers, said: Headers) -> bool:
    """Whether a 304 speaks of the answer that is known (section 4.3.4)."""
    return "etag" not in said or said["etag"].removeprefix("W/") == known.get("etag", "").removeprefix("W/")


def selecting(headers: Headers) -> tuple[str, ...] | None:
    """The request headers an answer depends on (section 4.1); None: on more than anybody can know."""
    names = sorted({name.strip().lower() for name in headers.get("vary", "").split(",")} - {""})
    return None if "*" in names else tuple(names)


def moment_in(text: str) -> float | None:
    """A date as seconds since the epoch; None for anything else.

    >>> moment_in("Thu, 01 Jan 1970 00:01:00 GMT"), moment_in("0")
    (60.0, None)
    """
    try:
        moment = parsedate_to_datetime(text) if text else None
        if moment is None:
            return None
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()  # RFC 9110: dates are in GMT
    except (ValueError, TypeError, OverflowError):
        return None
