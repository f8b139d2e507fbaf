"""How this very program is started again, by somebody else and from anywhere."""

from __future__ import annotations

import json
import shutil
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

from mcp_gateway import __version__

NAME: Final = "mcp-gateway"
_CACHES: Final = frozenset({"archive-v0", "builds-v0", "environments-v2"})
"""Folders of uv's cache: what uvx started lies there, and is gone when the cache is cleaned."""


def program_words(called: str = "", executable: str = "") -> list[str]:
    """The words before the command's name: an absolute program, or uvx where that is what started this one."""
    path = Path(called or sys.argv[0])
    if _CACHES & set(path.absolute().parts):
        return [shutil.which("uvx") or "uvx", "--from", _source(), NAME]
    if path.stem != NAME:
        return [executable or sys.executable, "-m", "mcp_gateway"]
    return [str(path.absolute()) if path.exists() else shutil.which(path.name) or str(path.absolute())]


def _source() -> str:
    """What uvx is to run: the file or URL we were installed from, else this version."""
    try:
        told = distribution(NAME).read_text("direct_url.json")
        return str(json.loads(told)["url"]) if told else f"{NAME}=={__version__}"
    except (PackageNotFoundError, ValueError, KeyError):
        return f"{NAME}=={__version__}"
