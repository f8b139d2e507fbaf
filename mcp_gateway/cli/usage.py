"""`mcp-gateway usage`: how many calls there were, of whom and what, and what their tokens cost."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.table import Table
from rich.text import Text

from mcp_gateway.audit.query import escaped
from mcp_gateway.cli.durations import duration
from mcp_gateway.cli.output import DEFAULT_CONFIG, AsJson, ConfigPath, out, print_json
from mcp_gateway.config.servers import load
from mcp_gateway.domain import Json
from mcp_gateway.wiring import audit_reader, spent_budgets, utc_now


class By(StrEnum):
    """What usage can be told by: the keys of `audit.query.USAGE_BY`."""

    AGENT = "agent"
    PERSON = "person"
    TASK = "task"
    MODEL = "model"
    TOOL = "tool"
    ROUTE = "route"
    TARGET = "target"
    DAY = "day"


_MICROS: Final = 1_000_000


def usage(
    by: Annotated[list[By] | None, typer.Option(help="Told by this; may be given more than once.")] = None,
    since: Annotated[str, typer.Option(help="Only the last 30m, 12h, 7d ...")] = "",
    budgets: Annotated[bool, typer.Option("--budgets", help="What has been taken out of budgets instead.")] = False,
    caches: Annotated[bool, typer.Option("--caches", help="What caches did, and would have done, instead.")] = False,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Tell calls, tokens and cost from the audit. A cost that nobody knows is `unpriced`, never nothing.

    Example: `mcp-gateway usage --by agent --by model --since 7d`
    """
    configuration = load(Path(config), os.environ)
    start = utc_now() - duration(since) if since else None
    if caches:
        with audit_reader(configuration) as audit:
            _print(audit.cache_report(start), _cache_table, as_json)
        return
    if budgets:
        rows = [_budget_row(*spent) for spent in spent_budgets(configuration, start)]
        words = ["budget", "whose", "since"]
    else:
        words = [word.value for word in by or (By.AGENT, By.TASK, By.TARGET)]
        with audit_reader(configuration) as audit:
            rows = audit.usage(words, start)
    _print(rows, lambda rows: _table(rows, words, is_budgets=budgets), as_json)


def _print(rows: list[Json], table: Callable[[list[Json]], Table], as_json: bool) -> None:
    if as_json:
        for row in rows:
            print_json(row)
    elif rows:
        out.print(table(rows), soft_wrap=False)
    else:
        out.print("nothing was used")


def _cache_table(rows: list[Json]) -> Table:
    """Of a cache in shadow how many of the calls it looked at it would have answered, and how many of those wrongly."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("target", overflow="fold")
    names = ("calls", "hit", "revalidated", "stale", "looked", "would_hit", "wrong")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right", no_wrap=True)
    for row in rows:
        table.add_row(Text(escaped(str(row["target"]))), *(str(row[name] or "") for name in names))
    return table


def _budget_row(budget: str, subject: str, began_at: int, calls: int, tokens: int, cost: int, under_way: int) -> Json:
    return {
        "budget": budget,
        "whose": subject.replace("\n", " ") or "everybody's",
        "since": datetime.fromtimestamp(began_at, UTC).strftime("%Y-%m-%dT%H:%MZ"),
        "calls": calls,
        "tokens": tokens,
        "cost": cost / _MICROS,
        "under_way": under_way,
    }


def _table(rows: list[Json], words: list[str], *, is_budgets: bool) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    has_cached = not is_budgets and any(row["cached"] for row in rows)
    of_calls = ["calls", *(["cached"] if has_cached else []), "denied", "in", "out", "USD"]
    numbers = ["calls", "tokens", "USD", "under way"] if is_budgets else of_calls
    for word in words:
        table.add_column(word, overflow="fold")
    for word in numbers:
        table.add_column(word, justify="right", no_wrap=True)
    for row in rows:
        cells = [row[word] for word in words]
        told = _of_budget(row) if is_budgets else _of_calls(row, has_cached=has_cached)
        table.add_row(*(Text(escaped(str(cell))) for cell in (*cells, *told)))
    return table


def _of_budget(row: Json) -> tuple[str, ...]:
    return str(row["calls"]), str(row["tokens"]), _money(row["cost"]), str(row["under_way"] or "")


def _of_calls(row: Json, *, has_cached: bool) -> tuple[str, ...]:
    cost = _money(row["cost"]) if row["cost"] is not None else ""
    if row["unpriced"]:
        cost = f"{cost} + {row['unpriced']} unpriced" if cost else f"{row['unpriced']} unpriced"
    tokens = ("", "") if row["tokens_in"] is None else (str(row["tokens_in"]), str(row["tokens_out"]))
    cached = (str(row["cached"] or ""),) if has_cached else ()
    return str(row["calls"]), *cached, str(row["denied"] or ""), *tokens, cost


def _money(usd: float) -> str:
    """Six places: a single call costs millionths."""
    return f"{usd:.6f}"
