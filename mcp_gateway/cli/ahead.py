"""A gateway begun before the window that will need it has loaded itself: it loads meanwhile, and waits for a word.

The first window of an agent's program has to start the gateway that all windows share, and one interpreter after the
other takes twice as long as both at once. What is begun here does nothing but load until it is told to go on; it ends
when the window ends, or finds that it needs none. Only where everything is plain: whoever is in doubt begins nothing,
and the gateway is started later, as it would have been. Ten windows that open at once begin one: they ask for the lock
that whoever starts a gateway holds.

Loaded first of all, so it loads nothing itself but a little of the standard library.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

if sys.platform != "win32":
    import fcntl

STATE: Final = ".mcp-gateway"
RUNNING_LOCK: Final = "gateway.lock"
STARTING_LOCK: Final = "starting.lock"

WHEN_TOLD: Final = "--when-told"
BACKGROUND: Final = ("serve", "--no-http", WHEN_TOLD, "--config")
"""The words of a gateway that waits for a line of JSON on its stdin; `config` follows."""

TOKEN_VARIABLE: Final = "MCP_GATEWAY_TASK_TOKEN"  # noqa: S105 - where it is, not what it is
"""What a window is told in this variable is for no other process."""

_ELSE: Final = ("--alone", "--help")


class Ahead:
    """A gateway that has begun to load, and the lock under which it was begun."""

    def __init__(self, config: Path, state: Path, lock: int) -> None:
        self.config, self.state = config, state
        self._lock = lock
        self._process: subprocess.Popen[bytes] | None = launched(config)

    def is_of(self, config: Path, state: Path) -> bool:
        """Whether it was begun for this servers.toml and this state folder, and is still to be had."""
        return self._process is not None and (self.config, self.state) == (config.absolute(), state.absolute())

    def take(self) -> subprocess.Popen[bytes]:
        """The process, to be told; the lock stays held."""
        assert self._process is not None  # noqa: S101  `is_of` is asked first
        process, self._process = self._process, None
        return process

    def drop(self) -> None:
        """Let go of the lock, and end what was begun and not taken."""
        if self._process is not None:  # it has done nothing yet
            self._process.kill()
            self._process.communicate()
            self._process = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def launched(config: Path) -> subprocess.Popen[bytes]:
    """A gateway in the background that loads and waits, in a session of its own: closing a window does not end it."""
    detached: dict[str, Any] = (
        {"creationflags": 0x00000208} if sys.platform == "win32" else {"start_new_session": True}
    )  # DETACHED_PROCESS | CREATE_NEW_PROCESS_GROUP
    words = [sys.executable, "-m", "mcp_gateway", *BACKGROUND, str(config)]
    environ = {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE}
    return subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,  # it opens its log when it is told to go on
        stderr=subprocess.DEVNULL,
        cwd=config.parent,
        env=environ,
        close_fds=True,
        **detached,
    )


def begun_ahead(words: Sequence[str], environ: Mapping[str, str]) -> Ahead | None:
    """A gateway for `stdio` with these words; None where one runs, somebody starts one, or anything is not plain."""
    if sys.platform == "win32" or environ.get("MCP_GATEWAY_ALONE") or any(word in _ELSE for word in words):
        return None
    config = _config(words, environ).absolute()
    state = config.parent / STATE
    if not _is_plain(config, state):
        return None
    lock = _locked(state / STARTING_LOCK, os.O_CREAT)
    if lock is None:
        return None
    running = _locked(state / RUNNING_LOCK, 0) if (state / RUNNING_LOCK).exists() else -1
    if running is None:
        os.close(lock)
        return None
    if running >= 0:
        os.close(running)
    return Ahead(config, state, lock)


def _config(words: Sequence[str], environ: Mapping[str, str]) -> Path:
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word in ("--config", "-c"):
            return Path(following)
        if word.startswith("--config="):
            return Path(word.removeprefix("--config="))
    return Path(environ.get("MCP_GATEWAY_CONFIG") or "servers.toml")


def _is_plain(config: Path, state: Path) -> bool:
    """Whether a gateway of that servers.toml is shared and keeps its state where it usually does, in our own folder."""
    try:
        settings = tomllib.loads(config.read_text(encoding="utf-8-sig")).get("gateway", {})
        found = state.stat()
    except (OSError, ValueError):
        return False
    is_ours = found.st_uid == os.geteuid() and not found.st_mode & 0o077
    return is_ours and isinstance(settings, dict) and "state" not in settings and settings.get("shared") != "off"


def _locked(path: Path, flags: int) -> int | None:
    """A descriptor that holds the lock; None where somebody else does."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock
