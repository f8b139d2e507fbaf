"""Logs: one event per line on stderr, as text or as JSON, each with the id of the request it belongs to.

Never stdout: under `mcp-gateway stdio` that is the agent's wire. Whoever logs never waits: a pipe that nobody reads
must not stop the gateway, so lines it does not take are dropped and counted. Secrets are not to be logged in the first
place; what follows `Bearer` or `Basic` is masked here as the last wall.
"""

from __future__ import annotations

import atexit
import logging
import re
import sys
import threading
from collections import deque
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any, Final, TextIO

import orjson

LOGGER: Final = "mcp_gateway"

MAX_UNWRITTEN: Final = 10_000
"""Lines that wait for a stream to be read."""
FLUSH_S: Final = 1.0

# RFC 6750 and RFC 7617: the credential follows the scheme's name.
_SECRET: Final = re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{6,}", re.IGNORECASE)
_NEEDS_QUOTES: Final = re.compile(r"[\s\"'=]|^$")


class RequestLog(logging.LoggerAdapter[logging.Logger]):
    """A logger whose every line carries the same fields; a call adds its own with `extra={"name": value}`."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        fields = {**(self.extra or {}), **(kwargs.pop("extra", None) or {})}
        return msg, {**kwargs, "extra": {"fields": fields}}


def request_log(request_id: str, **fields: object) -> RequestLog:
    """The log of one request."""
    return RequestLog(logging.getLogger(LOGGER), {"request_id": request_id, **fields})


def setup_logging(level: str = "info", *, json: bool = False, stream: TextIO | None = None) -> None:
    """Send what is logged under `mcp_gateway` to `stream` (None: stderr) and nowhere else; may be called again.

    Raises `ValueError` for a level that `logging` does not know.
    """
    logger = logging.getLogger(LOGGER)
    logger.setLevel(level.upper())
    handler = logging.StreamHandler(stream) if stream is not None else _Unhurried(sys.stderr)
    handler.setFormatter(_JsonLines() if json else _TextLines())
    logger.handlers = [handler]
    logger.propagate = False


class _Unhurried(logging.Handler):
    """Writes lines on a thread that lives as long as there are some; whoever logs does not wait for the stream."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: deque[str] = deque()
        self._dropped = 0
        self._guard = threading.Lock()
        self._writer: threading.Thread | None = None
        atexit.register(self.flush)

    def emit(self, record: logging.LogRecord) -> None:
        """Take one event; see `logging.Handler`."""
        line = self.format(record)
        with self._guard:
            if len(self._lines) >= MAX_UNWRITTEN:
                self._dropped += 1
                return
            self._lines.append(line)
            if self._writer is None:
                self._writer = threading.Thread(target=self._write, name="log", daemon=True)
                self._writer.start()

    def flush(self) -> None:
        """Wait a moment for what is unwritten."""
        writer = self._writer
        if writer is not None:
            writer.join(FLUSH_S)

    def _write(self) -> None:
        while lines := self._taken():
            with suppress(OSError, ValueError):  # nobody is there to be told
                self._stream.write("\n".join([*lines, ""]))
                self._stream.flush()

    def _taken(self) -> list[str]:
        with self._guard:
            lines = list(self._lines)
            self._lines.clear()
            if lines and self._dropped:
                lines.append(f"{self._dropped} lines of the log were dropped: nobody read them")
                self._dropped = 0
            if not lines:
                self._writer = None
            return lines


class _TextLines(logging.Formatter):
    """`2026-01-31T12:00:00+0000 INFO denied request_id=r-1`: for eyes; a traceback follows on lines of its own."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s", "%Y-%m-%dT%H:%M:%S%z")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  the name is logging's
        message = record.message if record.message.isprintable() else repr(record.message)
        fields = [f"{name}={_quoted(str(value))}" for name, value in _fields(record).items()]
        return " ".join([super().formatMessage(record), message, *fields])

    def format(self, record: logging.LogRecord) -> str:
        return _masked(super().format(record))


class _JsonLines(logging.Formatter):
    """One JSON object per event: for machines. The event's own members win over fields of the same name."""

    def format(self, record: logging.LogRecord) -> str:
        event = {"time": record.created, "level": record.levelname.lower(), "message": record.getMessage()}
        if record.exc_info:
            event["traceback"] = self.formatException(record.exc_info)
        return _masked(orjson.dumps({**_fields(record), **event}, default=str).decode())


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return getattr(record, "fields", {})


def _quoted(value: str) -> str:
    """A value as it stands, or quoted where it could be taken for more than one field or line."""
    return value if value.isprintable() and not _NEEDS_QUOTES.search(value) else repr(value)


def _masked(line: str) -> str:
    return _SECRET.sub(r"\1 ***", line)
