"""The read side: what happened, as plain dicts; never writes, but for the search index it keeps up to date.

Text in the rows stands as it came: whoever shows it on a terminal passes it through `escaped` first.
"""

from __future__ import annotations

import sqlite3
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from mcp_gateway.domain import Json, PastDecision
from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.storage.sqlite import Connection, reading

if TYPE_CHECKING:
    from sqlite_utils import Database

INDEX_PAGE: Final = 2000
"""Rows indexed in one transaction: a search may have much to catch up with, and the gateway waits for the lock."""

USAGE_BY: Final[Mapping[str, str]] = {
    "agent": "coalesce(d.agent, '')",
    "person": "coalesce(d.person, '')",
    "task": "coalesce(d.task, '')",
    "model": "d.name",
    "tool": "d.upstream || '/' || d.name",
    "route": "coalesce(d.upstream || ': ', '') || d.name",
    "target": "d.kind || ' ' || coalesce(d.upstream || '/', '') || d.name",
    "day": "substr(d.at, 1, 10)",
}
"""What usage can be told by, and the column that says it."""

_KINDS_OF: Final = {"model": "('model', 'sample')", "tool": "('call')", "route": "('route')"}
"""Those that only some kinds of calls have."""

AGREES: Final = 0.9
"""Below this agreement of the two answers a cache in shadow would have been wrong."""

_PAST: Final = """
    SELECT seq, at, kind, agent, task, person, coalesce(identity_strength, ''), upstream, coalesce(name, ''),
           target_hash, decision, reason, args, args_sha256, redactions, started
    FROM entries WHERE phase = 'decided' AND kind NOT IN ('list', 'search')
"""
_FTS_COLUMNS: Final = "agent, task, upstream, name, reason, args, error, result_preview"


@dataclass(frozen=True, slots=True)
class Filters:
    """Which calls to show. Empty means any."""

    agent: str = ""
    task: str = ""
    started: str = ""
    """The id of a started task."""
    trace_id: str = ""
    """Of the W3C trace that the agent said its request belongs to."""
    tool: str = ""
    """`upstream/name` or `name`; `*`, `?` and `[...]` as in file names."""
    decision: str = ""
    outcome: str = ""
    since: datetime | None = None
    """Must know its time zone."""
    search: str = ""
    """Words that all stand somewhere in the call: names, arguments, errors, results."""
    limit: int = 50


class AuditReader(AbstractContextManager["AuditReader"]):
    """A connection that reads one audit database. Raises `StoreUnavailable` where it cannot."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reading = reading(path)
        # Loaded here: it takes longer than most commands, and few of them read.
        self._db: Database = import_module("sqlite_utils").Database(self._reading.__enter__())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reading.__exit__(kind, error, trace)

    def calls(self, filters: Filters = Filters()) -> list[Json]:
        """The newest calls that match, oldest first: decision and outcome in one dict each, as the view `calls`."""
        if filters.search:
            self.update_search_index()
        where, values = _conditions(filters)
        sql = f"SELECT * FROM calls WHERE {where} ORDER BY seq DESC LIMIT ?"  # noqa: S608 - values are bound
        return list(self._db.query(sql, [*values, filters.limit]))[::-1]

    def follow(
        self,
        filters: Filters = Filters(),
        *,
        after: int | None = None,
        poll_s: float = 0.2,
        wait: Callable[[float], object] = time.sleep,
    ) -> Iterator[Json]:
        """Rows of `entries` as they are written from now on, decided and finished each; never ends by itself.

        `after`: from behind this row on instead, so that nothing falls between a look and the following of it.
        `search` and `limit` have no meaning here; a filter on the outcome shows finished rows only. Stop it by closing
        the generator, or by raising in `wait`.
        """
        last_seq, seen = self.last_seq() if after is None else after, -1
        where, values = _row_conditions(filters)
        sql = f"SELECT * FROM entries WHERE seq > ? AND {where} ORDER BY seq LIMIT 1000"  # noqa: S608 - values are bound
        while True:
            version = self._db.execute("PRAGMA data_version").fetchone()[0]
            if version == seen:
                wait(poll_s)
                continue
            end = self.last_seq()
            rows = list(self._db.query(sql, [last_seq, *values]))
            yield from rows
            # A full page may not be all there is: look again before waiting.
            last_seq, seen = (rows[-1]["seq"], seen) if len(rows) == 1000 else (max(end, last_seq), version)

    def entry(self, which: int | str) -> Json | None:
        """One call with its `decided` and `finished` row, the `policy` and the `target` version it refers to.

        `which`: the seq of either of its rows, or its request id. An event has only `finished`.
        """
        row = self._row("SELECT * FROM entries WHERE seq = ?", which) if isinstance(which, int) else None
        if isinstance(which, str):
            row = self._row("SELECT * FROM entries WHERE request_id = ? AND phase = 'decided'", which)
        if row is not None and row["decided_seq"] is not None:
            row = self._row("SELECT * FROM entries WHERE seq = ?", row["decided_seq"])
        if row is None:
            return None
        if row["phase"] != "decided":
            return {"decided": None, "finished": row, "policy": None, "target": None}
        return {
            "decided": row,
            "finished": self._row("SELECT * FROM entries WHERE decided_seq = ?", row["seq"]),
            "policy": self._row("SELECT * FROM policy_versions WHERE hash = ?", row["policy_hash"]),
            "target": self._row("SELECT * FROM target_versions WHERE hash = ?", row["target_hash"]),
        }

    def decisions(self, since: datetime | None = None, agent: str = "") -> Iterator[PastDecision]:
        """Every decided request for one target, oldest first: what replays are made of. Lists are left out."""
        where, values = _row_conditions(Filters(agent=agent, since=since))
        sql = f"{_PAST} AND {where} ORDER BY seq"
        return map(PastDecision._make, self._db.execute(sql, values))

    def target_versions(self) -> Iterator[tuple[str, str, str, str, str]]:
        """Hash, upstream, kind, name and definition (JSON) of every definition that was ever served."""
        return iter(self._db.execute("SELECT hash, upstream, kind, name, definition FROM target_versions"))

    def events(self, kind: str = "", limit: int = 50) -> list[Json]:
        """The newest rows that are not calls (policy, config, key, refused, audit, ...), oldest first."""
        found = self._db.query(
            "SELECT * FROM entries WHERE phase = 'finished' AND request_id IS NULL AND (? = '' OR kind = ?)"
            " ORDER BY seq DESC LIMIT ?",
            (kind, kind, limit),
        )
        return list(found)[::-1]

    def usage(self, by: Sequence[str], since: datetime | None = None) -> list[Json]:
        """How many calls there were, and what they took, for each combination of `by` (keys of `USAGE_BY`).

        `unpriced` are calls that took tokens whose price nobody knows: their cost is in no sum. `cached` are those that
        a cache answered.
        """
        columns = ", ".join(f'{USAGE_BY[word]} AS "{word}"' for word in by)
        where = [f"d.kind IN {kinds}" for word, kinds in _KINDS_OF.items() if word in by] or ["d.kind <> 'list'"]
        sql = f"""
            SELECT {columns}{", " if by else ""}count(*) AS calls, sum(d.decision = 'denied') AS denied,
                   sum(f.tokens_in) AS tokens_in, sum(f.tokens_out) AS tokens_out, sum(f.cost) AS cost,
                   sum(f.tokens_in IS NOT NULL AND f.cost IS NULL) AS unpriced, {self._cached} AS cached
            FROM entries d LEFT JOIN entries f ON f.decided_seq = d.seq
            WHERE d.phase = 'decided' AND {" AND ".join(where)} AND d.at >= ?
            GROUP BY {", ".join(str(n) for n in range(1, len(by) + 1)) or "1 = 1"}
            ORDER BY cost DESC, calls DESC
        """  # noqa: S608 - columns of ours
        rows = self._db.query(sql, ("" if since is None else _text(since),))
        return [row for row in rows if row["calls"]]

    def cache_report(self, since: datetime | None = None) -> list[Json]:
        """What caches did and would have done, by target: `looked` are calls that one in shadow compared.

        Of those, `would_hit` would have been answered without asking, and `wrong` of them with something else than what
        came back (`AGREES`).
        """
        if "cache" not in self._columns:
            return []
        sql = """
            SELECT d.kind || ' ' || coalesce(d.upstream || '/', '') || d.name AS target, count(*) AS calls,
                   sum(use = 'hit') AS hit, sum(use = 'revalidated') AS revalidated, sum(use = 'stale') AS stale,
                   sum(use IN ('would_hit', 'would_miss')) AS looked, sum(use = 'would_hit') AS would_hit,
                   sum(use = 'would_hit' AND agreement < ?) AS wrong
            FROM (SELECT decided_seq, json_extract(cache, '$.use') AS use,
                         coalesce(json_extract(cache, '$.agreement'), 0) AS agreement
                  FROM entries WHERE phase = 'finished') f JOIN entries d ON d.seq = f.decided_seq
            WHERE d.at >= ? AND d.kind IN ('model', 'sample', 'route') AND d.decision = 'allowed'
            GROUP BY 1 HAVING count(use) > 0 ORDER BY calls DESC, 1
        """
        return list(self._db.query(sql, (AGREES, "" if since is None else _text(since))))

    @property
    def _columns(self) -> set[str]:
        """Those of `entries`: a database that no gateway of this version has opened lacks the latest."""
        return {row[1] for row in self._db.execute("PRAGMA table_info(entries)")}

    @property
    def _cached(self) -> str:
        """The sum of what caches answered."""
        uses = "coalesce(json_extract(f.cache, '$.use') IN ('hit', 'stale'), 0)"
        return f"sum({uses})" if "cache" in self._columns else "0"

    def view(self, name: str, limit: int = 1000) -> list[Json]:
        """The rows of one of the database's views. Raises `LookupError` for any other name."""
        if name not in self._db.view_names():
            raise LookupError(f"no view {name!r}; there are: {', '.join(sorted(self._db.view_names()))}")
        return list(self._db.query(f'SELECT * FROM "{name}" LIMIT ?', (limit,)))  # noqa: S608 - one of our own names

    def last_seq(self) -> int:
        """The number of the newest row; 0 where there is none."""
        return int(self._db.execute("SELECT coalesce(max(seq), 0) FROM entries").fetchone()[0])

    def update_search_index(self) -> None:
        """Index the words of rows written since the last search. Raises `StoreUnavailable` where that cannot be."""
        try:
            with closing(sqlite3.connect(self._path, isolation_level=None, timeout=5)) as db:
                while _index_page(db):
                    time.sleep(0.005)  # let the gateway have the lock
        except sqlite3.Error as e:
            raise StoreUnavailable(f"{self._path}: the search index cannot be updated: {e}") from e

    def _row(self, sql: str, value: Any) -> Json | None:
        return next(iter(self._db.query(sql, (value,))), None)


