"""`mcp-gateway content`: what calls carried, where a policy has it kept: list, show, purge."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import anyio
import typer
from rich.table import Table
from rich.text import Text

from mcp_gateway.audit.kept import Store
from mcp_gateway.audit.query import escaped
from mcp_gateway.cli.durations import duration
from mcp_gateway.cli.output import DEFAULT_CONFIG, EXIT_NO, AsJson, ConfigPath, err, out, print_json
from mcp_gateway.config.servers import Configuration, load
from mcp_gateway.credentials.vault_keys import CannotOpen
from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.storage.kept import KeptRow
from mcp_gateway.wiring import audit_reader, kept_store, open_audit

app = typer.Typer(help="What calls carried, where a policy has it kept: list, show, purge.", no_args_is_help=True)

By = Annotated[str, typer.Option(help="Who it is, for the audit; else the name of the user.")]
Why = Annotated[str, typer.Option("--reason", help="Why, for the audit.")]


@app.command("list")
def list_content(
    agent: Annotated[str, typer.Option(help="Only this agent's.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="How many parts, the newest.")] = 30,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """List what is kept, the newest first: whose, of what, until when. Not what it says.

    Example: `mcp-gateway content list --agent support-bot`
    """
    with _store(load(Path(config), os.environ)) as store:
        rows = store.table.newest(time.time(), agent=agent, limit=limit)
    if as_json:
        print_json([_plain(row) for row in rows])
        return
    if not rows:
        out.print("nothing is kept")
        return
    names = ("request", "part", "kept (UTC)", "until (UTC)", "agent", "target", "bytes")
    table = Table(*names, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for row in rows:
        told = (Text(escaped(name)) for name in (row.agent, row.target))
        table.add_row(row.request_id, row.part, _at(row.at), _at(row.expires_at), *told, str(row.size))
    out.print(table, soft_wrap=False)


@app.command()
def show(
    call: Annotated[str, typer.Argument(help="The call: its number in `mcp-gateway log`, or its request id.")],
    reason: Why = "",
    by: By = "",
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Show what one call carried. The audit has who looked, before anything is shown.

    Exits 1 where nothing is kept of it, or where it is not what the audit says it was.

    Example: `mcp-gateway content show 17 --reason "complaint 4711"`
    """
    configuration = load(Path(config), os.environ)
    request_id, digests = _of_the_audit(configuration, call)
    with _store(configuration) as store:
        rows = store.table.of(request_id, time.time())
        if not rows:
            err.print(f"nothing is kept of {escaped(call)}")
            raise typer.Exit(EXIT_NO)
        anyio.run(_note_reading, configuration, rows, by, reason)
        found = [(row, _content(store, row)) for row in rows]
    faults = [row.part for row, content in found if hashlib.sha256(content).hexdigest() != digests.get(row.part)]
    _print(found, as_json=as_json)
    if faults:
        err.print(f"NOT what the audit says it was: {', '.join(faults)}")
        raise typer.Exit(EXIT_NO)


@app.command()
def purge(
    call: Annotated[str, typer.Argument(help="One call: its number in `mcp-gateway log`, or its request id.")] = "",
    older_than: Annotated[str, typer.Option(help="What was kept longer ago than 30m, 12h, 7d ...")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Everything that is kept.")] = False,
    reason: Why = "",
    by: By = "",
    config: ConfigPath = DEFAULT_CONFIG,
) -> None:
    """Remove what is kept, and what has ended anyway. The audit has who did it; its own rows stay as they are.

    Example: `mcp-gateway content purge --older-than 7d`
    """
    if bool(call) + bool(older_than) + everything > 1:
        raise typer.BadParameter("give one of: a call, --older-than, --all")
    configuration = load(Path(config), os.environ)
    request_id = _of_the_audit(configuration, call)[0] if call else None
    now = time.time()
    before = now - duration(older_than).total_seconds() if older_than else now + 1 if everything else None
    with _store(configuration) as store:
        gone = store.table.purge(now, request_id=request_id, before=before)
    what = request_id or (f"older than {older_than}" if older_than else "all" if everything else "ended")
    anyio.run(_note, configuration, what, "", f"{gone} parts purged by {_who(by)}", reason)
    out.print(f"{gone} part{'' if gone == 1 else 's'} purged")


@contextmanager
def _store(configuration: Configuration) -> Iterator[Store]:
    store = kept_store(configuration)
    try:
        yield store
    finally:
        store.table.close()


def _of_the_audit(configuration: Configuration, call: str) -> tuple[str, dict[str, str]]:
    """The request id of a call, and the digests of what was kept of it, as the chain has them."""
    with audit_reader(configuration) as audit:
        entry = audit.entry(int(call) if call.isdigit() else call)
    if entry is None or not entry.get("decided"):
        err.print(f"the audit has no call {escaped(call)}")
        raise typer.Exit(EXIT_NO)
    finished = entry.get("finished") or {}
    return str(entry["decided"]["request_id"]), json.loads(finished.get("kept") or "{}")


def _content(store: Store, row: KeptRow) -> bytes:
    try:
        return store.content(row)
    except CannotOpen as e:
        raise StoreUnavailable(f"the {row.part} of {row.request_id} cannot be opened: {e}") from e


async def _note_reading(configuration: Configuration, rows: list[KeptRow], by: str, reason: str) -> None:
    parts = ", ".join(row.part for row in rows)
    await _note(configuration, rows[0].request_id, rows[0].agent, f"{parts} read by {_who(by)}", reason)


async def _note(configuration: Configuration, name: str, agent: str, what: str, reason: str) -> None:
    async with open_audit(configuration) as audit:
        await audit.note("content", name, agent=agent, reason=f"{what}: {reason}" if reason else what)


def _who(by: str) -> str:
    return by or getpass.getuser()


def _print(found: list[tuple[KeptRow, bytes]], *, as_json: bool) -> None:
    texts = [(row, content.decode("utf-8", "replace")) for row, content in found]
    if as_json:
        print_json([{**_plain(row), "content": text} for row, text in texts])
        return
    for row, text in texts:
        cut = ", cut" if row.is_cut else ""
        out.print(f"{row.part} ({escaped(row.media_type)}, {row.size} bytes{cut}, until {_at(row.expires_at)})")
        out.print(escaped(text))


def _plain(row: KeptRow) -> dict[str, Any]:
    return {
        "request_id": row.request_id,
        "part": row.part,
        "kept_at": _at(row.at),
        "until": _at(row.expires_at),
        "agent": row.agent,
        "task": row.task,
        "target": row.target,
        "media_type": row.media_type,
        "sha256": row.sha256,
        "bytes": row.size,
        "is_cut": row.is_cut,
    }


def _at(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%S")
