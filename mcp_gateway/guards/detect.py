"""What a detector is: something that looks at a text and says what it found where, and how sure it is.

Those built in look for secrets, personal data and injected instructions. Packages add their own through the entry
point group `mcp_gateway.detectors`: each entry names a class or function that takes nothing and returns a `Detector`,
or a `Judge` where the answer comes from elsewhere.
A detector is a signal, never a guarantee: what must not happen is denied by the policy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Final, Protocol, TypeVar, runtime_checkable

from mcp_gateway.domain import Stage
from mcp_gateway.errors import Complaint, ConfigInvalid

ENTRY_POINTS: Final = "mcp_gateway.detectors"

AnyDetector = TypeVar("AnyDetector", bound="Detector | Judge")


@dataclass(frozen=True, slots=True)
class Found:
    """One thing found in one text."""

    kind: str
    start: int
    end: int
    score: float = 1.0
    """How sure the detector is, from 0 to 1."""


class Detector(Protocol):
    """One way of looking at texts. Called from several threads at once."""

    @property
    def name(self) -> str:
        """What policies call it."""
        ...

    @property
    def kinds(self) -> Sequence[str]:
        """The kinds of thing it can find; policies may ask for one as `NAME/KIND`."""
        ...

    def scan(self, text: str) -> Sequence[Found]:
        """What there is in one text. Takes time in proportion to the text; keeps nothing of it."""
        ...


@runtime_checkable
class Judge(Protocol):
    """A detector that has to wait for its answer: of a service, another process, a graphics card."""

    @property
    def name(self) -> str:
        """What policies call it."""
        ...

    @property
    def kinds(self) -> Sequence[str]:
        """The kinds of thing it can find."""
        ...

    async def judge(self, stage: Stage, texts: Sequence[str]) -> Mapping[str, Sequence[Found]]:
        """What there is in each of these texts, by text; those without anything may be left out. Raises `Unjudged`."""
        ...


class Unjudged(Exception):
    """A detector did not answer. The text is for operators."""

    def __init__(self, why: str, *, passes: bool = False) -> None:
        """`passes`: the call may go on unseen, for an operator said so."""
        super().__init__(why)
        self.passes = passes


@dataclass(frozen=True, slots=True)
class Shape:
    """What one kind of thing looks like."""

    kind: str
    pattern: re.Pattern[str]
    marker: str = ""
    """A text without it holds nothing of this kind; quicker to look for than the pattern."""
    measure: Callable[[str], int] = len
    """How many characters of a match really are it; 0: it only looks alike."""
    score: float = 1.0


def found_by(shapes: Iterable[Shape], text: str) -> list[Found]:
    """Everything in `text` that has one of these shapes."""
    found = []
    for shape in shapes:
        if shape.marker in text:
            for match in shape.pattern.finditer(text):
                length = shape.measure(match.group())
                if length:
                    found.append(Found(shape.kind, match.start(), match.start() + length, shape.score))
    return found


class SecretRule(Protocol):
    """A rule of the audit's redaction."""

    @property
    def name(self) -> str: ...
    @property
    def pattern(self) -> re.Pattern[str]: ...
    @property
    def markers(self) -> tuple[str, ...]: ...


class KnownSecrets:
    """Finds what the audit would redact: vendors' keys and tokens, private keys, passwords beside their name."""

    name = "secrets"

    def __init__(self, rules: Sequence[SecretRule]) -> None:
        self._rules = tuple(rules)
        self.kinds = tuple(rule.name for rule in rules)

    def scan(self, text: str) -> list[Found]:
        """What there is in one text."""
        lowered = text.lower()
        rules = [rule for rule in self._rules if any(marker in lowered for marker in rule.markers)]
        return [Found(rule.name, *match.span()) for rule in rules for match in rule.pattern.finditer(text)]


def installed() -> dict[str, Detector | Judge]:
    """The detectors that installed packages offer, by name. Raises `ConfigInvalid` where one cannot be loaded.

    Loading runs the package's code: an operator who installs one trusts it as much as the gateway itself.
    """
    detectors: dict[str, Detector | Judge] = {}
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            detector: Detector | Judge = entry.load()()
        except (ImportError, AttributeError, TypeError, ValueError) as e:
            fix = "uninstall the package or have its author look"
            raise ConfigInvalid([Complaint(f"entry point {entry.name}", 0, f"{entry.value}: {e}", fix)]) from e
        detectors[detector.name] = detector
    return detectors


def chosen(detectors: Mapping[str, AnyDetector], names: Iterable[str]) -> list[tuple[AnyDetector, frozenset[str]]]:
    """The detectors that `names` speak of, each with the kinds that are wanted of it.

    Raises `LookupError` with the name nobody bears.

    >>> from mcp_gateway.guards.personal import PersonalData
    >>> [(each.name, sorted(kinds)) for each, kinds in chosen({"pd": PersonalData()}, ["pd/email", "pd/iban"])]
    [('personal-data', ['email', 'iban'])]
    """
    wanted: dict[str, set[str]] = {}
    for name in names:
        detector, _, kind = name.partition("/")
        if detector not in detectors or (kind and kind not in detectors[detector].kinds):
            raise LookupError(name)
        wanted.setdefault(detector, set()).update([kind] if kind else detectors[detector].kinds)
    return [(detectors[name], frozenset(kinds)) for name, kinds in wanted.items()]
