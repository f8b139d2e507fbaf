"""What `doctor` looks at: the files as they were read, and the gateway that runs, if one does."""

from __future__ import annotations

import shlex
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp_gateway.cli.faults import Finding
from mcp_gateway.cli.output import DEFAULT_CONFIG, shown
from mcp_gateway.config.servers import Configuration
from mcp_gateway.errors import Complaint
from mcp_gateway.policy.compile import Policy


@dataclass(frozen=True, slots=True)
class Patient:
    """What is looked at."""

    path: Path
    configuration: Configuration
    policy: Policy | None
    running: dict[str, Any] | None
    """What the gateway that runs says of itself; None: none does."""

    @property
    def config_option(self) -> str:
        """How a command that is to be pasted names this configuration."""
        return "" if str(self.path) == DEFAULT_CONFIG else f" --config {shlex.quote(str(self.path))}"


Check = Callable[[Patient], Awaitable[list[Finding]]]


def complained(complaint: Complaint, weight: str) -> Finding:
    """A complaint about a file, as `doctor` tells it."""
    where = f"{shown(complaint.file)}:{complaint.line}" if complaint.line else shown(complaint.file)
    is_fault = weight == "fault"
    return Finding(where, "fault" if is_fault else "warning", complaint.message, complaint.code, complaint.fix)
