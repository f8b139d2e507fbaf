"""`[detectors.NAME]` of servers.toml: services of the operator's that judge texts, which policies name in `find`."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from mcp_gateway.config.remote import read_remote
from mcp_gateway.config.secrets import Secrets, warn_of_literal_secret
from mcp_gateway.config.settings import MIB
from mcp_gateway.config.table import ConfigCode, Table
from mcp_gateway.domain import NOTHING

BUILT_IN: Final = ("secrets", "personal-data", "injection", "toxicity")
"""What the gateway brings along itself; nobody else may be called so."""

Unavailable = Literal["block", "pass"]

DEFAULT_TIMEOUT_S: Final = 2.0
LONGEST_TIMEOUT_S: Final = 30.0
LEAST_SIGN_KEY: Final = 24

_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
_NAME_RULE: Final = "lower-case letters, digits and -, at most 32"
_ENCODED_KEY: Final = "whsec_"  # as Standard Webhooks writes its keys


@dataclass(frozen=True, slots=True)
class DetectorConfig:
    """One `[detectors.NAME]` table."""

    name: str
    url: str
    kinds: tuple[str, ...]
    """What it may find; policies can ask for one as `NAME/KIND`."""
    headers: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    """Sent with each question; its credential among them."""
    sign_key: bytes = b""
    """What each question is signed with; empty: none is."""
    timeout_s: float = DEFAULT_TIMEOUT_S
    """For one question, waiting for its turn included."""
    at_once: int = 16
    """Questions under way."""
    max_bytes: int = 256 * 1024
    """Of one question; what is longer is not judged."""
    if_unavailable: Unavailable = "block"
    """What becomes of a call that it did not judge."""
    remember_s: int = 60
    """How long a verdict about a text is used again; 0: never."""
    at: str = field(default="", compare=False)

    def __repr__(self) -> str:
        return f"DetectorConfig({self.name!r}, at={self.at!r})"


def read_detectors(table: Table | None, secrets: Secrets) -> tuple[DetectorConfig, ...]:
    """All tables of `[detectors]`; complaints go to the table's findings."""
    return () if table is None else tuple(_read(name, entry, secrets) for name, entry in table.tables())


def _read(name: str, table: Table, secrets: Secrets) -> DetectorConfig:
    _check_name(name, table)
    remote = read_remote(table, secrets)
    if remote.auth is not None:
        message = "tokens that have to be obtained are not supported for detectors"
        table.refuse("auth", message, 'use auth = { bearer = "${TOKEN}" }', ConfigCode.UNSUPPORTED)
    detector = DetectorConfig(
        name=name,
        url=remote.url,
        kinds=_kinds(table),
        headers=remote.headers,
        sign_key=_sign_key(table, secrets),
        timeout_s=table.number("timeout_s", DEFAULT_TIMEOUT_S, LONGEST_TIMEOUT_S),
        at_once=table.count("at_once", 16, 1, 64),
        max_bytes=table.count("max_bytes", 256 * 1024, 1024, 16 * MIB),
        if_unavailable=table.choice("if_unavailable", ("block", "pass"), "block"),
        remember_s=table.count("remember_s", 60, 0, 3600),
        at=table.findings.lines.at(table.path),
    )
    table.finish()
    return detector


def _check_name(name: str, table: Table) -> None:
    if not _NAME.fullmatch(name):
        table.findings.refuse(table.path, f"{name!r} is no name of a detector", _NAME_RULE, ConfigCode.BAD_VALUE)
    if name in BUILT_IN:
        message = f"the detector {name!r} is built in"
        table.findings.refuse(table.path, message, "give this one another name", ConfigCode.BAD_VALUE)


def _kinds(table: Table) -> tuple[str, ...]:
    kinds = table.texts("kinds")
    if table.raw("kinds") in (None, []):
        table.refuse("kinds", "a detector says what it can find", 'write kinds = ["hate", "threat"]')
    for index, kind in enumerate(kinds):
        if not _NAME.fullmatch(kind):
            path = (*table.path, "kinds", index)
            table.findings.refuse(path, f"{kind!r} is no name of a kind", _NAME_RULE, ConfigCode.BAD_VALUE)
    return tuple(dict.fromkeys(kinds))


def _sign_key(table: Table, secrets: Secrets) -> bytes:
    warn_of_literal_secret(table, "sign_key", "sign_key", table.text("sign_key") or "${}")
    written = table.resolved("sign_key", secrets.value)
    if written is None:
        return b""
    try:
        is_encoded = written.startswith(_ENCODED_KEY)
        key = base64.b64decode(written[len(_ENCODED_KEY) :], validate=True) if is_encoded else written.encode()
    except (binascii.Error, ValueError):
        key = b""
    if len(key) < LEAST_SIGN_KEY:
        fix = f"at least {LEAST_SIGN_KEY} random characters, or {_ENCODED_KEY} and base64"
        table.refuse("sign_key", "'sign_key' is no key, or can be guessed", fix)
    return key
