"""Where things are on this platform: our own folders, and the files in which other programs keep their MCP servers.

Pure logic over a platform's name, an environment and a home folder, so that every platform's answers can be tested on
any of them. Nothing here looks at the disk.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Final, Literal

APP: Final = "mcp-gateway"

System = Literal["linux", "darwin", "windows"]

MAX_SOCKET_PATH: Final = 100
"""A unix socket's path has 104 bytes on macOS and 108 on Linux, the closing zero included."""


@dataclass(frozen=True, slots=True)
class Places:
    """The folders of one user on one platform."""

    system: System
    home: PurePath
    environ: Mapping[str, str]

    @property
    def config(self) -> PurePath:
        """Where programs of this user keep what the user wrote."""
        if self.system == "windows":
            return self._from("APPDATA", "AppData", "Roaming")
        if self.system == "darwin":
            return self.home / "Library" / "Application Support"
        return self._from("XDG_CONFIG_HOME", ".config")

    @property
    def dot_config(self) -> PurePath:
        """The same for programs that keep to `~/.config` on macOS too."""
        return self.config if self.system == "windows" else self._from("XDG_CONFIG_HOME", ".config")

    @property
    def our_config(self) -> PurePath:
        """The folder of a servers.toml that belongs to the user and to no project."""
        return self.config / APP

    @property
    def our_state(self) -> PurePath:
        """What we remember for this user, such as backups of files that `connect` has changed."""
        if self.system == "windows":
            return self._from("LOCALAPPDATA", "AppData", "Local") / APP
        if self.system == "darwin":
            return self.config / APP
        return self._from("XDG_STATE_HOME", ".local", "state") / APP

    @property
    def our_logs(self) -> PurePath:
        """Where the platform keeps logs of programs that nobody looks at while they run."""
        if self.system == "darwin":
            return self.home / "Library" / "Logs" / APP
        return self.our_state / ("Logs" if self.system == "windows" else "log")

    @property
    def run(self) -> PurePath:
        """A folder with a short path, for sockets whose usual place has too long a one."""
        base = self.environ.get("XDG_RUNTIME_DIR") or self.environ.get("TMPDIR") or "/tmp"  # noqa: S108  a private folder in it
        name = APP if self.environ.get("XDG_RUNTIME_DIR") else f"{APP}-{self.environ.get('USER') or 'user'}"
        return type(self.home)(base) / name

    def socket(self, state: PurePath) -> PurePath:
        """The unix socket of the gateway whose state is in `state`."""
        usual = state / "gateway.sock"
        if len(os.fsencode(str(usual))) <= MAX_SOCKET_PATH:
            return usual
        return self.run / f"{hashlib.sha256(str(state).encode()).hexdigest()[:16]}.sock"

    def _from(self, variable: str, *below_home: str) -> PurePath:
        written = self.environ.get(variable, "")
        path = type(self.home)(written)
        return path if written and path.is_absolute() else self.home.joinpath(*below_home)


def places(environ: Mapping[str, str] | None = None) -> Places:
    """Those of whoever runs this."""
    environ = os.environ if environ is None else environ
    systems: Mapping[str, System] = {"Darwin": "darwin", "Windows": "windows"}
    system: System = systems.get(platform.system(), "linux")
    home = environ.get("USERPROFILE" if system == "windows" else "HOME")
    return Places(system, Path(home) if home else Path.home(), environ)
