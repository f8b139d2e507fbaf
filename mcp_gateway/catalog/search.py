"""Finding tools by words: BM25 over names, descriptions and the fields of their schemas.

Built once for a catalog; asked for a subset of it, and everything that is counted is counted within that subset alone:
what a caller may not see changes neither what is found nor its order. Pure.

BM25 as in Robertson and Zaragoza, "The Probabilistic Relevance Framework" (2009), with weights for fields (section 3.6,
BM25F, here as repeated counts) and the usual k1 and b.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final

import orjson

from mcp_gateway.domain import Target

K1: Final = 1.2
B: Final = 0.75
NAME_WEIGHT: Final = 5.0
TITLE_WEIGHT: Final = 2.0
FIRST_SENTENCE_WEIGHT: Final = 2.0
DESCRIPTION_WEIGHT: Final = 0.5
SCHEMA_WEIGHT: Final = 0.2
MAX_WORDS: Final = 2_000
"""Of one definition; what stands behind them finds nothing."""
MAX_QUERY_WORDS: Final = 64
MAX_DEPTH: Final = 6
CHARS_PER_TOKEN: Final = 4.0
"""What tokenizers of large models make of JSON and English, about; a list's cost is an estimate, not a count."""

_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|[^\W\d_a-zA-Z]+")
_SENTENCE_END: Final = re.compile(r"(?<=[.!?:])\s|\n")
_STOP_WORDS: Final = (
    "a an and are as at be by can do for from get has how i in into is it its me my of on or our that the their"
    " them this to use used using was we what when which will with you your"
)
_STOP: Final = frozenset(_STOP_WORDS.split())

_ALIKE: Final = (
    "create make new add open file write start register",
    "delete remove drop erase forget destroy",
    "find search look query locate",
    "list all show which available",
    "get read retrieve fetch show describe view see download",
    "update edit change modify set patch",
    "send post publish submit",
    "run execute start trigger launch",
    "stop end cancel close",
    "move rename transfer",
    "folder directory",
    "ticket issue bug",
    "picture screenshot image photo",
    "log history",
    "comment reply answer note",
    "remember memory store save",
    "website page url web",
    "document record row",
    "error failure fail broken",
    "pr pull",
    "mr merge",
    "repo repository project",
    "db database",
    "vm virtual machine",
    "k8s kubernetes",
    "person people user human member",
    "config configuration setting",
)
"""Words that people use for one another where tools are meant."""
ALIKE_WEIGHT: Final = 0.4


class ToolIndex:
    """The words of every tool of one catalog."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self._places = {id(target): place for place, target in enumerate(targets)}
        self._targets = targets  # keeps the ids valid
        self._lengths: list[float] = []
        self._postings: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for place, target in enumerate(targets):
            counts = _words_of(target)
            self._lengths.append(sum(counts.values()))
            for word, count in counts.items():
                self._postings[word].append((place, count))

    def find(self, query: str, among: Sequence[Target], limit: int) -> list[Target]:
        """The `limit` targets that fit best, of those in `among` (which must be of this catalog); the best first."""
        visible = {self._places[id(target)]: target for target in among if id(target) in self._places}
        if not visible:
            return []
        average = sum(self._lengths[place] for place in visible) / len(visible) or 1.0
        scores: dict[int, float] = defaultdict(float)
        asked = dict.fromkeys(words(query)[:MAX_QUERY_WORDS], 1.0)
        for word in list(asked):
            for other in _alike().get(word, ()):
                asked.setdefault(other, ALIKE_WEIGHT)
        for word, weight in asked.items():
            self._score(word, weight, visible, average, scores)
        best = sorted(scores, key=lambda place: (-scores[place], visible[place].public_name))
        return [visible[place] for place in best[:limit]]

    def _score(
        self, word: str, weight: float, visible: Collection[int], average: float, scores: dict[int, float]
    ) -> None:
        found = [(place, count) for place, count in self._postings.get(word, ()) if place in visible]
        rarity = weight * math.log(1 + (len(visible) - len(found) + 0.5) / (len(found) + 0.5))
        for place, count in found:
            length = 1 - B + B * self._lengths[place] / average
            scores[place] += rarity * count * (K1 + 1) / (count + K1 * length)


def words(text: str) -> list[str]:
    """The words of a text or a name as they are compared: taken apart, lower case, endings cut.

    >>> words("createPullRequest listing_issues")
    ['creat', 'pull', 'request', 'list', 'issu']
    """
    return [_stem(word) for word in (match.lower() for match in _WORD.findall(text)) if word not in _STOP]


def tokens_of(value: Any) -> int:
    """About how many tokens a JSON value costs whoever has it in its context."""
    return round(len(orjson.dumps(value)) / CHARS_PER_TOKEN)


@cache
def _alike() -> Mapping[str, frozenset[str]]:
    """Each word's neighbours, as they are compared."""
    found: dict[str, set[str]] = defaultdict(set)
    for group in _ALIKE:
        stems = {_stem(word) for word in group.split()}
        for stem in stems:
            found[stem] |= stems - {stem}
    return {word: frozenset(others) for word, others in found.items()}


def _stem(word: str) -> str:
    """Plurals and the commonest verb endings; both sides are cut alike, so it need not be grammar."""
    for ending in ("ing", "ies", "es", "ed", "s", "e", "y"):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            return word[: -len(ending)]
    return word


def _words_of(target: Target) -> dict[str, float]:
    """How much each word counts: in the name most, in what only the schema says least."""
    definition = target.raw or target.definition
    counts: dict[str, float] = defaultdict(float)
    description = str(definition.get("description") or "")
    first = _SENTENCE_END.split(description, maxsplit=1)[0]
    for text, weight in (
        (target.name, NAME_WEIGHT),
        (f"{definition.get('title') or ''} {target.upstream}", TITLE_WEIGHT),
        (first, FIRST_SENTENCE_WEIGHT),
        (description[len(first) :], DESCRIPTION_WEIGHT),
        (" ".join(_schema_texts(definition.get("inputSchema"), 0)), SCHEMA_WEIGHT),
    ):
        for word in words(text)[:MAX_WORDS]:
            counts[word] += weight
    return counts


def _schema_texts(schema: Any, depth: int) -> Iterator[str]:
    """Names and descriptions of what a schema describes, and the words it lets one choose from."""
    if not isinstance(schema, Mapping) or depth > MAX_DEPTH:
        return
    yield str(schema.get("description") or "")
    options = schema.get("enum")
    yield from (option for option in (options if isinstance(options, list) else ()) if isinstance(option, str))
    properties = schema.get("properties")
    for name, member in properties.items() if isinstance(properties, Mapping) else ():
        yield name
        yield from _schema_texts(member, depth + 1)
    yield from _schema_texts(schema.get("items"), depth + 1)
