"""servers.lock: the definitions that somebody approved, as a file that can be read in a code review.

One JSON document, sorted and in ASCII, so that a change of a description is a change of one line and nothing in it is
invisible. Each pin holds the whole definition and its SHA-256; a pin whose hash is not that of its definition makes the
file unusable. Written as a whole (a new file in the old one's place), by one process at a time.

Pins are kept by upstream. Where an upstream's definitions differ by person, what that person's list says differently
stands under `people`; everything else is shared, so that a list of a thousand people is reviewed once.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import orjson

from mcp_gateway.domain import NOTHING, Json
from mcp_gateway.errors import Complaint, ConfigInvalid, StoreUnavailable

CODE: Final = "GW-CONFIG-LOCK"
NAME: Final = "servers.lock"
FORMAT: Final = 1
MAX_BYTES: Final = 256 * 1024 * 1024
_ABOUT: Final = "Definitions that were approved. `mcp-gateway pins` shows and changes them."


@dataclass(frozen=True, slots=True)
class Pin:
    """One definition that may be served."""

    sha256: str
    definition: Mapping[str, Any]
    how: str
    """`first-use`, or `approved`."""
    at: str
    """When, UTC."""
    signals: tuple[str, ...] = ()
    """What looked wrong in it when it was approved."""


Pins = Mapping[str, Pin]
"""By key: `tool:NAME`, `prompt:NAME`, `template:URI`, `resource:URI`, `instructions:`."""


@dataclass(frozen=True, slots=True)
class UpstreamPins:
    """What is approved of one upstream."""

    pins: Pins = field(default_factory=lambda: NOTHING)
    people: Mapping[str, Pins] = field(default_factory=lambda: NOTHING)
    """Where a person's list says something else of a key: person -> pins."""
    rejected: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: NOTHING)
    """Definitions (SHA-256) that somebody looked at and refused, by key."""

    @property
    def is_only_of_people(self) -> bool:
        """Whether nothing was approved or refused yet of the list that everybody gets: a person's came first."""
        return bool(self.people) and not self.pins and not self.rejected

    def pin(self, key: str, person: str = "") -> Pin | None:
        """The pin that counts for a person's list; without one, for the list everybody gets."""
        return self.people.get(person, {}).get(key) or self.pins.get(key)

    def keys(self, person: str = "") -> set[str]:
        return {*self.pins, *self.people.get(person, {})}

    def with_pin(self, key: str, pin: Pin, person: str = "") -> UpstreamPins:
        rejected = {k: hashes for k, hashes in self.rejected.items() if k != key}
        if not person:
            return replace(self, pins={**self.pins, key: pin}, rejected=rejected)
        return replace(self, people={**self.people, person: {**self.people.get(person, {}), key: pin}})

    def without(self, key: str, person: str = "") -> UpstreamPins:
        """The same with nothing approved under that key."""
        if not person:
            return replace(self, pins={k: pin for k, pin in self.pins.items() if k != key})
        own = {k: pin for k, pin in self.people.get(person, {}).items() if k != key}
        return replace(self, people={**self.people, person: own})

    def with_rejected(self, key: str, sha256: str) -> UpstreamPins:
        known = self.rejected.get(key, ())
        return replace(self, rejected={**self.rejected, key: tuple(sorted({*known, sha256}))})


@dataclass(frozen=True, slots=True)
class Lock:
    """The whole file."""

    upstreams: Mapping[str, UpstreamPins] = field(default_factory=lambda: MappingProxyType({}))

    def of(self, upstream: str) -> UpstreamPins | None:
        """None: nothing of this upstream was ever approved."""
        return self.upstreams.get(upstream)

    def with_upstream(self, upstream: str, pins: UpstreamPins) -> Lock:
        return Lock({**self.upstreams, upstream: pins})


def lock_path(config: Path) -> Path:
    """Where the pins of a servers.toml stand: beside it."""
    return config.with_name(NAME)


def digest_of(definition: Mapping[str, Any]) -> str:
    """SHA-256 (hex) over a definition as canonical JSON. Raises `TypeError` for what is no portable JSON."""
    # As jsonrpc.canonical, which stands on this floor too.
    return hashlib.sha256(orjson.dumps(dict(definition), option=orjson.OPT_SORT_KEYS)).hexdigest()


def read_lock(path: Path) -> Lock:
    """What the file says; nothing where there is none. Raises `ConfigInvalid` where it cannot be used as it stands."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _unusable(path, f"is larger than {MAX_BYTES} bytes")
        return _lock_of(json.loads(path.read_bytes()), path)
    except FileNotFoundError:
        return Lock()
    except OSError as e:
        raise _unusable(path, f"cannot be read: {e.strerror}") from e
    except (ValueError, RecursionError) as e:
        raise _unusable(path, f"is not JSON: {e}", getattr(e, "lineno", 1)) from e
    except (AttributeError, KeyError, TypeError) as e:
        raise _unusable(path, f"has another shape than pins do ({type(e).__name__}: {e})") from e


def update_lock(path: Path, change: Callable[[Lock], Lock]) -> Lock:
    """Read, change and write the file, one process at a time; what is in the file afterwards.

    Raises `ConfigInvalid` where it cannot be used, `StoreUnavailable` where it cannot be written.
    """
    try:
        with _alone(path):
            before = read_lock(path)
            after = change(before)
            if after != before:
                _replace(path, _text_of(after))
            return after
    except OSError as e:
        raise StoreUnavailable(f"{path} cannot be written: {e.strerror}") from e


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other process changes the file. The lock is on its folder: the file itself is replaced."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with draft.open("x", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _text_of(lock: Lock) -> str:
    upstreams = {name: _plain(pins) for name, pins in lock.upstreams.items()}
    document = {"about": _ABOUT, "format": FORMAT, "upstreams": upstreams}
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=True) + "\n"


def _plain(upstream: UpstreamPins) -> Json:
    plain: Json = {"pins": {key: _plain_pin(pin) for key, pin in upstream.pins.items()}}
    if upstream.people:
        people = upstream.people.items()
        plain["people"] = {person: {key: _plain_pin(pin) for key, pin in pins.items()} for person, pins in people}
    if upstream.rejected:
        plain["rejected"] = {key: list(hashes) for key, hashes in upstream.rejected.items()}
    return plain


def _plain_pin(pin: Pin) -> Json:
    plain = {"sha256": pin.sha256, "at": pin.at, "how": pin.how, "definition": dict(pin.definition)}
    return {**plain, "signals": list(pin.signals)} if pin.signals else plain


def _lock_of(document: Any, path: Path) -> Lock:
    if document["format"] != FORMAT:
        raise _unusable(path, f"has format {document['format']!r}; this program knows {FORMAT}")
    return Lock({name: _upstream_of(written, path) for name, written in document["upstreams"].items()})


def _upstream_of(written: Any, path: Path) -> UpstreamPins:
    return UpstreamPins(
        _pins_of(written["pins"], path),
        {person: _pins_of(pins, path) for person, pins in written.get("people", {}).items()},
        {key: tuple(map(str, hashes)) for key, hashes in written.get("rejected", {}).items()},
    )


def _pins_of(written: Any, path: Path) -> Pins:
    pins = {}
    for key, pin in written.items():
        definition, sha256 = pin["definition"], pin["sha256"]
        if digest_of(definition) != sha256:
            raise _unusable(path, f"the definition of {key!a} is not the one its sha256 is of")
        pins[key] = Pin(sha256, definition, str(pin["how"]), str(pin["at"]), tuple(pin.get("signals", ())))
    return pins


def _unusable(path: Path, what: str, line: int = 0) -> ConfigInvalid:
    fix = "take it back from version control, or approve again: mcp-gateway pins list"
    return ConfigInvalid([Complaint(str(path), line, what, fix, CODE)])
