"""What a figure was made on: machine, versions, commit, date, and whether anybody else was at work there."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sqlite3
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("mcp-gateway", "mcp", "uvloop", "httptools", "orjson")
BUSY = 0.5
"""Load for each core from which on a machine counts as busy: half of each core, or every second one."""


def keep_compiled(folder: Path) -> None:
    """Let what is started from now on find its modules compiled from the second time on, as an installed program does.

    Some machines switch that off, and a start then compiles everything.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(folder)


def load_per_core() -> float:
    """How many programs want each core, on average of the last minute."""
    return os.getloadavg()[0] / (os.cpu_count() or 1)


def cpu_model() -> str:
    """As the kernel names it."""
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def commit() -> str:
    """The commit the figures are of, and whether any code was changed since."""
    found = _said("git", "describe", "--always", "--exclude=*")
    is_changed = bool(_said("git", "status", "--porcelain", "--", ".", "../mcp_gateway"))
    return f"commit {found}{', changed since' if is_changed else ''}" if found else "no commit"


def described(load: float) -> str:
    """One paragraph. `load`: that of the machine for each core, before the run."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = [f"{name} {version(name)}" for name in PACKAGES]
    versions += [f"SQLite {sqlite3.sqlite_version}", _nginx()]
    busy = "busy with other work, so that only ratios and CPU times mean anything" if load > BUSY else "idle"
    return (
        f"Made on {datetime.now(UTC):%Y-%m-%d} of {commit()}. {cpu_model()}, {os.cpu_count()} cores, "
        f"{memory_gib:.0f} GiB, {platform.system()} {platform.release()}. Python {platform.python_version()}, "
        f"{', '.join(versions)}. Load for each core beforehand: {load:.1f} ({busy})."
    )


def _nginx() -> str:
    found = _said("nginx", "-v").rpartition("/")[2].split()
    return f"nginx {found[0]}" if found else "no nginx"


def _said(*command: str) -> str:
    """What a program said, if it is there and content."""
    if shutil.which(command[0]) is None:
        return ""
    folder = Path(__file__).parent
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
