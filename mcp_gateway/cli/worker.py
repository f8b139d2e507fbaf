"""One of several workers: the connections it is given, those it passes on, and the other workers it talks to."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Self

from mcp_gateway.cli.lifeline import FRESH, HANDED, PEER, READY, Lifeline, close_all, read_back, refuse, written_down
from mcp_gateway.frontdoor.http_server import Take
from mcp_gateway.frontdoor.siblings import Siblings


@dataclass(frozen=True, slots=True)
class Worker:
    """Which of the workers a process is, and what it has inherited."""

    number: int
    """From 1; the first has what there may be only one of."""
    count: int
    lifeline: int
    """The descriptor of its end of a `Lifeline`."""
    url: str
    """Where agents connect to."""
    is_again: bool = False
    """Whether there was one of this number before, that died."""

    @property
    def is_first(self) -> bool:
        return self.number == 1

    def word(self) -> str:
        """As the command line carries it."""
        return f"{self.number}/{self.count}/{self.lifeline}/{self.is_again:d}/{self.url}"

    @classmethod
    def of(cls, word: str) -> Self:
        """Raises `ValueError` for what nobody but the starting process would say."""
        number, count, lifeline, is_again, url = word.split("/", 4)
        return cls(int(number), int(count), int(lifeline), url, is_again == "1")


class AtWork:
    """A worker while it works."""

    def __init__(self, worker: Worker) -> None:
        self.siblings = Siblings(worker.number, worker.count, self._pass_on)
        self._lifeline = Lifeline(socket.socket(fileno=worker.lifeline), self._hear)
        self._take: Take | None = None
        self._meet: Callable[[socket.socket], Awaitable[None]] | None = None
        self._meeting: set[asyncio.Task[None]] = set()

    def begin(self, take: Take, meet: Callable[[socket.socket], Awaitable[None]]) -> None:
        """Say that requests are served: `take` gets connections, `meet` sockets that lead to other workers."""
        self._take, self._meet = take, meet
        self._lifeline.say(READY)

    async def until_alone(self) -> None:
        """Return when the process that started this one is gone."""
        await self._lifeline.is_cut.wait()

    def close(self) -> None:
        """Hear and say nothing more."""
        self._lifeline.close()

    def _pass_on(self, number: int, connection: int, sent: bytes) -> None:
        """Give a connection to another worker; if nobody can take it, its agent is told to come again."""
        file = written_down(sent)
        try:
            if not self._lifeline.say(bytes([number]), [connection, file]):
                refuse(connection)
        finally:
            os.close(file)

    def _hear(self, message: bytes, descriptors: list[int]) -> None:
        take, meet = self._take, self._meet
        if take is None or meet is None:  # it comes to nobody who has not said to be ready
            close_all(descriptors)
        elif message == FRESH:
            take(socket.socket(fileno=descriptors[0]), b"")
        elif message == HANDED:
            take(socket.socket(fileno=descriptors[0]), read_back(descriptors[1]))
        elif message == PEER:
            meeting = asyncio.get_running_loop().create_task(_met(meet, socket.socket(fileno=descriptors[0])))
            self._meeting.add(meeting)
            meeting.add_done_callback(self._meeting.discard)


async def _met(meet: Callable[[socket.socket], Awaitable[None]], end: socket.socket) -> None:
    await meet(end)
