"""What a call carries is looked at, and passed on as it is, masked, or not at all, as the policy's guards say.

One engine for arguments, prompts, results and bodies: every text in a JSON value is read in every way there is
(`views`), by every detector that a guard asks for. The strongest action wins, so the order of guards never matters.
Anything that cannot be looked at is treated as if everything had been found in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from anyio import to_thread

from mcp_gateway.domain import Action, Finding, Inspection, Stage
from mcp_gateway.errors import Blocked
from mcp_gateway.guards.detect import Detector, Found, chosen
from mcp_gateway.guards.views import views

LONG_TEXT: Final = 16_384
"""Characters in all from which a thread looks at them, so that other calls go on meanwhile."""
_SHORTEST_NUMBER: Final = 10**8
"""Smaller numbers are no card, account or telephone number."""
_STRENGTH: Final = tuple(Action)


@dataclass(frozen=True, slots=True)
class Looked:
    """What became of one value."""

    value: Any
    """The value that goes on; the very same object where nothing was masked."""
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class _Wish:
    """One guard's part of the work."""

    inspection: Inspection
    kinds: Mapping[str, frozenset[str]]
    """By detector, the kinds that count."""

    def counts(self, detector: str, found: Found) -> bool:
        """Whether this guard cares for that."""
        return found.kind in self.kinds.get(detector, ()) and found.score >= self.inspection.min_score


@dataclass(frozen=True, slots=True)
class _Span:
    """A part of one text that some guard cares for."""

    start: int
    end: int
    name: str
    """`DETECTOR/KIND`."""


class _Look:
    """One look at one value, for all guards that apply to it."""

    def __init__(self, wishes: Sequence[_Wish], detectors: Sequence[Detector]) -> None:
        self._wishes = wishes
        self._detectors = detectors
        self._counts: list[Counter[str]] = [Counter() for _ in wishes]
        self._scores = [0.0] * len(wishes)

    def at(self, value: Any) -> Any:
        """`value` with everything masked that has to be; the same object where there is nothing."""
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, Mapping):
            return self._members(value)
        if isinstance(value, (list, tuple)):
            items = [self.at(item) for item in value]
            return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
        if isinstance(value, (int, float)) and abs(value) >= _SHORTEST_NUMBER:
            masked = self._text(digits := str(value))
            return value if masked is digits else masked
        return value

    def findings(self, stage: Stage) -> tuple[Finding, ...]:
        """What each guard has found, those left out that found nothing."""
        return tuple(
            Finding(wish.inspection.at, stage, wish.inspection.action, dict(counts), score)
            for wish, counts, score in zip(self._wishes, self._counts, self._scores, strict=True)
            if counts
        )

    def _members(self, members: Mapping[str, Any]) -> Mapping[str, Any]:
        copy = {}
        changed = False
        for name, member in members.items():
            shown, masked = self._text(name), self.at(member)
            while shown is not name and (shown in members or shown in copy):
                shown += "_"  # two masked names must not become one member
            copy[shown] = masked
            changed = changed or masked is not member or shown is not name
        return copy if changed else members

    def _text(self, text: str) -> str:
        to_mask = [span for view in views(text) for span in self._spans(view.text, view.span)]
        return _masked(text, to_mask) if to_mask else text

    def _spans(self, text: str, span: Callable[[int, int], tuple[int, int]]) -> Iterator[_Span]:
        """What has to be masked of one reading of a text; what was found is counted on the way."""
        for detector in self._detectors:
            for found in detector.scan(text):
                name = f"{detector.name}/{found.kind}"
                if self._note(detector.name, name, found) and found.end > found.start:
                    start, end = span(found.start, found.end)
                    yield _Span(start, end, name)

    def _note(self, detector: str, name: str, found: Found) -> bool:
        """Count it for every guard that cares; tells whether one of them masks."""
        is_masked = False
        for number, wish in enumerate(self._wishes):
            if wish.counts(detector, found):
                self._counts[number][name] += 1
                self._scores[number] = max(self._scores[number], found.score)
                is_masked = is_masked or wish.inspection.action is Action.MASK
        return is_masked


class Content:
    """Looks at what calls carry. Keeps nothing of it."""

    def __init__(self, detectors: Iterable[Detector]) -> None:
        self._detectors = {detector.name: detector for detector in detectors}

    @property
    def names(self) -> Mapping[str, tuple[str, ...]]:
        """What policies may ask for: each detector with its kinds."""
        return {name: tuple(detector.kinds) for name, detector in self._detectors.items()}

    async def look(self, inspections: Sequence[Inspection], stage: Stage, value: Any) -> Looked:
        """Look at every text in a JSON value. Raises `Blocked`, with the findings, where a guard says so."""
        wanted = [inspection for inspection in inspections if stage in inspection.stages]
        if not wanted:
            return Looked(value, ())
        length = _length(value)
        if length > LONG_TEXT:
            return await to_thread.run_sync(self._look, wanted, stage, value)
        return self._look(wanted, stage, value)

    def _look(self, inspections: Sequence[Inspection], stage: Stage, value: Any) -> Looked:
        wishes = [self._wish(inspection) for inspection in inspections]
        names = dict.fromkeys(name for wish in wishes for name in wish.kinds)
        look = _Look(wishes, [self._detectors[name] for name in names])
        masked = look.at(value)
        findings = look.findings(stage)
        _block(findings, stage)
        return Looked(masked, findings)

    def _wish(self, inspection: Inspection) -> _Wish:
        try:
            found = chosen(self._detectors, inspection.find)
        except LookupError as e:
            # Refused when the policy was read; a detector that has gone since must not open the gate.
            raise Blocked(f"a guard cannot be run: there is no detector {e}") from e
        return _Wish(inspection, {detector.name: kinds for detector, kinds in found})


def _block(findings: Sequence[Finding], stage: Stage) -> None:
    blocked = [finding for finding in findings if finding.action is Action.BLOCK]
    if blocked:
        kinds = sorted({name.replace("/", ": ") for finding in blocked for name in finding.counts})
        where = "what was sent" if stage is Stage.ARGUMENTS else "what came back"
        raise Blocked(f"{where} holds {', '.join(kinds)}, which may not pass here", findings)


def strongest(actions: Iterable[Action]) -> Action | None:
    """The action that wins."""
    return max(actions, key=_STRENGTH.index, default=None)


def _masked(text: str, spans: Iterable[_Span]) -> str:
    """`text` with each stretch that spans cover replaced by one note of what stood there."""
    parts, done = [], 0
    for start, end, name in _joined(spans):
        parts += [text[done:start], f"[masked:{name}]"]
        done = end
    return "".join([*parts, text[done:]])


def _joined(spans: Iterable[_Span]) -> list[tuple[int, int, str]]:
    """Spans that overlap made one, in order, under the name of the first."""
    joined: list[tuple[int, int, str]] = []
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        if joined and span.start < joined[-1][1]:
            start, end, name = joined[-1]
            joined[-1] = (start, max(end, span.end), name)
        else:
            joined.append((span.start, span.end, span.name))
    return joined


def _length(value: Any) -> int:
    """Characters of text in a JSON value."""
    length = 0
    rest = [value]
    while rest:
        item = rest.pop()
        if isinstance(item, str):
            length += len(item)
        elif isinstance(item, Mapping):
            rest += [*item.keys(), *item.values()]
        elif isinstance(item, (list, tuple)):
            rest += item
    return length
