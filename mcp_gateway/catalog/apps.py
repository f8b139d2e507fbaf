"""Pages that tools name (MCP Apps): `ui://` resources, which their upstream need not list anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

SCHEME: Final = "ui://"

MAX_URI_CHARS: Final = 4096

OLD_KEY: Final = "ui/resourceUri"
"""Where the URI stood before it moved to `_meta.ui.resourceUri`; hosts still read both (ext-apps 2026-01-26)."""


def page_of(tool: Mapping[str, Any]) -> str:
    """The URI of the page that shows a tool's results; empty where it has none.

    >>> page_of({"name": "chart", "_meta": {"ui": {"resourceUri": "ui://charts/bar.html"}}})
    'ui://charts/bar.html'
    >>> page_of({"name": "chart", "_meta": {"ui": {"resourceUri": "file:///etc/passwd"}}})
    ''
    """
    meta = tool.get("_meta")
    if not isinstance(meta, Mapping):
        return ""
    ui = meta.get("ui")
    uri = (ui.get("resourceUri") if isinstance(ui, Mapping) else None) or meta.get(OLD_KEY)
    is_page = isinstance(uri, str) and uri.startswith(SCHEME) and len(uri) <= MAX_URI_CHARS
    return str(uri) if is_page else ""
