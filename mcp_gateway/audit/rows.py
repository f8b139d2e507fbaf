"""One decided request, its end, or an event, as the row that is kept of it.

Digests of arguments and results are always kept; how much of their content is an operator's choice (`Record`). Whatever
an agent or upstream wrote is bounded and redacted here, before it is written, and nowhere later. Knows no database.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from mcp_gateway.audit.chain import Row
from mcp_gateway.audit.redact import may_hold_secret, redacted, redacted_text
from mcp_gateway.domain import (
    Cached,
    Caller,
    Decision,
    Effect,
    Finding,
    Json,
    Outcome,
    OutcomeStatus,
    Reason,
    Request,
    Strength,
    Target,
    Verb,
)
from mcp_gateway.jsonrpc import canonical

if TYPE_CHECKING:
    from dataclasses import dataclass as made_per_call
else:
    from mcp_gateway.domain import made_per_call

NAME_LENGTH: Final = 1000
ERROR_LENGTH: Final = 2000
TEXT_LENGTH: Final = 2100

_INSTEAD_OF_ARGUMENTS: Final[Mapping[Verb, tuple[str, ...]]] = {
    Verb.COMPLETE: ("ref", "argument", "context"),
    Verb.TASK_GET: ("taskId",),
    Verb.TASK_UPDATE: ("taskId", "inputResponses"),
    Verb.TASK_CANCEL: ("taskId",),
}
"""What such requests are about, where it is no arguments."""

_NOTHING_FOUND: Final[Sequence[Json]] = ()
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}\Z")


class Record(StrEnum):
    """How much of arguments and results is kept beside their digests."""

    FULL = "full"
    PREVIEW = "preview"
    DIGEST = "digest"


@dataclass(frozen=True, slots=True)
class Contents:
    """How much content goes into a row."""

    record: Record = Record.PREVIEW
    preview_bytes: int = 2048
    full_bytes: int = 1024 * 1024
    """The bound of `full`: a row is read by people, and one call must not fill the disk."""

    max_bytes: int = field(init=False)
    """What `record` comes to."""

    def __post_init__(self) -> None:
        bounds = {Record.FULL: self.full_bytes, Record.PREVIEW: self.preview_bytes, Record.DIGEST: 0}
        object.__setattr__(self, "max_bytes", bounds[self.record])


class Entry:
    """One decided request. `seq` is the number of its row, from the moment `AuditLog.open` returns."""

    __slots__ = ("at", "caller", "decision", "epoch", "is_closed", "request", "seq", "shared", "target", "target_hash")

    def __init__(self, at: float, caller: Caller, request: Request, target: Target | None, decision: Decision) -> None:
        self.at = at
        self.caller = caller
        self.request = request
        self.target = target
        self.decision = decision
        self.seq: int | None = None
        self.epoch = 0
        self.is_closed = False
        self.shared: Row = {}
        """The columns that both of its rows have."""
        self.target_hash = ""

    @property
    def request_id(self) -> str:
        return self.request.request_id


@made_per_call(frozen=True, slots=True)
class Stored:
    """What is kept of one JSON value."""

    sha256: str
    size: int
    """Bytes of its canonical form."""
    text: str | None
    """Valid JSON, redacted and bounded; None where only the digest is kept."""
    redactions: Sequence[Json]
    """What was taken out where; empty: `text`, if any, is the very text the digest was made of."""


def store(value: Any, contents: Contents) -> Stored:
    """Digest, redact and bound one JSON value."""
    data = canonical_bytes(value)
    digest = hashlib.sha256(data).hexdigest()
    limit = contents.max_bytes
    if not limit:
        return Stored(digest, len(data), None, _NOTHING_FOUND)
    if len(data) <= limit and not may_hold_secret(data):
        return Stored(digest, len(data), data.decode(), _NOTHING_FOUND)
    clean, found = redacted(value, limit)
    text = canonical_bytes(clean) if found else data
    return Stored(digest, len(data), text.decode("utf-8", "replace"), found)


def canonical_bytes(value: Any) -> bytes:
    """`jsonrpc.canonical`, which also takes what is not quite JSON: an odd value must not cost the row."""
    try:
        return canonical(value)
    except TypeError:
        return _odd_bytes(value)


def _odd_bytes(value: Any) -> bytes:
    try:
        text = json.dumps(value, default=_as_json, sort_keys=True, skipkeys=True, ensure_ascii=False)
    except (RecursionError, ValueError):  # nested without end, or in itself
        text = '"[cannot be written as JSON]"'
    return text.encode("utf-8", "replace")


def timestamp(at: float) -> str:
    """Seconds since the epoch as UTC ISO-8601 text.

    >>> timestamp(0.5)
    '1970-01-01T00:00:00.500Z'
    """
    second = int(at)
    known = _last_second[0]
    if known[0] != second:  # rows come many to a second
        known = _last_second[0] = (second, datetime.fromtimestamp(second, UTC).isoformat()[:19])
    return f"{known[1]}.{int((at - second) * 1000):03}Z"


_last_second: Final = [(0, "1970-01-01T00:00:00")]
"""The second of the last timestamp with its text, replaced as one: the writer's thread asks, too."""


