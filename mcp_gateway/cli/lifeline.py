"""What ties a worker to the process that started it: connections and pieces of news, passed as descriptors.

One byte a message, each with the descriptors that belong to it, over a pair of sockets that nobody else can reach. Such
a pair holds some 280 of them; an end that is busy for a moment finds the others when it has read those. Whichever end
goes away, the other one learns of it.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import tempfile
from collections import deque
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

MAX_UNSENT: Final = 200
"""Messages that wait because the other end does not read. Their descriptors are well below the 1024 that a process may
have by default."""

READ_AT_ONCE: Final = 32
"""Messages between two looks at everything else: connections that have ended make room for others."""

RETRY_S: Final = 0.01
"""How soon to try again. Not when the socket takes more: some refusals it does not tell beforehand (ETOOMANYREFS, see
unix(7))."""

_GONE: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\nconnection: close\r\n"
    b'content-length: 41\r\n\r\n{"error":"starting again, try once more"}\n'
)

_TAKES_NONE_NOW: Final = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS})

_log: Final = logging.getLogger(__name__)


class Lifeline:
    """One end, whichever it is; `heard` is called with each message and its descriptors, which are then its own."""

    def __init__(self, end: socket.socket, heard: Callable[[bytes, list[int]], None]) -> None:
        self.is_cut = asyncio.Event()
        self._end = end
        self._end.setblocking(False)
        self._heard = heard
        self._is_gone = False
        self._unsent: deque[tuple[bytes, list[int]]] = deque()
        self._loop = asyncio.get_running_loop()
        self._listen()

    def offer(self, message: bytes, descriptors: Sequence[int] = ()) -> bool:
        """Send a message, and copies of descriptors, if the other end takes it now."""
        return not self._unsent and self._is_sent(message, descriptors)

    def say(self, message: bytes, descriptors: Sequence[int] = ()) -> bool:
        """Send a message, and copies of descriptors, as soon as the other end takes it; False where it is gone, or so
        much waits for it that it will not come back."""
        if self.offer(message, descriptors):
            return True
        if self._is_gone or len(self._unsent) >= MAX_UNSENT:
            return False
        try:
            copies = _copies(descriptors)
        except OSError:  # there are none to be had
            return False
        if not self._unsent:
            self._loop.call_later(RETRY_S, self._send)
        self._unsent.append((message, copies))
        return True

    def close(self) -> None:
        """Nothing is heard any more, or said."""
        if not self.is_cut.is_set():
            self.is_cut.set()
            self._is_gone = True
            self._loop.remove_reader(self._end)
            self._end.close()
        while self._unsent:
            close_all(self._unsent.popleft()[1])

    def _send(self) -> None:
        while self._unsent and self._is_sent(*self._unsent[0]):
            close_all(self._unsent.popleft()[1])
        if self._unsent and not self._is_gone:
            self._loop.call_later(RETRY_S, self._send)

    def _is_sent(self, message: bytes, descriptors: Sequence[int]) -> bool:
        if self._is_gone:
            return False
        try:
            return socket.send_fds(self._end, [message], descriptors) == 1
        except OSError as e:
            self._is_gone = e.errno not in _TAKES_NONE_NOW
            return False

    def _listen(self) -> None:
        if not self.is_cut.is_set():
            self._loop.add_reader(self._end, self._read)

    def _read(self) -> None:
        for _ in range(READ_AT_ONCE):
            if self.is_cut.is_set():
                return
            if not _has_room(self._end.fileno()):  # what comes stays where it is
                self._loop.remove_reader(self._end)
                self._loop.call_later(RETRY_S, self._listen)
                return
            try:
                message, descriptors, flags, _ = socket.recv_fds(self._end, 1, MAX_FDS)
            except BlockingIOError:
                return
            except OSError:
                message, descriptors, flags = b"", [], 0
            if not message:
                self.close()
            elif flags & socket.MSG_CTRUNC:
                close_all(descriptors)  # somebody else took the room
                _log.error("a connection was lost: this process has all descriptors that it may have (ulimit -n)")
            else:
                self._heard(message, descriptors)


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


def _copies(descriptors: Sequence[int]) -> list[int]:
    """Descriptors of our own for what waits. Raises `OSError`."""
    copies: list[int] = []
    try:
        for descriptor in descriptors:
            copies.append(os.dup(descriptor))
    except OSError:
        close_all(copies)
        raise
    return copies


def _has_room(descriptor: int) -> bool:
    """Whether this process may have as many more descriptors as a message brings: others would be lost (unix(7))."""
    try:
        close_all(_copies([descriptor] * MAX_FDS))
    except OSError:
        return False
    return True


def close_all(descriptors: Sequence[int]) -> None:
    """Let go of what came with a message that means nothing."""
    for descriptor in descriptors:
        with suppress(OSError):
            os.close(descriptor)


def refuse(connection: int) -> None:
    """Answer a request whose worker is not there: it will be, in a moment."""
    with suppress(OSError):
        os.write(connection, _GONE)
