"""What a call carries is looked at, and passed on as it is, masked, or not at all, as the policy's guards say.

One engine for arguments, prompts, results and bodies: every text in a JSON value is read in every way there is
(`views`), by every detector that a guard asks for. The strongest action wins, so the order of guards never matters.
Anything that cannot be looked at is treated as if everything had been found in it: also what a detector that answers
from elsewhere (`judged`) did not judge, unless an operator declared that it may pass.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from anyio import to_thread

from mcp_gateway.domain import Action, Finding, Inspection, Stage
from mcp_gateway.errors import Blocked
from mcp_gateway.guards.detect import Detector, Found, Judge, Unjudged, chosen
from mcp_gateway.guards.judged import SHORTEST_NUMBER, Verdicts, asked, readings
from mcp_gateway.guards.views import View, views

LONG_TEXT: Final = 16_384
"""Characters in all from which a thread looks at them, so that other calls go on meanwhile."""
UNJUDGED: Final = "unjudged"
"""The kind under which the audit has what a detector did not answer about: `DETECTOR/unjudged`."""
_STRENGTH: Final = tuple(Action)

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """One thing found, and the guards that care for it."""

    text: str
    """The whole text it stands in."""
    start: int
    end: int
    name: str
    """`DETECTOR/KIND`."""
    score: float
    guards: tuple[Inspection, ...]

    @property
    def is_masked(self) -> bool:
        """Whether a guard wants it out of the text."""
        return self.end > self.start and any(guard.action is Action.MASK for guard in self.guards)


@dataclass(frozen=True, slots=True)
class Looked:
    """What became of one value."""

    value: Any
    """The value that goes on; the very same object where nothing was masked."""
    findings: tuple[Finding, ...]
    """What each guard has found, those left out that found nothing."""
    places: tuple[Place, ...] = ()
    """What the findings are made of, but for what was not judged."""
    unseen: tuple[Finding, ...] = ()
    """Those of the findings that say that something was not judged."""


@dataclass(frozen=True, slots=True)
class _Wish:
    """One guard's part of the work."""

    inspection: Inspection
    kinds: Mapping[str, frozenset[str]]
    """By detector, the kinds that count."""

    def counts(self, detector: str, found: Found) -> bool:
        """Whether this guard cares for that."""
        return found.kind in self.kinds.get(detector, ()) and found.score >= self.inspection.min_score


class _Look:
    """One look at one value, for all guards that apply to it."""

    def __init__(self, wishes: Sequence[_Wish], detectors: Sequence[Detector]) -> None:
        self._wishes = wishes
        self._detectors = detectors
        self.places: list[Place] = []

    def at(self, value: Any) -> Any:
        """`value` with everything masked that has to be; the same object where there is nothing."""
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, Mapping):
            return self._members(value)
        if isinstance(value, (list, tuple)):
            items = [self.at(item) for item in value]
            return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
        if isinstance(value, (int, float)) and abs(value) >= SHORTEST_NUMBER:
            shown = self._text(digits := str(value))
            return value if shown is digits else shown
        return value

    def _members(self, members: Mapping[str, Any]) -> Mapping[str, Any]:
        copy = {}
        changed = False
        for name, member in members.items():
            shown, after = self._text(name), self.at(member)
            while shown is not name and (shown in members or shown in copy):
                shown += "_"  # two masked names must not become one member
            copy[shown] = after
            changed = changed or after is not member or shown is not name
        return copy if changed else members

    def _text(self, text: str) -> str:
        places = [place for view in views(text) for place in self._places(text, view)]
        self.places += places
        to_mask = [place for place in places if place.is_masked]
        return masked(text, to_mask) if to_mask else text

    def _places(self, text: str, view: View) -> Iterator[Place]:
        """What some guard cares for in one reading of a text, and where it stands in the text itself."""
        for detector in self._detectors:
            for found in detector.scan(view.text):
                guards = tuple(wish.inspection for wish in self._wishes if wish.counts(detector.name, found))
                if guards:
                    start, end = view.span(found.start, found.end) if found.end > found.start else (0, 0)
                    yield Place(text, start, end, f"{detector.name}/{found.kind}", found.score, guards)