def decided_row(entry: Entry, contents: Contents) -> Row:
    """What was decided. Also fills `entry.shared`."""
    caller, request, target, decision = entry.caller, entry.request, entry.target, entry.decision
    shared, judgement = _fixed_columns(
        request.verb,
        caller.agent,
        caller.person,
        caller.task,
        target.upstream if target else None,
        target.name if target else request.name or request.method,
        caller.strength,
        request.client,
        entry.target_hash,
        decision.effect,
        decision.reason,
        decision.grant,
        decision.policy_version,
    )
    own = {**shared, "request_id": request.request_id} if request.request_id else {**shared}
    if request.parent or request.session:
        own |= _present(parent=request.parent, session=request.session)
    if trace_id := _trace_id(request.params):
        own["trace_id"] = trace_id
    if caller.started is not None:
        own["started"] = caller.started.id
    entry.shared = own
    row = {**own, **judgement, "at": timestamp(entry.at), "phase": "decided"}
    if decision.approval:
        row["approval"] = decision.approval
    if decision.shadow:
        row |= _present(shadow=decision.shadow, shadow_at=decision.shadow_at)
    if args := _args(request):
        _put_args(row, args, contents)
    return row


@lru_cache(maxsize=2048)  # the same for most calls of an agent, so it is worked out once
def _fixed_columns(
    verb: Verb,
    agent: str,
    person: str | None,
    task: str | None,
    upstream: str | None,
    name: str,
    strength: Strength,
    client: str,
    target_hash: str,
    effect: Effect,
    reason: Reason,
    grant: str,
    policy: str,
) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """What both rows of a call have, and what the first one has of the decision."""
    shared = _present(
        kind=verb.value, agent=agent, person=person, task=task, upstream=upstream, name=_clean(name, NAME_LENGTH)
    )
    judgement = _present(
        identity_strength=strength.value,
        client=_clean(client, NAME_LENGTH),
        target_hash=target_hash,
        decision=effect.value,
        reason=reason.value,
        grant_at=grant,
        policy_hash=policy,
    )
    return shared, judgement


def finished_row(entry: Entry, outcome: Outcome, gateway_ms: float, at: float, contents: Contents) -> Row:
    """What came back."""
    row = {
        **entry.shared,
        "at": timestamp(at),
        "phase": "finished",
        "outcome": str(outcome.status),  # `.value` takes ten times as long
        "gateway_ms": _finite(gateway_ms),
        "upstream_ms": _finite(outcome.upstream_ms),
    }
    if outcome.usage is not None:
        row |= {"tokens_in": outcome.usage.input, "tokens_out": outcome.usage.output}
        if outcome.usage.cost is not None:
            row["cost"] = _finite(outcome.usage.cost)
    if outcome.findings:
        row["findings"] = canonical([_finding(finding) for finding in outcome.findings]).decode()
    if outcome.cached is not None:
        row["cache"] = canonical(_cached(outcome.cached)).decode()
    if outcome.kept:
        row["kept"] = canonical(dict(outcome.kept)).decode()
    if outcome.error is not None:
        row["error"] = _clean(f"{outcome.error.code}: {outcome.error.message}", ERROR_LENGTH)
    if outcome.result is not None:
        stored = store(outcome.result, contents)
        row["result_sha256"], row["result_bytes"] = stored.sha256, stored.size
        _put_content(row, "result_preview", stored)
    return row


