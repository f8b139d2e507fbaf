"""`mcp-gateway policy`: try a policy before anybody depends on it."""

from __future__ import annotations

import os
from pathlib import Path

import typer
from rich.text import Text

from mcp_gateway.audit.query import escaped
from mcp_gateway.cli import policy_history, policy_lint
from mcp_gateway.cli.output import DEFAULT_CONFIG, EXIT_NO, AsJson, ConfigPath, out, print_json, shown, warn
from mcp_gateway.config.servers import load
from mcp_gateway.policy.document import case_files
from mcp_gateway.policy.golden import CaseResult, run_cases
from mcp_gateway.wiring import policy_of

app = typer.Typer(help="Policies: their tests, their past, what is odd in them.", no_args_is_help=True)


@app.callback()
def root() -> None:
    """Policies: their tests, their past, what is odd in them."""


@app.command()
def test(config: ConfigPath = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Run the cases in policies/*.test.toml; exits 1 if one fails.

    Example: `mcp-gateway policy test`
    """
    configuration = load(Path(config), os.environ)
    directory = configuration.settings.policies
    results = run_cases(policy_of(configuration), case_files(directory))
    failed = [result for result in results if not result.passed]
    if as_json:
        print_json({"passed": len(results) - len(failed), "failed": [_plain(result) for result in failed]})
    else:
        _print(directory, results, failed)
    if failed:
        raise typer.Exit(EXIT_NO)


app.command("replay")(policy_history.replay)
app.command("suggest")(policy_history.suggest)
app.command("lint")(policy_lint.lint)


def _print(directory: Path, results: list[CaseResult], failed: list[CaseResult]) -> None:
    for result in failed:
        said = f"{result.actual.effect} ({result.actual.reason})"
        by = f" by {result.actual.grant}" if result.actual.grant else ""
        out.print(Text.assemble(("failed ", "red"), escaped(f"{shown(result.file)}:{result.line}: {result.name}")))
        out.print(f"       expected {result.expected}, the policy says {said}{by}")
    if not results:
        warn(f"there are no cases in {shown(directory)}: write some into a file whose name ends in .test.toml")
    out.print(f"{len(results) - len(failed)} passed, {len(failed)} failed")


def _plain(result: CaseResult) -> dict[str, object]:
    return {
        "file": result.file,
        "line": result.line,
        "name": result.name,
        "expected": result.expected,
        "effect": result.actual.effect,
        "reason": result.actual.reason,
        "grant": result.actual.grant,
    }
