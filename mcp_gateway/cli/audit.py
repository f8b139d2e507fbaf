"""`mcp-gateway audit`: whether the evidence is whole."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import typer
from rich.text import Text

from mcp_gateway.audit.query import escaped
from mcp_gateway.audit.verify import Verdict
from mcp_gateway.audit.verify import verify as verify_audit
from mcp_gateway.cli.output import DEFAULT_CONFIG, EXIT_NO, AsJson, ConfigPath, out, print_json, shown
from mcp_gateway.config.servers import load
from mcp_gateway.wiring import audit_reader

app = typer.Typer(help="The audit: verify its chain.", no_args_is_help=True)


@app.callback()
def root() -> None:
    """The audit: verify its chain."""


@app.command()
def verify(config: ConfigPath = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Check every row of the audit against its chain, its signed checkpoints and the anchor outside of it.

    Exits 1 and names the first row where one was edited, deleted, reordered or cut off.

    Example: `mcp-gateway audit verify`
    """
    configuration = load(Path(config), os.environ)
    settings = configuration.settings
    with audit_reader(configuration):  # which says it where there is nothing to verify
        verdict = verify_audit(settings.audit, settings.state)
    if as_json:
        print_json({"ok": verdict.ok, **asdict(verdict)})
    else:
        _print(settings.audit, verdict)
    if not verdict.ok:
        raise typer.Exit(EXIT_NO)


def _print(path: Path, verdict: Verdict) -> None:
    for problem in verdict.problems:
        where = f"at row {problem.seq}: " if problem.seq else ""
        out.print(Text.assemble((f"{problem.fault} ", "bold red"), escaped(where + problem.message)))
    for note in verdict.notes:
        out.print(Text.assemble(("note ", "yellow"), escaped(note)))
    counts = {"row": verdict.rows, "checkpoint": verdict.checkpoints, "anchor": verdict.anchors}
    seen = f"{shown(path)}: " + ", ".join(f"{n} {word}{'' if n == 1 else 's'}" for word, n in counts.items())
    out.print(Text.assemble(("ok ", "green") if verdict.ok else ("NOT OK ", "bold red"), seen))
