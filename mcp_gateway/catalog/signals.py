"""What looks wrong in a definition: text nobody can see, terminal codes, sentences that give a model orders.

A signal makes somebody look; it is never the guarantee. The guarantee is the pin: whatever the words are, a definition
that was not approved is not served. Looks at every string of a definition, member names too. Pure.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

MAX_SIGNALS: Final = 20
"""Of one definition; the first few say enough."""
MAX_TEXT: Final = 100_000
"""Longest part of one string that is looked at for sentences. What cannot be seen is looked for in all of it."""
MAX_DEPTH: Final = 64
EXCERPT: Final = 80

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_BLANKS: Final = re.compile(r"[ \t\u00a0\u2000-\u200a\u3000]{60}|(?:[ \t]*\n){12}")
_ZERO_WIDTH: Final = frozenset(
    "\u200b\u2060\u2061\u2062\u2063\u2064\ufeff\u00ad\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0"
)
_JOINERS: Final = frozenset("\u200c\u200d")
_BIDI: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_IMITATIONS: Final = frozenset(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0455\u0456\u0458\u04bb\u0501\u051b\u051d"  # small Cyrillic
    "\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0425\u0405\u0406\u0408"  # capital Cyrillic
    "\u03bf\u03bd\u03c1\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7"  # Greek
)
"""Letters that are drawn like Latin ones (Unicode TR39, confusables.txt)."""

_FIRST: Final = r"(?:always|first|immediately|must|need to|have to|should|make sure to|be sure to|remember to)"
_PRIVATE_PLACE: Final = (
    r"(?:\.ssh\b|id_rsa|id_ed25519|\.aws/credentials|\.netrc|\.npmrc|/etc/(?:passwd|shadow)|mcp\.json"
    r"|claude_desktop_config|private key|api[ _-]?keys?|access tokens?|environment variables?|\.env\b)"
)


def _rule(name: str, pattern: str) -> tuple[str, re.Pattern[str]]:
    return name, re.compile(pattern, re.IGNORECASE)


# Each names something that a description has no business with: what it says is for the model, not about the tool.
# Bounded repeats only, so that no text can make them slow.
_ORDERS: Final = (
    _rule(
        "overrides instructions",
        r"\b(?:ignore|disregard|forget|override|bypass)\b[^.\n]{0,40}\b(?:previous|prior|above|earlier|other|all|any|system"
        r"|your|safety)\b[^.\n]{0,30}\b(?:instructions?|prompts?|rules?|guidelines?|directions?|polic(?:y|ies))",
    ),
    _rule(
        "hides from the person",
        r"\b(?:do not|don't|never|without|avoid|must not|should not)\b[^.\n]{0,30}"
        r"\b(?:tell(?:ing)?|inform(?:ing)?|mention(?:ing)?|notify(?:ing)?|alert(?:ing)?|reveal(?:ing)?|disclos(?:e|ing)"
        r"|show(?:ing)?|asking|warn(?:ing)?)\b[^.\n]{0,40}\b(?:users?|humans?|persons?|anyone|anybody|operators?|them)\b",
    ),
    _rule(
        "secrecy",
        r"\b(?:secretly|covertly|silently (?:send|copy|forward|read|include|upload)|keep (?:this|it) (?:a )?secret)\b",
    ),
    _rule("marks itself important", r"<\s*/?\s*(?:important|system|instructions?|admin|critical|hidden|override)\s*>"),
    _rule(
        "speaks as the system",
        r"(?:^|\n)\s*(?:system|assistant|developer)\s*:\s|\[/?(?:INST|SYSTEM)\]|<\|(?:im_start|system)",
    ),
    _rule(
        "asks for other secrets",
        rf"\b(?:read|open|load|cat|include|attach|append|pass|provide|collect|copy|send|extract|retrieve|fetch)\b"
        rf"[^.\n]{{0,60}}(?:~/|\$HOME|/home/|/etc/|content[s]? of|file)[^.\n]{{0,40}}{_PRIVATE_PLACE}",
    ),
    _rule(
        "sends data elsewhere",
        r"\b(?:send|forward|post|upload|exfiltrate|transmit|leak|bcc|cc)\b[^.\n]{0,80}\b(?:conversations?|chat history"
        r"|(?:previous|all) messages|credentials?|passwords?|secrets?|system prompt)\b[^.\n]{0,60}\b(?:to|via)\b",
    ),
    _rule(
        "rules over other tools",
        rf"\b(?:before|when(?:ever)?|instead of|after)\b[^.\n]{{0,30}}\b(?:using|calling|invoking|running)\b"
        rf"[^.\n]{{0,20}}"
        rf"\b(?:any|other|another|every|all)\b[^.\n]{{0,20}}\btools?\b[^.\n]{{0,60}}\b(?:you )?{_FIRST}\b",
    ),
    _rule(
        "replaces other tools",
        r"\b(?:do not|don't|never)\b[^.\n]{0,10}\b(?:use|call|invoke)\b[^.\n]{0,20}\b(?:any )?other tools?\b",
    ),
    _rule(
        "reads the conversation",
        r"\b(?:full|entire|whole|complete) (?:conversation|chat|message) (?:history|context|log)\b",
    ),
    _rule("speaks of the system prompt", r"\b(?:your|the) (?:system prompt|(?:hidden|initial) instructions)\b"),
    _rule("runs a download", r"\b(?:curl|wget)\b[^\n]{0,120}\|\s*(?:ba|z)?sh\b"),
    _rule("hides in a comment", r"<!--(?s:.{0,400}?)-->"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Signal:
    """One thing that looks wrong."""

    where: str
    """The path of the string: `inputSchema.properties.path.description`."""
    what: str
    excerpt: str
    """The text around it with everything invisible spelt out; ASCII."""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}: {self.excerpt}"


def signals_in(definition: Mapping[str, Any]) -> tuple[Signal, ...]:
    """What looks wrong in a definition, in the order it is read.

    >>> [signal.what for signal in signals_in({"name": "add", "description": "Adds.\\u200b"})]
    ['invisible character']
    """
    found: list[Signal] = []
    for where, text in _texts(definition, "", 0):
        found += _signals_of(where, text)
        if len(found) >= MAX_SIGNALS:
            break
    return tuple(found[:MAX_SIGNALS])


def _texts(value: Any, where: str, depth: int) -> Iterator[tuple[str, str]]:
    """Every string with its path, the names of members that are not plain ASCII too."""
    if isinstance(value, str):
        yield where, value
    elif depth >= MAX_DEPTH:
        return
    elif isinstance(value, Mapping):
        for name, member in value.items():
            path = f"{where}.{name}" if where else name
            if not (name.isascii() and name.isprintable()):
                yield f"{where or '$'} (a member's name)", name
            yield from _texts(member, path, depth + 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, f"{where}[{index}]", depth + 1)


def _signals_of(where: str, text: str) -> Iterator[Signal]:
    if (control := _CONTROL.search(text)) is not None:
        yield _signal(where, "control character", text, control.start())
    if not text.isascii():
        yield from _unseen(where, text)
    if (blanks := _BLANKS.search(text)) is not None:
        yield _signal(where, "text pushed out of sight", text, max(blanks.start() - 20, 0))
    for name, pattern in _ORDERS:
        if (match := pattern.search(text, 0, MAX_TEXT)) is not None:
            yield _signal(where, name, text, match.start())


def _unseen(where: str, text: str) -> Iterator[Signal]:
    """The first character of each kind that prints nothing or passes for another."""
    told: set[str] = set()
    for at, character in enumerate(text):
        if character < "\x80":
            continue
        what = _fault_of(character, text[max(at - 1, 0) : at + 2])
        if what and what not in told:
            told.add(what)
            yield _signal(where, what, text, max(at - 20, 0))


def _fault_of(character: str, around: str) -> str:
    code = ord(character)
    if character in _BIDI:
        return "text direction changed"
    if 0xE0000 <= code <= 0xE007F:
        return "invisible tag character"
    if 0xE0100 <= code <= 0xE01EF or 0xFE00 <= code <= 0xFE0D:
        return "variation selector"  # U+FE0E and U+FE0F choose how an emoji looks
    if character in _ZERO_WIDTH or unicodedata.category(character) == "Co":
        return "invisible character"
    # Joiners belong to emoji and to some scripts; between Latin letters they only hide.
    if character in _JOINERS and any("!" <= other <= "\u024f" for other in around):
        return "invisible character"
    return _imitation(character, around)


def _imitation(character: str, around: str) -> str:
    """A Greek or Cyrillic letter that looks Latin, inside a Latin word."""
    if character not in _IMITATIONS:
        return ""
    return "look-alike letter" if any(other.isascii() and other.isalpha() for other in around) else ""


def _signal(where: str, what: str, text: str, start: int) -> Signal:
    excerpt = text[start : start + EXCERPT].encode("unicode_escape", "backslashreplace").decode("ascii")
    return Signal(where[:200].encode("ascii", "backslashreplace").decode(), what, excerpt[:EXCERPT])
