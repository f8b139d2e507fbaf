"""MCP's revisions, and the reserved words of `_meta` and extensions that both of our edges write.

"Legacy" is every revision with a handshake, "modern" 2026-07-28 and later. Tests hold these against the SDK's.
"""

from __future__ import annotations

from typing import Final

MODERN_VERSIONS: Final = ("2026-07-28",)
LEGACY_VERSIONS: Final = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
"""Newest first; the first one is offered to an agent that asks for a version we do not speak (lifecycle)."""

META_VERSION: Final = "io.modelcontextprotocol/protocolVersion"
META_CAPABILITIES: Final = "io.modelcontextprotocol/clientCapabilities"
META_CLIENT: Final = "io.modelcontextprotocol/clientInfo"
META_SERVER: Final = "io.modelcontextprotocol/serverInfo"
META_LOG_LEVEL: Final = "io.modelcontextprotocol/logLevel"
META_SUBSCRIPTION: Final = "io.modelcontextprotocol/subscriptionId"

UI: Final = "io.modelcontextprotocol/ui"
WIRE_TASKS: Final = "io.modelcontextprotocol/tasks"
