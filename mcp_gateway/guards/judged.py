"""Detectors that answer from elsewhere, asked about everything in one value before it is looked at.

All texts of the value are asked about at once, in every reading (`views`); what came back then stands in for the
detector while the value is walked, so that its findings are counted, masked and blocked like anybody's.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mcp_gateway.domain import Stage
from mcp_gateway.guards.detect import Found, Judge, Unjudged
from mcp_gateway.guards.views import views

SHORTEST_NUMBER: Final = 10**8
"""Smaller numbers are no card, account or telephone number."""
_PLAIN_NAME: Final = re.compile(r"[\w.$/@-]{1,40}")
"""Names of members that are names and nothing else: nobody is asked about those."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What one detector has answered, as a `Detector` of its own."""

    name: str
    kinds: Sequence[str]
    found: Mapping[str, Sequence[Found]]

    def scan(self, text: str) -> Sequence[Found]:
        """What it found in a text it was asked about."""
        return self.found.get(text, ())


async def asked(
    judges: Sequence[Judge], stage: Stage, texts: Sequence[str]
) -> tuple[list[Verdicts], dict[str, Unjudged]]:
    """What each of them answers, and, by name, why those did not that did not."""
    if len(judges) == 1:
        answers = [await _answer(judges[0], stage, texts)]
    else:
        answers = await asyncio.gather(*(_answer(judge, stage, texts) for judge in judges))
    verdicts = [answer for answer in answers if isinstance(answer, Verdicts)]
    silent = {judge.name: why for judge, why in zip(judges, answers, strict=True) if isinstance(why, Unjudged)}
    return verdicts, silent


async def _answer(judge: Judge, stage: Stage, texts: Sequence[str]) -> Verdicts | Unjudged:
    try:
        return Verdicts(judge.name, judge.kinds, await judge.judge(stage, texts) if texts else {})
    except Unjudged as e:
        return e


def readings(value: Any) -> list[str]:
    """Every text in a JSON value in every way it can be read, each once.

    >>> readings({"text": "hi", "n": 4111111111111111, "more": ["hi", ""]})
    ['hi', '4111111111111111']
    """
    return list(dict.fromkeys(view.text for text in _texts(value) for view in views(text) if view.text.strip()))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (name for name in value if not _PLAIN_NAME.fullmatch(name))
        yield from _texts_of(value.values())
    elif isinstance(value, (list, tuple)):
        yield from _texts_of(value)
    elif isinstance(value, (int, float)) and abs(value) >= SHORTEST_NUMBER:
        yield str(value)


def _texts_of(values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        yield from _texts(value)