class Content:
    """Looks at what calls carry. Keeps nothing of it."""

    def __init__(self, detectors: Iterable[Detector | Judge]) -> None:
        self._all = {detector.name: detector for detector in detectors}
        self._judges = {name: each for name, each in self._all.items() if isinstance(each, Judge)}
        self._detectors = {name: each for name, each in self._all.items() if not isinstance(each, Judge)}

    @property
    def names(self) -> Mapping[str, tuple[str, ...]]:
        """What policies may ask for: each detector with its kinds."""
        return {name: tuple(detector.kinds) for name, detector in self._all.items()}

    async def look(self, inspections: Sequence[Inspection], stage: Stage, value: Any) -> Looked:
        """Look at every text in a JSON value. Raises `Blocked`, with the findings, where a guard says so."""
        wanted = [inspection for inspection in inspections if stage in inspection.stages]
        if not wanted:
            return Looked(value, ())
        wishes = [self._wish(inspection) for inspection in wanted]
        names = dict.fromkeys(name for wish in wishes for name in wish.kinds)
        is_long = _length(value) > LONG_TEXT
        verdicts, unseen = (
            await self._judged(wishes, names, stage, value, is_long=is_long) if self._judges else ([], [])
        )
        detectors = [self._detectors[name] for name in names if name in self._detectors]
        look = _Look(wishes, [*detectors, *verdicts])
        after = await to_thread.run_sync(look.at, value) if is_long else look.at(value)
        findings = (*findings_of(look.places, wanted, stage), *unseen)
        _block(findings, stage)
        return Looked(after, findings, tuple(look.places), tuple(unseen))

    async def _judged(
        self, wishes: Sequence[_Wish], names: Iterable[str], stage: Stage, value: Any, *, is_long: bool
    ) -> tuple[list[Verdicts], list[Finding]]:
        """What detectors answer that are to be asked, and what has to be said of those that did not."""
        judges = [self._judges[name] for name in names if name in self._judges]
        if not judges:
            return [], []
        texts = await to_thread.run_sync(readings, value) if is_long else readings(value)
        verdicts, silent = await asked(judges, stage, texts)
        unseen = []
        for wish in wishes:
            missing = {name: why for name, why in silent.items() if name in wish.kinds}
            if missing:
                unseen.append(_unseen(wish.inspection, stage, missing))
        return verdicts, unseen

    def _wish(self, inspection: Inspection) -> _Wish:
        try:
            found = chosen(self._all, inspection.find)
        except LookupError as e:
            # Refused when the policy was read; a detector that has gone since must not open the gate.
            raise Blocked(f"a guard cannot be run: there is no detector {e}") from e
        return _Wish(inspection, {detector.name: kinds for detector, kinds in found})


def _unseen(inspection: Inspection, stage: Stage, missing: Mapping[str, Unjudged]) -> Finding:
    """What a guard makes of silence: as if all had been found, where it may not pass; what is not known, nobody can
    mask."""
    for why in missing.values():
        _log.debug("unjudged: %s", why)
    may_pass = inspection.action is Action.ALERT or all(why.passes for why in missing.values())
    counts = {f"{name}/{UNJUDGED}": 1 for name in missing}
    return Finding(inspection.at, stage, Action.ALERT if may_pass else Action.BLOCK, counts, 0.0)


def findings_of(places: Iterable[Place], inspections: Iterable[Inspection], stage: Stage) -> tuple[Finding, ...]:
    """What each of these guards has found, in their order, those left out that found nothing."""
    counts: dict[Inspection, Counter[str]] = {inspection: Counter() for inspection in inspections}
    scores: dict[Inspection, float] = {}
    for place in places:
        for guard in place.guards:
            counts[guard][place.name] += 1
            scores[guard] = max(scores.get(guard, 0.0), place.score)
    return tuple(
        Finding(guard.at, stage, guard.action, dict(found), scores[guard]) for guard, found in counts.items() if found
    )


def _block(findings: Sequence[Finding], stage: Stage) -> None:
    blocked = [finding for finding in findings if finding.action is Action.BLOCK]
    if blocked:
        names = sorted({name for finding in blocked for name in finding.counts})
        kinds = [name.replace("/", ": ") for name in names if not name.endswith(f"/{UNJUDGED}")]
        where = "what was sent" if stage is Stage.ARGUMENTS else "what came back"
        what = f"holds {', '.join(kinds)}, which may not pass here" if kinds else "cannot be judged at the moment"
        raise Blocked(f"{where} {what}", findings)


def strongest(actions: Iterable[Action]) -> Action | None:
    """The action that wins."""
    return max(actions, key=_STRENGTH.index, default=None)


def masked(text: str, places: Iterable[Place]) -> str:
    """`text` with each stretch that they cover replaced by one note of what stood there."""
    parts, done = [], 0
    for start, end, note in joined(places):
        parts += [text[done:start], note]
        done = end
    return "".join([*parts, text[done:]])


def joined(places: Iterable[Place]) -> list[tuple[int, int, str]]:
    """The stretches that they cover, in order, each with the note that takes its place: the name of its first."""
    stretches: list[tuple[int, int, str]] = []
    for place in sorted(places, key=lambda place: (place.start, -place.end)):
        if stretches and place.start < stretches[-1][1]:
            start, end, note = stretches[-1]
            stretches[-1] = (start, max(end, place.end), note)
        else:
            stretches.append((place.start, place.end, f"[masked:{place.name}]"))
    return stretches


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
