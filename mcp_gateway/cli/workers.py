"""`mcp-gateway serve --workers`: several processes that share the port, started, watched and started again.

This process serves nobody. It binds the port and gives each connection to the worker whose turn it is; a worker passes
one back whose request is another worker's to answer. A worker that dies is started again, after a wait that grows while
it keeps dying, and the others go on meanwhile. Workers end when this process does, however that ends.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import subprocess
import time
from collections import deque
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import anyio

from mcp_gateway.cli.lifeline import FRESH, HANDED, PEER, READY, RETRY_S, Lifeline, close_all, refuse
from mcp_gateway.cli.worker import Worker
from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.frontdoor.exchange import DRAIN_S
from mcp_gateway.storage.workers import Standing, forget_standings, write_standings
from mcp_gateway.upstreams.backoff import Backoff

MAX_WORKERS: Final = 64
"""Far beyond where the one audit chain they share is the limit."""

FIRST_WAIT_S: Final = 0.5
MOST_WAIT_S: Final = 30.0
LONG_ENOUGH_S: Final = 30.0
"""A worker that lived for so long starts again with the first wait."""

STOP_S: Final = 2 * DRAIN_S + 5
"""How long workers may take to finish: the first waits for the others before its upstreams end."""

ACCEPTED_AT_ONCE: Final = 64
"""Connections between two looks at everything else."""

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

_log: Final = logging.getLogger(__name__)


class Crew:
    """The workers of one gateway."""

    def __init__(self, command: list[str], listener: socket.socket, url: str, state: Path, count: int) -> None:
        """`command`: what starts a worker, up to the word that says which one it is."""
        self._command = command
        self._listener = listener
        self._url = url
        self._state = state
        self._standings = {number: Standing(number) for number in range(1, count + 1)}
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._lifelines: dict[int, Lifeline] = {}
        self._turns: deque[int] = deque()
        """The workers that serve, the next one's turn first."""
        self._held: socket.socket | None = None
        """A connection that no worker took yet."""
        self._stopping = anyio.Event()
        self._failure = 0

    async def work(self) -> int:
        """Keep the workers working until a signal says otherwise; the exit status of one that could not even start."""
        loop = asyncio.get_running_loop()
        for sig in _SIGNALS:
            loop.add_signal_handler(sig, self._stopping.set)
        try:
            async with anyio.create_task_group() as tasks:
                is_up = anyio.Event()
                tasks.start_soon(self._keep, 1, is_up)
                await is_up.wait()  # what is made at the first start is made once, and what is wrong is said once
                for number in list(self._standings)[1:]:
                    tasks.start_soon(self._keep, number, anyio.Event())
                loop.add_reader(self._listener, self._accept)
                await self._stopping.wait()
                loop.remove_reader(self._listener)
                self._listener.close()
                await self._end()
        finally:
            for process in self._processes.values():
                process.kill()
            if self._held is not None:
                self._held.close()
            forget_standings(self._state)
        return self._failure

    # -- connections ---------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        """Give each connection to the worker whose turn it is."""
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                connection, _ = self._listener.accept()
            except OSError:  # nobody is left who wants one, or there is no descriptor for it
                return
            if connection.family in (socket.AF_INET, socket.AF_INET6):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if not self._is_given(connection):
                self._held = connection
                asyncio.get_running_loop().remove_reader(self._listener)
                self._try_later()
                return

    def _is_given(self, connection: socket.socket) -> bool:
        """Pass a connection to the worker whose turn it is; one that takes none now is passed over."""
        for _ in range(len(self._turns)):
            self._turns.rotate(-1)
            if self._lifelines[self._turns[-1]].offer(FRESH, [connection.fileno()]):
                connection.close()
                return True
        return False

    def _try_later(self) -> None:
        """No worker takes a connection: those that come meanwhile wait where they arrive, in the listener's queue."""
        asyncio.get_running_loop().call_later(RETRY_S, self._try_again)

    def _try_again(self) -> None:
        if self._held is None or self._stopping.is_set():
            return
        if self._is_given(self._held):
            self._held = None
            asyncio.get_running_loop().add_reader(self._listener, self._accept)
        else:
            self._try_later()

    def _hear(self, number: int, message: bytes, descriptors: list[int], is_up: anyio.Event) -> None:
        try:
            if message == READY:
                self._note(number, state="ready")
                self._turns.append(number)
                is_up.set()
                self._introduce(number)
            else:
                home = self._lifelines.get(message[0])
                if home is None or not home.say(HANDED, descriptors):
                    refuse(descriptors[0])
        finally:
            close_all(descriptors)

    def _introduce(self, number: int) -> None:
        """Connect a worker that serves now with the first one, which has what there may be only one of."""
        others = [other for other in self._turns if other != 1] if number == 1 else [number]
        for other in others if 1 in self._turns else ():
            for_first, for_other = socket.socketpair()
            with for_first, for_other:
                self._lifelines[1].say(PEER, [for_first.fileno()])
                self._lifelines[other].say(PEER, [for_other.fileno()])

    # -- processes -----------------------------------------------------------------------------------------------------

    async def _keep(self, number: int, is_up: anyio.Event) -> None:
        """Run one worker, again and again."""
        backoff = Backoff(FIRST_WAIT_S, MOST_WAIT_S)
        while not self._stopping.is_set():
            began = time.monotonic()
            status = await self._run(number, is_up)
            if self._stopping.is_set():
                break
            if number == 1 and not is_up.is_set():
                self._failure = status if status > 0 else 1
                self._stopping.set()
                break
            if time.monotonic() - began > LONG_ENOUGH_S:
                backoff.reset()
            wait_s = backoff.next_s()
            _log.warning("worker %d %s; it starts again in %.1f s", number, _words_for(status), wait_s)
            self._note(number, state="waiting to start again", pid=0)
            with anyio.move_on_after(wait_s):
                await self._stopping.wait()
            self._note(number, restarts=self._standings[number].restarts + 1)
        is_up.set()

    async def _run(self, number: int, is_up: anyio.Event) -> int:
        """Run one worker to its end; its exit status, negative for a signal."""
        ours, theirs = socket.socketpair()
        worker = Worker(number, len(self._standings), theirs.fileno(), self._url, self._standings[number].restarts > 0)
        with theirs:
            process = self._processes[number] = subprocess.Popen(  # noqa: ASYNC220  takes a millisecond
                [*self._command, worker.word()], pass_fds=(worker.lifeline,)
            )
        lifeline = Lifeline(ours, lambda message, fds: self._hear(number, message, fds, is_up))
        self._lifelines[number] = lifeline
        self._note(number, state="starting", pid=process.pid)
        try:
            await lifeline.is_cut.wait()
            self._lifelines.pop(number, None)
            if number in self._turns:
                self._turns.remove(number)
            return await anyio.to_thread.run_sync(process.wait)
        finally:
            lifeline.close()
            self._processes.pop(number, None)

    async def _end(self) -> None:
        """Ask every worker to stop, and end those that do not."""
        for process in self._processes.values():
            process.terminate()
        deadline = time.monotonic() + STOP_S
        while self._processes and time.monotonic() < deadline:  # noqa: ASYNC110  processes end, nothing is set
            await anyio.sleep(0.02)
        for number, process in self._processes.items():
            _log.error("worker %d did not stop within %.0f s and is ended", number, STOP_S)
            process.kill()

    def _note(self, number: int, **changed: Any) -> None:
        self._standings[number] = replace(self._standings[number], **changed)
        try:
            write_standings(self._state, self._standings.values())
        except StoreUnavailable as e:
            _log.error("%s", e)  # they work, whether or not anybody can read how


def _words_for(status: int) -> str:
    """How a process ended."""
    if status >= 0:
        return f"ended with exit status {status}"
    with suppress(ValueError):
        return f"died of {signal.Signals(-status).name}"
    return f"died of signal {-status}"
