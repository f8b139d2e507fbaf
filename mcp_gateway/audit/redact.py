"""Secrets taken out of what is recorded, before it is written.

Two kinds of rule: values that look like a secret wherever they stand (prefixes that vendors chose to be recognised by),
and everything under a member whose name says secret. JSON inside strings is looked into; base64 is decoded and looked
at, best effort. Every pattern is linear: its quantifiers are bounded or start where no earlier match could.
A bound on size belongs here too: what is cut off must be cut after redaction, or half a secret would stay.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import jsonschema_rs
import orjson

from mcp_gateway.domain import Json


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of secret. `markers` are lower-case texts, one of which stands in every match."""

    name: str
    pattern: re.Pattern[str]
    markers: tuple[str, ...]


def _rule(name: str, pattern: str, *markers: str) -> Rule:
    return Rule(name, re.compile(pattern, re.IGNORECASE | re.DOTALL), markers)


def _token(name: str, prefix: str, tail: str, *markers: str) -> Rule:
    """A vendor's token: it begins where a word begins, so that a long run of such characters is tried only once."""
    return Rule(name, re.compile(rf"(?<![A-Za-z0-9_-]){prefix}{tail}"), markers)


_NAMES_OF_SECRETS: Final = (
    "passw(?:or)?d|passphrase|pwd|secret|token|(?:api|private|access)[_-]?key|authorization|credentials?"
)

_GITHUB: Final = ("gho_", "ghp_", "ghu_", "ghs_", "ghr_", "github_pat_")
_GITLAB: Final = ("glpat-", "glptt-", "gldt-", "glcbt-", "glsoat-")

