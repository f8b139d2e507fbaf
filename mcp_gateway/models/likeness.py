"""When two questions to a model could be the same one: which can be compared at all, and what must not differ.

Only a single question by itself, at temperature 0, without tools, state or anything private: what an answer depends on
beside the question's own words has to be the same byte for byte. Likeness of meaning is no proof, so names, numbers,
quotations and negations have to be the very same too. Pure.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from operator import mul
from typing import Any, Final

from mcp_gateway.domain import Json
from mcp_gateway.jsonrpc import canonical
from mcp_gateway.models.wires import Op

MAX_TEXT: Final = 4_000
"""Characters of a question; longer ones are rarely asked twice, and cost more to compare."""

_TURNS: Final = {Op.CHAT: "messages", Op.MESSAGES: "messages", Op.RESPONSES: "input"}
_INSTRUCTIONS: Final = ("system", "developer")
_PARTS: Final = ("text", "input_text")
_FACT: Final = re.compile(
    r"""https?://\S+|\S+@\S+|[\w.-]*\d[\w.:,/-]*|"[^"]*"|“[^”]*”|'[^']*'(?=\W|\Z)|`[^`]*`|[^\W\d_]*[A-ZÀ-ÖØ-Þ][\w-]*"""
)
"""Addresses, numbers and codes, quotations, and words with a capital."""
_NEGATION: Final = re.compile(
    r"\b(?:not?|nor|none|never|nothing|nobody|neither|without|except|but|unless|cannot|kein\w*|nicht|nie|ohne|außer"
    r"|pas|jamais|sans|nunca|sin)\b|n['’]t\b",
    re.IGNORECASE,
)
_BEGINNINGS: Final = re.compile(
    r"(?:an?|and|any|are|as|at|be|by|can|could|describe|did|do|does|explain|find|for|from|give|has|have|how|i|i'd|i'm|if|in"
    r"|is|it|list|may|me|my|name|of|on|or|please|say|should|show|so|tell|that|the|then|there|these|they|this|those|to"
    r"|was|we|were|what|when|where|which|who|why|will|with|would|write|you|your)",
    re.IGNORECASE,
)
"""Words that have a capital only because something begins with them."""
_WORD: Final = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Question:
    """One question that may be compared with others."""

    text: str
    rest: str
    """A digest of all that stands in the body beside it."""

    @property
    def facts(self) -> frozenset[str]:
        """What has to be the same in another question that is to count as this one."""
        return facts_in(self.text)


def question_in(op: Op, body: Json) -> Question | None:
    """The one question a body asks; None: it cannot be compared.

    Of a body without tools and state: `caching.is_plain` has seen to that.
    """
    member = _TURNS.get(op)
    temperature, many = body.get("temperature"), body.get("n", 1)
    is_fixed = temperature == 0 and not isinstance(temperature, bool) and many == 1
    if member is None or not is_fixed or body.get("stream"):
        return None
    turns = body.get(member)
    text = turns if isinstance(turns, str) else _only_question(turns)
    if not text or len(text) > MAX_TEXT:
        return None
    beside = {**body, member: turns[:-1] if isinstance(turns, list) else ""}
    return Question(text, hashlib.sha256(canonical(beside)).hexdigest())


def facts_in(text: str) -> frozenset[str]:
    """Names, numbers, quotations and negations.

    >>> sorted(facts_in("Do not ship order 7 to Rome."))
    ['7', 'Rome', 'not']
    """
    found = {fact.strip(".,:;!?") for fact in _FACT.findall(text)}
    negations = {word.lower() for word in _NEGATION.findall(text)}
    return frozenset(fact for fact in found if fact and not _BEGINNINGS.fullmatch(fact)) | negations


def answer_in(op: Op, answer: Any) -> str:
    """The words of a whole answer; empty where there are none."""
    try:
        if op is Op.CHAT:
            found = [answer["choices"][0]["message"]["content"]]
        elif op is Op.MESSAGES:
            found = [block["text"] for block in answer["content"] if block["type"] == "text"]
        else:
            items = [item for item in answer["output"] if item["type"] == "message"]
            found = [part["text"] for item in items for part in item["content"] if part["type"] == "output_text"]
    except (KeyError, IndexError, TypeError):
        return ""
    return "".join(part for part in found if isinstance(part, str))


def is_same_text(one: str, other: str) -> bool:
    """Whether two texts differ by no more than spaces, punctuation and capitals."""
    return _WORD.findall(one.casefold()) == _WORD.findall(other.casefold())


def unit(vector: Sequence[float]) -> tuple[float, ...]:
    """The same direction with length 1. Raises `ValueError` for a vector without one."""
    length = sqrt(sum(map(mul, vector, vector)))
    if not 0 < length < float("inf"):
        raise ValueError("a vector without a direction")
    return tuple(value / length for value in vector)


def likeness(one: Sequence[float], other: Sequence[float]) -> float:
    """The cosine of two unit vectors, from 0 to 1. Raises `ValueError` where they are of different lengths."""
    if len(one) != len(other):
        raise ValueError("vectors of different lengths")
    return min(max(float(sum(map(mul, one, other))), 0.0), 1.0)


def _only_question(turns: Any) -> str:
    """The user's one turn, behind nothing but instructions; empty where it is otherwise."""
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        return ""
    *before, last = turns
    if last.get("role") != "user" or any(turn.get("role") not in _INSTRUCTIONS for turn in before):
        return ""
    content = last.get("content")
    if isinstance(content, str) and set(last) <= {"role", "content", "type"}:
        return content
    parts = content if isinstance(content, list) and set(last) <= {"role", "content", "type"} else []
    are_texts = all(isinstance(part, dict) and set(part) == {"type", "text"} for part in parts)
    if not are_texts or not all(part["type"] in _PARTS and isinstance(part["text"], str) for part in parts):
        return ""
    return "\n".join(part["text"] for part in parts)
