"""One MCP server in front of many: who asks, for which task, what was decided, what came back."""

__version__ = "0.1.0"
