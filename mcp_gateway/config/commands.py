"""Which program a command means: looked up as the child would see it, then beside the running Python.

The second place is what makes `mcp-server-time` work when it is installed in the gateway's own virtual environment
and nobody activated that.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path


def resolve(command: str, env_path: str | None, cwd: Path | None) -> str | None:
    """The absolute path of the program, or None where there is no executable file of that name.

    `env_path` is the PATH the child will get. A command with a slash is relative to `cwd`. Entries of PATH that are
    empty or relative are ignored: which program runs must not depend on where the gateway was started.
    """
    if not command:
        return None
    if os.path.dirname(command):  # noqa: PTH120  a Path would lose the leading `./`
        return shutil.which(str((cwd or Path()).absolute() / command))
    places = [place for place in (env_path or "").split(os.pathsep) if Path(place).is_absolute()]
    return shutil.which(command, path=os.pathsep.join([*places, str(Path(sys.executable).parent)]))
