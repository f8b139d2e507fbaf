"""The first line of whoever attaches to a gateway that runs, and the socket it comes in on.

Both sides speak it, so it is small: a window of an agent's is a pipe, and should not load a gateway for that.
"""

from __future__ import annotations

import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from mcp_gateway.jsonrpc import dump

Want = Literal["agent", "status"]


@dataclass(frozen=True, slots=True)
class Hello:
    """The first line of a connection."""

    token: str
    version: str
    config: str
    """The absolute path of servers.toml: two configurations may share a state folder, and are two gateways."""
    want: Want = "agent"
    agent: str = ""
    task: str | None = None
    task_token: str = ""
    """Of a started task, if it is for one."""
    client: str = ""
    """What attaches, for people who look at `status`."""

    def __repr__(self) -> str:
        return f"Hello({self.want!r}, {self.agent!r}, {self.task!r})"

    def line(self) -> bytes:
        """As it goes over the wire."""
        return dump(asdict(self)) + b"\n"


def listening_on(path: Path) -> socket.socket:
    """A bound unix socket that only we can connect to; one that is left over there is replaced."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(128)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
