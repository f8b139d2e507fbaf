"""A streamed answer that is looked at in windows as it comes, instead of being held back until it is whole.

Of what has come, the last `OVERLAP` characters are kept back until more has come behind them, so that whatever takes no
more room than that is seen in one piece before any of it goes on, however the stream cuts it. The promise is weaker
than that of an answer that is held whole: what has been let through cannot be called back. A text that only as a whole
is what a guard looks for, or a finding longer than the overlap, may have begun to leave when it is noticed; the stream
ends there. Answers that are no streams of events are held whole all the same.

Only where every guard of the answer says `held = "windows"`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from mcp_gateway.domain import Finding, Inspection, Relay, Stage, Target
from mcp_gateway.errors import Blocked, Misbehaved
from mcp_gateway.guards.content import Content, Place, findings_of, joined, masked
from mcp_gateway.guards.events import Event, Part, Path, event_of, split
from mcp_gateway.guards.held import HeldRelay

WINDOW: Final = 256
"""Characters that come before they are looked at."""
OVERLAP: Final = 256
"""Characters kept back behind what goes on."""
CONTEXT: Final = 64
"""Characters that have gone on and are looked at once more, for what stands before a word decides what it is."""
MAX_PENDING: Final = 4096
"""Characters kept back for a finding that goes on and on; then it goes on masked as far as it is known."""
MAX_TEXTS: Final = 64
"""Texts of one stream whose end is remembered."""


@dataclass(slots=True)
class _Text:
    """One text as far as it is here: what of it has gone on last, then the pieces that wait."""

    context: str
    numbers: list[int] = field(default_factory=list)
    """The events that its pieces stand in, by their place in the queue; `paths`, `pieces`, `starts` go with them."""
    paths: list[Path] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    """Where each piece begins in `whole`."""
    whole: str = ""

    def add(self, number: int, path: Path, piece: str) -> None:
        self.numbers.append(number)
        self.paths.append(path)
        self.pieces.append(piece)

    def close(self) -> None:
        """All of its pieces are there."""
        at = len(self.context)
        for piece in self.pieces:
            self.starts.append(at)
            at += len(piece)
        self.whole = self.context + "".join(self.pieces)

    def events_of(self, start: int, end: int) -> tuple[int, int]:
        """The first and the last event that hold a part of `whole[start:end]`; of what has gone on, the first here."""
        first = max(bisect_right(self.starts, start) - 1, 0)
        last = max(bisect_right(self.starts, max(end - 1, start)) - 1, 0)
        return self.numbers[first], self.numbers[last]

    def gone_at(self, cut: int) -> int:
        """Where in `whole` stands what does not go on with the first `cut` events."""
        gone = sum(number < cut for number in self.numbers)
        return self.starts[gone] if gone < len(self.starts) else len(self.whole)

    def lets_go_of(self, place: Place, cut: int) -> bool:
        """Whether it is found now for the last time: it goes on, and its beginning will not be looked at again."""
        if 0 < place.end <= len(self.context):
            return False
        first, last = self.events_of(place.start, place.end)
        return last < cut or (first < cut and place.start < self.gone_at(cut) - CONTEXT)

    def edited(self, stretches: Iterable[tuple[int, int, str]]) -> dict[int, str]:
        """The pieces that become others when these stretches give way to their notes, by their place here."""
        edited = dict(enumerate(self.pieces))
        for start, end, note in reversed(list(stretches)):
            for index in self._touched(start, end):
                at, text = self.starts[index], edited[index]
                edited[index] = text[: max(start - at, 0)] + note + text[min(end - at, len(self.pieces[index])) :]
                note = ""  # the others it covers only lose their part
        return {index: text for index, text in edited.items() if text != self.pieces[index]}

    def _touched(self, start: int, end: int) -> list[int]:
        """The pieces that hold a part of `whole[start:end]`, by their place here."""
        ends = [at + len(piece) for at, piece in zip(self.starts, self.pieces, strict=True)]
        return [index for index, at in enumerate(self.starts) if max(start, at) < min(end, ends[index])]


class WindowedRelay(HeldRelay):
    """A `Relay` that lets a stream of events through as far as guards have seen it."""

    def __init__(
        self, relay: Relay, target: Target, max_bytes: int, content: Content, inspections: Sequence[Inspection]
    ) -> None:
        super().__init__(relay, target, max_bytes)
        self._content = content
        self._inspections = [each for each in inspections if Stage.RESULTS in each.stages]
        self._is_stream = self._is_sent = False
        self._rest = b""
        self._events: list[Event] = []
        self._pieces: list[list[Part]] = []
        """Of the events: what of them is a piece of a longer text; `_sizes` counts its characters."""
        self._sizes: list[int] = []
        self._wholes: list[tuple[Event, Part]] = []
        """Texts that nothing follows, and nobody has looked at yet."""
        self._pending_bytes = 0
        self._due_at = WINDOW + OVERLAP
        """How many characters there are when it is worth looking again."""
        self._sent: OrderedDict[object, str] = OrderedDict()
        self._found: list[Finding] = []
        self._blocked: Blocked | None = None
        self._afterwards: list[Callable[[], None]] = []

    async def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """See `Relay.begin`."""
        await super().begin(status, headers)
        self._is_stream = self.content_type.startswith("text/event-stream")

    async def write(self, piece: bytes) -> None:
        """See `Relay.write`. Ends the work on the answer where a guard blocks it; `release` raises then."""
        self.hold(piece)
        if self._is_stream and self._blocked is None and self._is_due():
            await self._look(is_end=False)

    def hold(self, piece: bytes) -> None:
        """See `Relay.hold`. Raises `Misbehaved` for what is too long to be looked at."""
        if not self._is_stream:
            super().hold(piece)
            return
        events, self._rest = split(self._rest + piece)
        self._queue(events)
        self._pending_bytes += len(piece)
        if self._pending_bytes > self.max_bytes:
            message = f"{self.target.public_name} sent more at once than a guard can look at"
            raise Misbehaved(self.target.upstream, message)

    def afterwards(self, do: Callable[[], None]) -> None:
        """See `Relay.afterwards`. Of a stream that is blocked nothing is done, although part of it has gone."""
        self._afterwards.append(do)

    async def release(self, content: Content, inspections: Sequence[Inspection]) -> tuple[Finding, ...]:
        """See `HeldRelay.release`. Raises `Blocked`, with all findings, also where part of it has been sent."""
        if not self._is_stream:
            found = await super().release(content, inspections)
            self._pass_on_what_is_to_be_done()
            return found
        if self._blocked is None:
            self._queue([event_of(self._rest)] if self._rest else [])
            await self._look(is_end=True)
        if self._blocked is not None:
            raise self._blocked
        if self.error is not None:
            self.relay.hold_error(self.error)
        self._pass_on_what_is_to_be_done()
        return _merged(self._found)

    def _pass_on_what_is_to_be_done(self) -> None:
        for do in self._afterwards:
            self.relay.afterwards(do)

    def _queue(self, events: Iterable[Event]) -> None:
        for event in events:
            parts = event.parts()
            pieces = [part for part in parts if part.goes_on is not None]
            self._wholes += [(event, part) for part in parts if part.goes_on is None]
            self._events.append(event)
            self._pieces.append(pieces)
            self._sizes.append(sum(len(part.text) for part in pieces))

    def _is_due(self) -> bool:
        """Whether there is enough to look at: a window, or an event that waits for nothing."""
        return bool(self._sizes) and (self._sizes[0] == 0 or sum(self._sizes) >= self._due_at)

    async def _look(self, *, is_end: bool) -> None:
        """Look at all that is here, and send on what can go."""
        texts = self._texts()
        distinct = dict.fromkeys([part.text for _, part in self._wholes] + [text.whole for text in texts.values()])
        try:
            looked = await self._content.look(self._inspections, Stage.RESULTS, list(distinct))
        except Blocked as e:
            self._blocked = Blocked(str(e), _merged([*self._found, *e.findings]))
            self._events.clear()
            self.scope.cancel()
            return
        places: dict[str, list[Place]] = {}
        for place in looked.places:
            places.setdefault(place.text, []).append(place)
        cut = len(self._events) if is_end else self._cut(texts.values(), places)
        leaving = self._settle_wholes(places)
        for text in texts.values():
            found = places.get(text.whole, [])
            leaving += [place for place in found if text.lets_go_of(place, cut)]
            self._mask(text, found, cut)
        now = (*findings_of(leaving, self._inspections, Stage.RESULTS), *looked.unseen)
        self._found = list(_merged([*self._found, *now]))
        self._remember(texts, cut)
        await self._send(cut, is_end=is_end)

    def _texts(self) -> dict[object, _Text]:
        """The texts that come in pieces, each with what of it went on last."""
        texts: dict[object, _Text] = {}
        for number, pieces in enumerate(self._pieces):
            for path, piece, key in pieces:
                if key not in texts:
                    texts[key] = _Text(self._sent.get(key, ""))
                texts[key].add(number, path, piece)
        for text in texts.values():
            text.close()
        return texts

    def _cut(self, texts: Iterable[_Text], places: Mapping[str, Sequence[Place]]) -> int:
        """How many events can go: those far enough from the end that end in no part of what is masked."""
        sizes = self._sizes
        behind, cut = 0, len(sizes)
        while cut and behind < OVERLAP:
            cut -= 1
            behind += sizes[cut]
        cut = max(cut, next((number for number, size in enumerate(sizes) if size), len(sizes)))
        is_waited_for = sum(sizes) <= MAX_PENDING
        stretches = [
            text.events_of(start, end) for text in texts for start, end, _ in _masked_in(places.get(text.whole, ()))
        ]
        while crossing := [each for each in stretches if each[0] < cut <= each[1]]:
            cut = min(first for first, _ in crossing) if is_waited_for else max(last for _, last in crossing) + 1
        return cut

    def _settle_wholes(self, places: Mapping[str, Sequence[Place]]) -> list[Place]:
        """Mask in texts that nothing follows what is to be masked; tells what was found in them."""
        for event, part in self._wholes:
            to_mask = [place for place in places.get(part.text, ()) if place.is_masked]
            if to_mask:
                event.put(part.path, masked(part.text, to_mask))
        found = [place for _, part in self._wholes for place in places.get(part.text, ())]
        self._wholes.clear()
        return found

    def _mask(self, text: _Text, places: Sequence[Place], cut: int) -> None:
        stretches = [each for each in _masked_in(places) if text.events_of(each[0], each[1])[1] < cut]
        for index, piece in text.edited(stretches).items() if stretches else ():
            self._events[text.numbers[index]].put(text.paths[index], piece)

    def _remember(self, texts: Mapping[object, _Text], cut: int) -> None:
        """The ends of texts that go on: with them the next pieces are looked at."""
        for key, text in texts.items():
            end = text.gone_at(cut)
            if end > len(text.context):
                self._sent[key] = text.whole[max(end - CONTEXT, 0) : end]
                self._sent.move_to_end(key)
        while len(self._sent) > MAX_TEXTS:
            self._sent.popitem(last=False)

    async def _send(self, cut: int, *, is_end: bool) -> None:
        """Send on the first events; the last ones of all go when the audit has written down what they were."""
        leaving = self._events[:cut]
        for queue in (self._events, self._pieces, self._sizes):
            del queue[:cut]
        self._due_at = max(sum(self._sizes), OVERLAP) + WINDOW
        self._pending_bytes = len(self._rest) + sum(len(event.raw) for event in self._events)
        body = b"".join(event.encoded() for event in leaving)
        if not self._is_sent and (body or is_end):
            self._is_sent = True
            await self.relay.begin(self.status, self.headers)
        if is_end:
            self.relay.hold(body)
        elif body:
            await self.relay.write(body)


def _masked_in(places: Iterable[Place]) -> list[tuple[int, int, str]]:
    """The stretches of a text that are masked."""
    return joined(place for place in places if place.is_masked)


def _merged(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """What several windows found, as one finding of each guard."""
    merged: dict[object, Finding] = {}
    for finding in findings:
        key = (finding.at, finding.stage, finding.action)
        before = merged.get(key)
        if before is not None:
            counts = dict(Counter(before.counts) + Counter(finding.counts))
            finding = replace(before, counts=counts, score=max(before.score, finding.score))
        merged[key] = finding
    return tuple(merged.values())
