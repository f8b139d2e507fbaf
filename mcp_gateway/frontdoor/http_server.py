"""The listening socket: uvicorn with our limits, and a shutdown that ends streams instead of waiting for them."""

from __future__ import annotations

import asyncio
import gc
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any, Final

import uvicorn
from anyio import CancelScope
from starlette.types import ASGIApp

from mcp_gateway.errors import Complaint, ConfigInvalid
from mcp_gateway.frontdoor.doorstep import MAX_TARGET_BYTES
from mcp_gateway.frontdoor.exchange import DRAIN_S, Closers
from mcp_gateway.frontdoor.http_connection import BoundedConnection

GC_THRESHOLDS: Final = (10_000, 20, 20)
"""Python's own 700 new containers are two requests of ours."""

BACKLOG: Final = 2048
KEEP_ALIVE_S: Final = 75
MAX_CONNECTIONS: Final = 5_000
"""Connections at once. Beyond it idle connections are closed; where none is idle, the answer is 503."""
OTHER_DESCRIPTORS: Final = 2_048
"""What upstreams, the audit and the key store may need, when agents have opened all the connections they may."""


Take = Callable[[socket.socket, bytes], None]
"""Serves a connection that was accepted elsewhere, and what was read from it there."""


def listening_socket(host: str, port: int) -> socket.socket:
    """A bound socket. Raises `ConfigInvalid` where the address cannot be had; port 0 takes a free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as e:
        listener.close()
        fix = "stop what listens there, or choose another [gateway] listen or --listen"
        at = f"{host}:{port}"
        raise ConfigInvalid([Complaint("servers.toml", 0, f"cannot listen on {at}: {e.strerror}", fix)]) from e
    listener.setblocking(False)
    return listener


async def serve_http(
    door: ASGIApp,
    listener: socket.socket | None,
    closers: Closers,
    max_header_bytes: int,
    *,
    hears_signals: bool = True,
    taking: Callable[[Take], None] | None = None,
) -> None:
    """Serve until SIGTERM, SIGINT or cancellation: then streams end at once and calls under way get `DRAIN_S`.

    A process has one server that hears signals; others end when they are cancelled. `taking` is told how connections
    are handed in that another process has accepted.
    """
    server = (Server if hears_signals else SideServer)(door, closers, max_header_bytes)
    serving = asyncio.ensure_future(server.serve(sockets=[] if listener is None else [listener]))
    if taking is not None:
        taking(server.take)
    try:
        await asyncio.shield(serving)
    finally:
        server.should_exit = True
        with CancelScope(shield=True):
            await serving


def spare_the_collector() -> None:
    """Keep Python's collector from walking, again and again, what the start has made and what stays to the end.

    For the start of a serving process, once. Cycles are rare here, so they may wait for more company.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


class Server(uvicorn.Server):
    """uvicorn with our limits and our way to stop."""

    def __init__(self, door: ASGIApp, closers: Closers, max_header_bytes: int) -> None:
        config = uvicorn.Config(
            _application(door),
            http=_connection_with(max_header_bytes),
            lifespan="off",
            log_config=None,
            log_level="error",  # not one line for each malformed request that somebody sends
            access_log=False,
            server_header=False,
            proxy_headers=False,  # forwarded-for lines of whoever connects prove nothing
            ws="none",
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=DRAIN_S,
            limit_concurrency=most_connections(),
        )
        super().__init__(config)
        self._closers = closers
        self._taking: set[asyncio.Task[None]] = set()

    def take(self, connection: socket.socket, sent: bytes = b"") -> None:
        """Serve a connection that was accepted elsewhere, beginning with what was read from it there."""
        taking = asyncio.get_running_loop().create_task(self._take(connection, sent))
        self._taking.add(taking)
        taking.add_done_callback(self._taking.discard)

    async def _take(self, connection: socket.socket, sent: bytes) -> None:
        if self.should_exit:
            connection.close()
            return
        if not self.config.loaded:
            self.config.load()
        made_by: Any = self.config.http_protocol_class
        make = partial(made_by, self.config, self.server_state, {}, sent=sent)
        connection.setblocking(False)
        await asyncio.get_running_loop().connect_accepted_socket(make, connection)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop; at a second Ctrl-C without waiting. uvicorn's own would raise the signal again once it has stopped,
        and so end the process before upstreams and audit are closed."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, end streams, let calls under way finish."""
        self._closers.close_streams()
        await super().shutdown(sockets)


class SideServer(Server):
    """A server that leaves signals to another one in the same process."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def most_connections() -> int:
    """How many connections this process can bear: descriptors that agents use up, nobody else has.

    Raises the soft limit, which is 1024 on most systems, as far as the hard one allows.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + OTHER_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):  # macOS has a lower limit than the one it tells
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard < 0 else min(wanted, hard), hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if soft < 0 else min(MAX_CONNECTIONS, soft - min(OTHER_DESCRIPTORS, soft // 2))


def _connection_with(max_header_bytes: int) -> type[BoundedConnection]:
    return type("Connection", (BoundedConnection,), {"max_header_bytes": max_header_bytes + MAX_TARGET_BYTES})


def _application(door: ASGIApp) -> Any:
    return door