RULES: Final = (
    _rule("pem", r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY.*?(?:-----END [A-Z0-9 ]{0,40}-----|\Z)", "private key"),
    _rule("bearer", r"\bbearer\s{1,8}[A-Za-z0-9._~+/=-]{6,}", "bearer"),
    _rule("basic", r"\bbasic\s{1,8}[A-Za-z0-9+/=]{8,}", "basic"),
    _rule("cookie", r"\b(?:set-)?cookie\s{0,4}[:=]\s{0,4}[^\r\n]{1,8192}", "cookie"),
    _rule("url-password", r"(?<=://)[^\s/@:\"'<>]{0,256}:[^\s/@\"'<>]{1,256}(?=@)", "://"),
    _token("jwt", "eyJ", r"[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]{4,}\.?[A-Za-z0-9_-]*", "eyj"),
    _token("github", "(?:gh[opusr]_|github_pat_)", "[A-Za-z0-9_]{16,}", *_GITHUB),
    _token("gitlab", "gl(?:pat|ptt|dt|cbt|soat)-", "[A-Za-z0-9_.-]{16,}", *_GITLAB),
    _token("stripe", "[prs]k_(?:live|test)_", "[A-Za-z0-9]{10,}", "k_live_", "k_test_"),
    _token("openai-anthropic", "sk-", "[A-Za-z0-9_-]{12,}", "sk-"),
    _token("aws", "(?:AKIA|ASIA|ABIA|ACCA)", "[A-Z0-9]{16}", "akia", "asia", "abia", "acca"),
    _token("slack", "xox[abceoprs]-", "[A-Za-z0-9-]{8,}", "xox"),
    _token("slack-app", "xapp-", "[A-Za-z0-9-]{8,}", "xapp-"),
    _token("google", "AIza", "[A-Za-z0-9_-]{30,}", "aiza"),
    _token("google-oauth", r"(?:ya29\.|GOCSPX-|1//0)", "[A-Za-z0-9_-]{16,}", "ya29.", "gocspx-", "1//0"),
    _token("npm", "npm_", "[A-Za-z0-9]{20,}", "npm_"),
    _token("pypi", "pypi-", "[A-Za-z0-9_-]{20,}", "pypi-"),
    _token("huggingface", "hf_", "[A-Za-z0-9]{20,}", "hf_"),
    _token("sendgrid", r"SG\.", r"[A-Za-z0-9_-]{12,}\.[A-Za-z0-9_-]{12,}", "sg."),
    _token("digitalocean", "do[opr]_v1_", "[a-f0-9]{32,}", "_v1_"),
    _token("databricks", "dapi", "[a-f0-9]{32}", "dapi"),
    _token("vault", r"hv[sbr]\.", "[A-Za-z0-9_-]{16,}", "hvs.", "hvb.", "hvr."),
    _token("age", "AGE-SECRET-KEY-1", "[A-Z0-9]{20,}", "age-secret-key"),
    _token("gateway-key", "mg[wt]_", "[A-Za-z0-9_]{12,}", "mgw_", "mgt_"),
    _rule(
        "assignment",
        rf"(?:{_NAMES_OF_SECRETS})[\"']?\s{{0,4}}[=:]\s{{0,4}}[\"']?"
        r"[^\s\"'&,;<>{}\[\]]{4,}",
        "passw", "passphrase", "pwd", "secret", "token", "apikey", "api_key", "api-key", "privatekey", "private_key",
        "private-key", "accesskey", "access_key", "access-key", "authorization", "credential",
    ),
)  # fmt: skip

_MEMBERS_WITH_SECRETS: Final = re.compile(
    r"passw(or)?d|passphrase|^pwd$|secret|token$|apikey|authorization|credential|privatekey|accesskey|cookie|^auth$"
)
_BASE64: Final = re.compile(r"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{20,}={0,2}")
_HEX: Final = re.compile(r"[0-9a-fA-F-]*\Z")
_LONG_WORD: Final = 20
# `\\u` is an escape in a string inside a string: it may spell anything.
_MARKERS: Final = ('"auth"', "\\\\u", *sorted({marker for rule in RULES for marker in rule.markers}))
_MARKED: Final = jsonschema_rs.Draft202012Validator(
    {"pattern": "|".join("".join(c if c.isalnum() or c in '_"-:/ ' else f"\\{c}" for c in m) for m in _MARKERS)},
    pattern_options=jsonschema_rs.RegexOptions(),
)
"""Whether one of the markers is in a text: all of them in one go, fifty times as fast as one after the other."""

_WORDS: Final = bytes(c if (chr(c).isalnum() and c < 128) or c in b"+/_-=" else 0x20 for c in range(256))
_LETTERS: Final = bytes(0x20 if c == 0x20 else 0x61 for c in _WORDS)
_LONG_RUN: Final = b"a" * _LONG_WORD

MAX_DEPTH: Final = 200
_OVERLAP: Final = 4096
"""A text is looked at this far beyond where it is cut, so that a secret across the cut is seen whole."""
_REACH: Final = 128
"""Of every secret, a marker lies within so many characters of its beginning."""
TRUNCATED: Final = "truncated"


def redacted_text(text: str) -> tuple[str, list[str]]:
    """`text` without the secrets in it, and the names of the rules that found some.

    >>> redacted_text("Authorization: Bearer abcdef123456")
    ('Authorization: [redacted:bearer]', ['bearer'])
    """
    lowered = text.lower()
    fired: list[str] = []
    if not _has_marker(lowered):
        return text, fired
    for rule in RULES:
        if any(marker in lowered for marker in rule.markers):
            text, count = rule.pattern.subn(f"[redacted:{rule.name}]", text)
            fired += [rule.name] * bool(count)
    return text, fired


def may_hold_secret(data: bytes) -> bool:
    """A quick look at JSON text: False only where `redacted` would find nothing. Costs microseconds a kilobyte."""
    lowered = data.decode("utf-8", "replace").lower()  # `in` on str is five times as fast as on bytes
    return _has_marker(lowered) or (len(data) >= _LONG_WORD and _may_hold_base64(data))


def _has_marker(lowered: str) -> bool:
    try:
        return _MARKED.is_valid(lowered)
    except UnicodeEncodeError:  # half of a surrogate pair is in it: look closer
        return True


def redacted(value: Any, max_bytes: int) -> tuple[Any, list[Json]]:
    """A copy of a JSON value without its secrets, of about `max_bytes` at most, and what was done where.

    The second is a list of `{"path": "$.a[0]", "rule": NAME}`; rule `truncated` says that content was left out there.
    """
    walk = _Walk(max_bytes)
    return walk.value(value, "$", 0), walk.found


class _Walk:
    """One copy being made; `left` is how many bytes it may still take."""

    def __init__(self, max_bytes: int) -> None:
        self.left = max_bytes
        self.found: list[Json] = []

    def value(self, value: Any, path: str, depth: int) -> Any:
        if isinstance(value, str):
            return self._string(value, path, depth)
        if isinstance(value, dict):
            return self._object(value, path, depth)
        if isinstance(value, (list, tuple)):
            return self._array(value, path, depth)
        self.left -= 8
        return value

    def _string(self, text: str, path: str, depth: int) -> str:
        room = max(self.left, 0)
        self.left -= len(text) + 2
        if len(text) > room and not _may_begin_a_secret(text[: room + _REACH]):
            self._note(path, [TRUNCATED])
            return _cut(text, text[:room])
        window = text[: room + _OVERLAP]
        inner = _json_inside(window) if len(text) == len(window) and depth < MAX_DEPTH else None
        if inner is not None:
            window = self._json_string(window, inner, path, depth)
        else:
            window, fired = redacted_text(window)
            window, more = _without_base64_secrets(window)
            if fired or more:
                self._note(path, fired + more)
        if len(text) <= room:
            return window
        self._note(path, [TRUNCATED])
        return _cut(text, window[:room])

    def _json_string(self, text: str, inner: Any, path: str, depth: int) -> str:
        walk = _Walk(len(text) * 2 + 1024)
        clean = walk.value(inner, f"{path}|$", depth + 1)
        self.found += walk.found
        return orjson.dumps(clean).decode() if walk.found else text

    def _object(self, members: Json, path: str, depth: int) -> Json:
        copy: Json = {}
        for number, (name, member) in enumerate(members.items()):
            if self.left <= 0 or depth >= MAX_DEPTH:
                self._note(path, [TRUNCATED])
                copy["…"] = f"[{len(members) - number} more members]"
                break
            self.left -= len(name) + 4
            shown, fired, is_secret = _looked_at(name)
            if fired:
                self._note(path, fired)
            where = f"{path}.{shown}"
            if is_secret and member is not None and not isinstance(member, bool):
                self._note(where, ["member"])
                copy[shown] = "[redacted:member]"
            else:
                copy[shown] = self.value(member, where, depth + 1)
        return copy

    def _array(self, items: Iterable[Any], path: str, depth: int) -> list[Any]:
        copy: list[Any] = []
        for number, item in enumerate(items):
            if self.left <= 0 or depth >= MAX_DEPTH:
                self._note(path, [TRUNCATED])
                copy.append("… [more items]")
                break
            self.left -= 1
            copy.append(self.value(item, f"{path}[{number}]", depth + 1))
        return copy

    def _note(self, path: str, rules: Iterable[str]) -> None:
        self.found += [{"path": path[:300], "rule": rule} for rule in rules][: max(0, 200 - len(self.found))]


@lru_cache(maxsize=1024)  # rows of a table have the same names again and again
def _looked_at(name: str) -> tuple[str, list[str], bool]:
    """A member's name as it is shown, the rules that fired on it, and whether it says that its value is a secret."""
    shown, fired = redacted_text(name[:_OVERLAP])
    return shown[:200], fired, is_secret_name(name)


def _cut(text: str, shown: str) -> str:
    return f"{shown}… [{len(text)} characters in all]"


def _may_begin_a_secret(text: str) -> bool:
    return _has_marker(text.lower()) or _may_hold_base64(text.encode("utf-8", "replace"))


def is_secret_name(name: str) -> bool:
    """Whether whatever stands under a member of this name is a secret.

    >>> [is_secret_name(name) for name in ("X-Api-Key", "accessToken", "max_tokens", "title")]
    [True, True, False, False]
    """
    return _MEMBERS_WITH_SECRETS.search("".join(filter(str.isalnum, name[:200].lower()))) is not None


def _json_inside(text: str) -> Any:
    """The object or array that `text` holds as JSON, or None."""
    if text.lstrip()[:1] not in ("{", "[") or '"' not in text:
        return None
    try:
        inner = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return inner if isinstance(inner, (dict, list)) else None


def _without_base64_secrets(text: str) -> tuple[str, list[str]]:
    fired: list[str] = []

    def clean(match: re.Match[str]) -> str:
        word = match.group()
        if len(word) > 65_536 or _is_hex(word.encode()):
            return word
        rules = redacted_text(_decoded(word))[1]
        fired.extend(rules)
        return f"[redacted:base64:{rules[0]}]" if rules else word

    return (_BASE64.sub(clean, text), fired) if _may_hold_base64(text.encode("utf-8", "replace")) else (text, fired)


def _may_hold_base64(data: bytes) -> bool:
    """Whether some word is long enough to hide a secret and is not just a digest or a UUID."""
    if _LONG_RUN not in data.translate(_LETTERS):  # the same question as the next one, at a tenth of its cost
        return False
    return any(len(word) >= _LONG_WORD and not _is_hex(word) for word in data.translate(_WORDS).split())


def _decoded(word: str) -> str:
    word = word.rstrip("=").replace("-", "+").replace("_", "/")
    word = word[: len(word) - (len(word) % 4 == 1)]
    try:
        return base64.b64decode(word + "=" * (-len(word) % 4)).decode("latin-1")
    except (binascii.Error, ValueError):
        return ""


def _is_hex(word: bytes) -> bool:
    return _HEX.match(word.decode("latin-1")) is not None
