"""What ties a worker to the process that started it: connections and pieces of news, passed as descriptors.

One byte a message, each with the descriptors that belong to it, over a pair of sockets that nobody else can reach.
Whichever end goes away, the other one learns of it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

READY: Final = b"\0"
"""From a worker: it serves. Any other byte is the number of the worker that is to have what comes with it."""

FRESH: Final = b"c"
"""To a worker: a connection that nothing was read from."""
HANDED: Final = b"h"
"""A connection, and a file with what was read from it by another worker: the request on it is yours to answer."""
PEER: Final = b"p"
"""A socket that leads to another worker."""

MAX_FDS: Final = 2


class Lifeline:
    """One end, whichever it is; `heard` is called with each message and its descriptors, which are then its own."""

    def __init__(self, end: socket.socket, heard: Callable[[bytes, list[int]], None]) -> None:
        self.is_cut = asyncio.Event()
        self._end = end
        self._end.setblocking(False)
        self._heard = heard
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(end, self._read)

    def say(self, message: bytes, descriptors: Sequence[int] = ()) -> bool:
        """Send a message, and copies of descriptors; False where the other end is gone or does not read."""
        try:
            return not self.is_cut.is_set() and socket.send_fds(self._end, [message], descriptors) == 1
        except OSError:
            return False

    def close(self) -> None:
        """Nothing is heard any more."""
        if not self.is_cut.is_set():
            self.is_cut.set()
            self._loop.remove_reader(self._end)
            self._end.close()

    def _read(self) -> None:
        while not self.is_cut.is_set():
            try:
                message, descriptors, _, _ = socket.recv_fds(self._end, 1, MAX_FDS)
            except BlockingIOError:
                return
            except OSError:
                message, descriptors = b"", []
            if message:
                self._heard(message, descriptors)
            else:
                self.close()


def written_down(request: bytes) -> int:
    """A file without a name that holds `request`; its descriptor."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("request")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    with open(descriptor, "wb", closefd=False) as file:
        file.write(request)
    return descriptor


def read_back(descriptor: int) -> bytes:
    """What such a file holds; closes it."""
    with open(descriptor, "rb") as file:
        file.seek(0)
        return file.read()


def close_all(descriptors: Sequence[int]) -> None:
    """Let go of what came with a message that means nothing."""
    for descriptor in descriptors:
        with suppress(OSError):
            os.close(descriptor)
