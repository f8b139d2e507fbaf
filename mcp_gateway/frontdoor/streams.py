"""The standard streams as an agent's wire: bytes in on stdin, bytes out on stdout, nothing else on it.

While they are, file descriptor 1 points at stderr, so that nothing but messages can reach the agent. Knows nothing of
messages, and is small: `mcp-gateway stdio` is mostly a pipe to a gateway that runs already.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Protocol

_CHUNK: Final = 64 * 1024


class Source(Protocol):
    """Where an agent's lines come from."""

    async def read(self, n: int, /) -> bytes:
        """At most `n` bytes; none at the end."""
        ...


class Sink(Protocol):
    """Where lines for an agent go."""

    def write(self, data: bytes, /) -> None: ...

    async def drain(self) -> None:
        """Wait until more may be written. Raises `ConnectionError` once nobody will ever read it."""
        ...


class _FileReader:
    """A regular file or /dev/null: the event loop cannot wait for those, and they never keep anybody waiting."""

    async def read(self, n: int, /) -> bytes:
        return os.read(0, n)


class _FileWriter:
    def __init__(self, fd: int) -> None:
        self._file = os.fdopen(fd, "wb", buffering=0, closefd=False)

    def write(self, data: bytes, /) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]

    async def drain(self) -> None:
        return


@asynccontextmanager
async def standard_streams() -> AsyncIterator[tuple[Source, Sink]]:
    """stdin and a private copy of stdout; file descriptor 1 is stderr meanwhile."""
    wire = os.dup(1)
    os.dup2(2, 1)
    try:
        async with _reading() as source, _writing_to(wire) as sink:
            yield source, sink
    finally:
        os.dup2(wire, 1)
        os.close(wire)


@asynccontextmanager
async def _reading() -> AsyncIterator[Source]:
    if not _can_be_waited_for(0):
        yield _FileReader()
        return
    was_blocking = os.get_blocking(0)  # whoever started us may share the terminal with us
    reader = asyncio.StreamReader(limit=_CHUNK)
    pipe = os.fdopen(os.dup(0), "rb", buffering=0)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    try:
        yield reader
    finally:
        transport.close()
        os.set_blocking(0, was_blocking)


@asynccontextmanager
async def _writing_to(wire: int) -> AsyncIterator[Sink]:
    if not _can_be_waited_for(wire):
        yield _FileWriter(wire)
        return
    was_blocking = os.get_blocking(wire)
    pipe = os.fdopen(os.dup(wire), "wb", buffering=0)
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, pipe)
    transport.set_write_buffer_limits(0)  # what was drained has left the process
    try:
        yield asyncio.StreamWriter(transport, protocol, None, loop)
    finally:
        transport.abort()
        os.set_blocking(wire, was_blocking)


def _can_be_waited_for(fd: int) -> bool:
    mode = os.fstat(fd).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(fd)
