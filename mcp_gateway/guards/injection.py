"""Sentences that give orders to a model where data was expected.

A small set of rules with scores: they catch what is copied from the well-known collections and miss what is written for
the occasion. Their findings belong in the audit and in alerts; what an injected model must not do is for the policy.
"""

from __future__ import annotations

import re
from typing import Final

from mcp_gateway.guards.detect import Found, Shape, found_by
from mcp_gateway.guards.sentences import GAP, sentences

_WORDS: Final = {
    "SOME": rf"(?:\w{{1,20}}{GAP}){{0,6}}",
    "ALL": rf"(?:(?:all|any|every|the|your|of|my|these|those){GAP}){{0,4}}",
    "EARLIER": rf"(?:(?:previous|prior|above|earlier|preceding|former|original|existing|system|safety){GAP}){{1,2}}",
    "ORDERS": "(?:instructions?|directives?|prompts?|rules|guidelines|commands?|context|guardrails|restrictions)",
    "NOT": "(?:do not|must not|don't|never|without)",
    "PEOPLE": "(?:user|human|person|anyone|operator)",
    "VALUABLES": "(?:contents?|credentials?|secrets?|passwords?|api keys?|tokens?|conversation|history)",
}


_sentence: Final = sentences(_WORDS)


def _mark(kind: str, score: float, pattern: str) -> Shape:
    return Shape(kind, re.compile(pattern, re.IGNORECASE | re.MULTILINE), score=score)


_SHAPES: Final = (
    _sentence("override", 0.9, "(?:ignore|disregard|forget|override|bypass|discard) ALL EARLIER ORDERS"),
    _sentence("override", 0.8, "NOT (?:follow|obey|following|obeying) ALL EARLIER ORDERS"),
    _sentence("override", 0.6, "new (?:system )?instructions (?:are|follow|from)"),
    _mark("role", 0.8, r"<\|im_start\|>|<\|start_header_id\|>|\[/?INST\]|<<SYS>>|</?(?:system|assistant)>"),
    _mark("role", 0.6, r"^[#\s*]{0,8}(?:system|developer)[\s_-]{0,2}(?:prompt|message|override)[*\s]{0,4}:"),
    _sentence(
        "persona", 0.8, "(?:you are|act as|pretend to be) (?:now )?(?:an? )?(?:DAN|jailbroken|unrestricted|evil)"
    ),
    _sentence("persona", 0.7, "(?:developer|debug|god|jailbreak) mode (?:is )?(?:now )?(?:enabled|activated|on)"),
    _sentence(
        "reveal", 0.7, "(?:reveal|print|repeat|show|output|leak|send) (?:me )?ALL (?:system prompt|hidden ORDERS)"
    ),
    _sentence("secrecy", 0.7, "NOT (?:tell|mention|inform|alert|notify)(?:ing)? (?:this )?(?:to )?(?:the )?PEOPLE"),
    _sentence(
        "tool-order", 0.7, "(?:before|instead of|after) (?:us|call|runn)ing SOME tools? SOME (?:must|always|first)"
    ),
    _mark(
        "tool-order", 0.7, r"<(?:important|critical|instructions?|secret)>[^<]{0,400}\b(?:must|read|send|call|pass)\b"
    ),
    _sentence("exfiltration", 0.7, "(?:send|post|upload|forward|exfiltrate|e-?mail) SOME VALUABLES SOME to"),
)


class Injection:
    """Finds instructions that talk over the ones a model was given."""

    name = "injection"
    kinds = tuple(dict.fromkeys(shape.kind for shape in _SHAPES))

    def scan(self, text: str) -> list[Found]:
        """What there is in one text."""
        return found_by(_SHAPES, text)
