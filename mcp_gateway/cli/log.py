"""`mcp-gateway log`: who asked for what, what was decided and why, and what came back."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, Literal

import typer
from rich.table import Table
from rich.text import Text

from mcp_gateway.audit.query import AuditReader, Filters, escaped
from mcp_gateway.cli.durations import duration
from mcp_gateway.cli.output import DEFAULT_CONFIG, AsJson, ConfigPath, out, print_json
from mcp_gateway.config.servers import load
from mcp_gateway.domain import Json, OutcomeStatus, Reason, Verb
from mcp_gateway.wiring import audit_reader, utc_now

_STYLES: Final = {"ok": "green", "denied": "red", "": "dim"}
_SILENT: Final = (Reason.GRANT.value, Reason.LIST.value)
"""Reasons that say no more than the line or the kind beside them."""

_WIDE: Final = 100
"""Columns from which on followed entries, which are not measured together, stand below each other."""


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    width: int
    """What followed entries are given of 100 columns."""
    cell: Callable[[Json], Text]
    folds: bool = True


def log(
    agent: Annotated[str, typer.Option(help="Only this agent.")] = "",
    task: Annotated[str, typer.Option(help="Only this task.")] = "",
    started: Annotated[str, typer.Option(help="Only under this started task: its id, as `task list` shows it.")] = "",
    trace: Annotated[str, typer.Option(help="Only this trace: the 32 digits in the middle of a traceparent.")] = "",
    tool: Annotated[str, typer.Option(help="Only targets like this: name or upstream/name, with * and ?.")] = "",
    decision: Annotated[Literal["allowed", "denied"] | None, typer.Option(help="Only these decisions.")] = None,
    outcome: Annotated[OutcomeStatus | None, typer.Option(help="Only calls that ended so.")] = None,
    search: Annotated[str, typer.Option(help="Only entries that hold all these words.")] = "",
    since: Annotated[str, typer.Option(help="Only the last 30m, 12h, 7d ...")] = "",
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many, the newest.")] = 30,
    events: Annotated[bool, typer.Option("--events", help="What is no call: reloads, keys, refusals.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on and show entries as they are written.")] = False,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Show the audit, oldest of the chosen entries first. Times are UTC; `why ENTRY` tells all of one entry.

    Example: `mcp-gateway log --agent support-bot --decision denied --since 7d`
    """
    configuration = load(Path(config), os.environ)
    filters = Filters(
        agent=agent,
        task=task,
        started=started,
        trace_id=trace,
        tool=tool,
        decision=decision or "",
        outcome=outcome.value if outcome else "",
        since=utc_now() - duration(since) if since else None,
        search=search,
        limit=limit,
    )
    columns = _EVENT if events else _CALL
    with audit_reader(configuration) as audit:
        last_seq = audit.last_seq()
        rows = _events(audit, filters) if events else audit.calls(filters)
        _show(rows, columns, as_json)
        if follow:
            _follow(audit, filters, columns, as_json, last_seq)


def _show(rows: list[Json], columns: tuple[_Column, ...], as_json: bool) -> None:
    if as_json:
        for row in rows:
            print_json(row)
    elif rows:
        out.print(_table(rows, columns), soft_wrap=False)
    else:
        out.print("no entries")


def _events(audit: AuditReader, filters: Filters) -> list[Json]:
    since = filters.since.isoformat() if filters.since else ""
    rows = audit.events(limit=filters.limit)
    return [row for row in rows if filters.agent in ("", row["agent"]) and row["at"] >= since[:19]]


def _follow(audit: AuditReader, filters: Filters, columns: tuple[_Column, ...], as_json: bool, last_seq: int) -> None:
    try:
        for row in _finished(audit, filters, columns is _EVENT, last_seq):
            if as_json:
                print_json(row)
            else:
                out.print(_table([row], columns, is_followed=True), soft_wrap=False)
    except KeyboardInterrupt:
        return


def _finished(audit: AuditReader, filters: Filters, is_events: bool, last_seq: int) -> Iterator[Json]:
    """Calls as they end, decision and outcome in one, or events as they happen."""
    for row in audit.follow(replace(filters, decision="", outcome=""), after=last_seq):
        if row["phase"] != "finished" or (row["request_id"] is None) != is_events:
            continue
        decided = {} if is_events else (audit.entry(row["seq"]) or {}).get("decided") or {}
        both = {**row, **{name: value for name, value in decided.items() if value is not None}}
        both = {**both, "finished_at": row["at"], "finished_seq": row["seq"]}
        if filters.decision in ("", both["decision"]) and filters.outcome in ("", both["outcome"]):
            yield both


def _table(rows: list[Json], columns: tuple[_Column, ...], *, is_followed: bool = False) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=not is_followed)
    for column in columns:
        width = column.width if is_followed and out.width >= _WIDE else None
        table.add_column(column.title, no_wrap=not column.folds, overflow="fold", min_width=width)
    for row in rows:
        table.add_row(*(column.cell(row) for column in columns))
    return table


def _text(name: str) -> Callable[[Json], Text]:
    return lambda row: Text(escaped(str(row[name] or "")))


def _told(row: Json) -> Text:
    reason = "" if row["reason"] == row["name"] else str(row["reason"] or "")
    return Text(escaped(f"{reason} {row['args'] or ''}".strip()))


def _which(row: Json) -> Text:
    """The name; of versions, which are hashes, as much as other commands show."""
    name = str(row["name"] or "")
    return Text(escaped(name[:8] if row["kind"] == "policy" else name))


def _time(row: Json) -> Text:
    """The time alone where it is of today."""
    at = datetime.fromisoformat(row["at"])
    return Text(f"{at:%H:%M:%S}" if at.date() == utc_now().date() else f"{at:%Y-%m-%d %H:%M}")


def _target(row: Json) -> Text:
    target = "/".join(part for part in (row["upstream"], row["name"]) if part)
    is_plain = row["kind"] in (Verb.CALL, Verb.LIST)
    return Text(escaped(target if is_plain else f"{row['kind']} {target}"))


def _result(row: Json) -> Text:
    """How it ended; a call that is denied or under way has no more to say than that."""
    is_denied = row["decision"] == "denied"
    said = "denied" if is_denied else str(row["outcome"] or "")
    return Text(escaped(said or "under way"), style=_STYLES.get(said, "yellow"))


def _why(row: Json) -> Text:
    line = str(row["grant_at"] or "").rpartition("/")[2]
    reason = "" if row["reason"] in _SILENT else str(row["reason"] or "")
    return Text(escaped(f"{reason} {line}".strip()))


def _ms(row: Json) -> Text:
    ms = row["upstream_ms"]
    return Text(f"{ms:.0f}" if ms else "", justify="right")


_ENTRY: Final = _Column("entry", 5, _text("seq"), folds=False)
_AT: Final = _Column("time", 8, _time, folds=False)

_CALL: Final = (
    _ENTRY,
    _AT,
    _Column("agent", 10, _text("agent")),
    _Column("task", 10, _text("task")),
    _Column("target", 24, _target),
    _Column("result", 9, _result, folds=False),
    _Column("why", 14, _why),
    _Column("ms", 5, _ms, folds=False),
)

_EVENT: Final = (
    _ENTRY,
    _AT,
    _Column("what", 8, _text("kind"), folds=False),
    _Column("which", 14, _which),
    _Column("agent", 10, _text("agent")),
    _Column("told", 30, _told),
)