def _cached(cached: Cached) -> Json:
    shown: Json = {"use": cached.use.value, "source": cached.source, "age_s": cached.age_s}
    likeness = {"similarity": cached.similarity, "agreement": cached.agreement}
    return {**shown, **{name: round(value, 4) for name, value in likeness.items() if value is not None}}


def _finding(finding: Finding) -> Json:
    return {
        "guard": finding.at,
        "in": finding.stage.value,
        "then": finding.action.value,
        "found": dict(finding.counts),
        "score": _finite(finding.score),
    }


def unknown_row(shared: Row, at: float, error: str) -> Row:
    """The end of a call nobody knows the end of."""
    return shared | {
        "at": timestamp(at),
        "phase": "finished",
        "outcome": OutcomeStatus.UNKNOWN.value,
        "error": error[:ERROR_LENGTH],
    }


def event_row(kind: str, name: str, at: float, *, agent: str = "", reason: str = "", detail: Json | None = None) -> Row:
    """Something that happened and is not a call; its detail stands in `args`, whole but for secrets."""
    row = _present(
        at=timestamp(at),
        kind=kind,
        phase="finished",
        name=_clean(name, NAME_LENGTH),
        agent=agent,
        reason=_clean(reason, ERROR_LENGTH),
        outcome=OutcomeStatus.OK.value,
    )
    if detail:
        _put_args(row, detail, Contents(Record.FULL))
    return row


def _args(request: Request) -> Json:
    members = _INSTEAD_OF_ARGUMENTS.get(request.verb)
    if members is None:
        arguments = request.arguments
        return arguments if type(arguments) is dict else dict(arguments)
    return {name: request.params[name] for name in members if name in request.params}


def _put_args(row: Row, args: Json, contents: Contents) -> None:
    stored = store(args, contents)
    row["args_sha256"] = stored.sha256
    _put_content(row, "args", stored)


def _put_content(row: Row, column: str, stored: Stored) -> None:
    if stored.text is not None:
        row[column] = stored.text
    if stored.redactions:
        row["redactions"] = canonical(stored.redactions).decode()


def _present(**columns: str | None) -> Row:
    """The columns that say something, as text that can be stored."""
    return {column: _storable(value) for column, value in columns.items() if value}


def _storable(text: str) -> str:
    """Bounded, and lone surrogates replaced: neither SQLite nor JSON can hold them."""
    if len(text) > TEXT_LENGTH:
        text = text[:TEXT_LENGTH]
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _clean(text: str, length: int) -> str:
    """Text somebody else wrote, without secrets in it, cut to `length`."""
    clean = _without_secrets(text[: length + NAME_LENGTH])
    return clean if len(clean) <= length else clean[:length] + "…"


@lru_cache(maxsize=2048)  # the same few names come with every call
def _without_secrets(text: str) -> str:
    return redacted_text(text)[0] if may_hold_secret(text.encode("utf-8", "replace")) else text


def _finite(number: float) -> float:
    """SQLite would keep NaN as NULL and JSON knows no infinity: either would break the row's hash."""
    return float(number) if math.isfinite(number) else 0.0


def _trace_id(params: Mapping[str, Any]) -> str | None:
    """The W3C trace id the agent sent along, if it did."""
    meta = params.get("_meta")
    traceparent = meta.get("traceparent") if isinstance(meta, dict) else None
    match = _TRACEPARENT.match(traceparent) if isinstance(traceparent, str) else None
    return match.group(1) if match else None


def _as_json(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else repr(type(value))
