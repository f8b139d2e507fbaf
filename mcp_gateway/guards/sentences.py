"""Rules over sentences, written as the sentences they find: words as they are, CAPITALS for lists of words.

A space stands for whatever parts words (punctuation, a line break). A CAPITAL list that takes its own gaps along (its
pattern ends with one) is written with a space behind it, which is its own. Each pattern takes time in proportion.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from mcp_gateway.guards.detect import Shape

GAP: Final = r"[\s,.:;'\"*_-]{1,8}"


def sentences(words: Mapping[str, str]) -> Callable[[str, float, str], Shape]:
    """What makes a `Shape` of a kind, a score and a sentence in which these CAPITALS may stand.

    >>> shape = sentences({"FRUIT": "(?:apples?|pears?)"})("fruit", 0.5, "eat FRUIT")
    >>> shape.pattern.search("Eat, PEARS!").group()
    'Eat, PEARS'
    """
    with_gap = "|".join(name for name, pattern in words.items() if GAP in pattern)

    def sentence(kind: str, score: float, text: str) -> Shape:
        pattern = re.sub(rf"\b({with_gap}) ", r"\1", text) if with_gap else text
        for name, alternatives in words.items():
            pattern = pattern.replace(name, alternatives)
        return Shape(kind, re.compile(rf"\b(?:{pattern.replace(' ', GAP)})\b", re.IGNORECASE), score=score)

    return sentence