def escaped(text: str) -> str:
    r"""`text` safe to show on a terminal: control, escape, bidi and other invisible characters become visible.

    >>> escaped("a\x1b[31mb\n\u202ec")
    'a\\x1b[31mb\\n\\u202ec'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c == " " or _is_visible(c) else c.encode("unicode_escape").decode() for c in text)


def _is_visible(character: str) -> bool:
    # Variation selectors print nothing and can carry text (U+FE00.., U+E0100..); other marks belong to their scripts.
    return character.isprintable() and not unicodedata.name(character, "").startswith("VARIATION SELECTOR")


def _conditions(filters: Filters) -> tuple[str, list[Any]]:
    """For the view `calls`."""
    where, values = _row_conditions(filters)
    if filters.since is not None:
        # Bounds the walk back through the rows: `at` alone would lead it through all of them. The plus makes SQLite
        # look the time up in its index; without it a walk through all older rows seems the shorter way to a minimum.
        where += " AND seq >= (SELECT min(+seq) FROM entries WHERE phase = 'decided' AND at >= ?)"
        values.append(_text(filters.since))
    if match := _match(filters.search):
        where += (
            " AND (seq IN (SELECT rowid FROM entries_fts WHERE entries_fts MATCH ?)"
            " OR finished_seq IN (SELECT rowid FROM entries_fts WHERE entries_fts MATCH ?))"
        )
        values += [match] * 2
    return where, values


def _row_conditions(filters: Filters) -> tuple[str, list[Any]]:
    """Conditions on columns that `entries` and `calls` share."""
    where, values = ["1"], []
    for column in ("agent", "task", "started", "trace_id", "decision", "outcome"):
        if value := getattr(filters, column):
            # The plus keeps the view's walk from the newest call back, which ends when there are enough: SQLite would
            # rather read every end of a call there is, and sort.
            where.append(f"{'+' if column == 'outcome' else ''}{column} = ?")
            values.append(value)
    if filters.tool:
        where.append("(upstream || '/' || name GLOB ? OR name GLOB ?)")
        values += [filters.tool] * 2
    if filters.since is not None:
        where.append("at >= ?")
        values.append(_text(filters.since))
    return " AND ".join(where), values


def _text(moment: datetime) -> str:
    """A time as the column `at` has it."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def _match(search: str) -> str:
    """Words as FTS5 strings: nobody's search is taken for FTS5's own syntax."""
    return " ".join('"' + word.replace('"', '""') + '"' for word in search.replace("\0", " ").split())


def _index_page(db: Connection) -> bool:
    """Index the next rows; whether there may be more."""
    db.execute("BEGIN IMMEDIATE")
    try:
        done = db.execute("SELECT coalesce(max(id), 0) FROM entries_fts_docsize").fetchone()[0]
        count = db.execute(
            f"INSERT INTO entries_fts (rowid, {_FTS_COLUMNS})"  # noqa: S608 - column names of ours
            f" SELECT seq, {_FTS_COLUMNS} FROM entries WHERE seq > ? ORDER BY seq LIMIT ?",
            (done, INDEX_PAGE),
        ).rowcount
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")
    return count == INDEX_PAGE
