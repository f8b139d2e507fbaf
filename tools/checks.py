"""Every check but the tests, in one command: `python -m tools.checks` (`--fix` repairs what a machine can).

The checks run side by side; a passing one prints a line, a failing one prints what it said. The exit code is the
number of checks that failed.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
BIN: Final = Path(sys.executable).parent
SOURCES: Final = ("mcp_gateway", "tests", "tools")


@dataclass(frozen=True, slots=True)
class Check:
    """One command, and what a passing run of it means."""

    claim: str
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check said."""

    check: Check
    passed: bool
    output: str
    seconds: float


def generated_docs() -> tuple[str, ...]:
    """The documents that hold a cog block, as paths from the root."""
    documents = sorted((ROOT / "docs").rglob("*.md"))
    return tuple(str(doc.relative_to(ROOT)) for doc in documents if "[[[cog" in doc.read_text(encoding="utf-8"))


def checks() -> tuple[Check, ...]:
    """What must hold, slowest first."""
    return (
        Check("types hold (mypy --strict)", ("mypy",)),
        Check("every dependency is declared and used (deptry)", ("deptry", "mcp_gateway")),
        Check("floors and walls hold (import-linter)", ("lint-imports", "--no-logo")),
        Check("generated docs are up to date (--fix)", ("cog", "-I", ".", "--check", "--diff", *generated_docs())),
        Check("no lint (ruff)", ("ruff", "check", "--quiet", *SOURCES)),
        Check("the format is ruff's (--fix)", ("ruff", "format", "--check", "--quiet", *SOURCES)),
    )


def repairs() -> tuple[Check, ...]:
    """What a machine can put right."""
    return (
        Check("lint repaired", ("ruff", "check", "--quiet", "--fix", *SOURCES)),
        Check("formatted", ("ruff", "format", "--quiet", *SOURCES)),
        Check("docs generated", ("cog", "-I", ".", "-r", *generated_docs())),
    )


def run(check: Check) -> Finding:
    """Run one check from the repository's root."""
    started = time.perf_counter()
    command = [str(BIN / check.command[0]), *check.command[1:]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    return Finding(check, done.returncode == 0, done.stdout + done.stderr, time.perf_counter() - started)


def report(finding: Finding) -> None:
    """Print one line, and the check's own words where it failed."""
    print(f"{'ok    ' if finding.passed else 'FAILED'} {finding.seconds:5.1f} s  {finding.check.claim}", flush=True)
    if not finding.passed:
        print(f"$ {' '.join(finding.check.command)}\n{finding.output}", flush=True)


def main(arguments: Sequence[str]) -> int:
    """Repair if asked to, then check everything; the number of failed checks."""
    if "--fix" in arguments:
        for repair in repairs():
            report(run(repair))
    with ThreadPoolExecutor() as pool:
        findings = list(pool.map(run, checks()))
    for finding in findings:
        report(finding)
    return sum(not finding.passed for finding in findings)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
