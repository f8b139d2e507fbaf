"""A cache of prompts that mean the same, in shadow: it never answers, and tells what would have come of it.

For each question it looks at, it finds the nearest one asked before by the same principal under the same circumstances,
and, since the real answer is there, compares that with the answer it would have given. A package brings the embeddings
along (entry point group `mcp_gateway.embedders`), with its model inside: nothing here asks a network.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from typing import Final, Protocol

import anyio
import orjson
from anyio import CapacityLimiter, to_thread

from mcp_gateway.cache import Cache
from mcp_gateway.config.models import EMBEDDERS, SemanticConfig
from mcp_gateway.domain import Cached, CacheUse
from mcp_gateway.jsonrpc import canonical
from mcp_gateway.models.caching import Prompt, Recording
from mcp_gateway.models.likeness import Question, answer_in, facts_in, is_same_text, likeness, question_in, unit

MAX_QUESTIONS: Final = 128
"""Kept for one principal under one set of circumstances."""
MAX_ANSWER: Final = 16_000
"""Characters of an answer that can be compared."""
PATIENCE_S: Final = 2.0
"""For one look. A call waits for it at its very end."""

_log: Final = logging.getLogger(__name__)


class Embedder(Protocol):
    """Turns texts into vectors, whose directions are alike where meanings are. Called by one thread at a time."""

    def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """One vector for each text, all of one length. Asks no network; keeps nothing."""
        ...


IsPrivate = Callable[[str], bool]
"""Whether a text holds personal data or secrets."""


@dataclass(frozen=True, slots=True)
class Past:
    """One question and its answer."""

    asked: tuple[float, ...]
    said: tuple[float, ...]
    facts: frozenset[str]
    answer: str
    source: str
    at_s: float

    @property
    def size(self) -> int:
        return 8 * (len(self.asked) + len(self.said)) + len(self.answer) + sum(map(len, self.facts))


class Shadow:
    """Looks at calls of models that ask for it. Keeps questions as vectors, and answers as texts, in memory only."""

    def __init__(self, past: Cache[tuple[Past, ...]], now_s: Callable[[], float], is_private: IsPrivate) -> None:
        self._past = past
        self._now_s = now_s
        self._is_private = is_private
        self._embedders: dict[str, Embedder | None] = {}
        self._one = CapacityLimiter(1)

    async def looked(self, config: SemanticConfig, prompt: Prompt, body: object, recording: Recording) -> Cached | None:
        """What a cache would have made of a call that has just been answered; None: it could not be compared.

        One look at a time: calls that end meanwhile are passed over, so that none of them waits for another.
        """
        question = question_in(prompt.op, body) if isinstance(body, dict) else None
        answer = _answer_of(prompt, recording)
        if question is None or not answer or self._one.available_tokens < 1 or "no-store" in prompt.wishes:
            return None
        key = hashlib.sha256(canonical([prompt.circumstances, question.rest, config.embedder])).digest()
        past = self._past.get(prompt.owner, key) or ()
        past = tuple(each for each in past if self._now_s() - each.at_s < config.keep_s)
        try:
            with anyio.fail_after(PATIENCE_S):
                found = await to_thread.run_sync(
                    self._compared, config, question, answer, past, limiter=self._one, abandon_on_cancel=True
                )
        except Exception as e:  # noqa: BLE001 - somebody else's code, and nothing but a figure depends on it
            # Only its type: what it says may hold what was asked.
            _log.warning("embedder %r failed (%s); the call goes on without it", config.embedder, type(e).__name__)
            return None
        if found is None:
            return None
        cached, now = found
        now = replace(now, source=prompt.request_id, at_s=self._now_s())
        recording.afterwards(lambda: self._keep(prompt, key, now))
        return cached

    def _keep(self, prompt: Prompt, key: bytes, now: Past) -> None:
        kept = (now, *(self._past.get(prompt.owner, key) or ()))[:MAX_QUESTIONS]
        self._past.put(prompt.owner, key, kept, sum(each.size for each in kept))

    def _compared(
        self, config: SemanticConfig, question: Question, answer: str, past: Sequence[Past]
    ) -> tuple[Cached, Past] | None:
        """In a thread. None: it holds what must not be kept, or there is nothing to compare it with."""
        embedder = self._embedder(config.embedder)
        if embedder is None or self._is_private(question.text) or self._is_private(answer):
            return None
        asked, said = (unit(vector) for vector in embedder.embed([question.text, answer]))
        now = Past(asked, said, facts_in(question.text), answer, "", 0.0)
        if not past:
            return Cached(CacheUse.WOULD_MISS, "", 0), now
        found = ((likeness(asked, each.asked), each) for each in past)
        is_hit, similarity, nearest = max(
            ((like >= config.threshold and each.facts == now.facts, like, each) for like, each in found),
            key=lambda one: one[:2],
        )
        agreement = 1.0 if is_same_text(answer, nearest.answer) else likeness(said, nearest.said)
        use = CacheUse.WOULD_HIT if is_hit else CacheUse.WOULD_MISS
        return Cached(use, nearest.source, int(self._now_s() - nearest.at_s), similarity, agreement), now

    def _embedder(self, name: str) -> Embedder | None:
        """Loaded when it is first needed: a model takes a while. None: it cannot be, which is said once."""
        if name not in self._embedders:
            self._embedders[name] = None
            self._embedders[name] = next((entry.load()() for entry in entry_points(group=EMBEDDERS, name=name)), None)
        return self._embedders[name]


def _answer_of(prompt: Prompt, recording: Recording) -> str:
    found = recording.answer
    try:
        text = answer_in(prompt.op, orjson.loads(found[1] + found[2])) if found is not None else ""
    except orjson.JSONDecodeError:
        return ""
    return text if len(text) <= MAX_ANSWER else ""
