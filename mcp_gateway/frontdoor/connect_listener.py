"""The login pages where there is no HTTP door: on a port of this machine, opened when the first person needs them."""

from __future__ import annotations

import asyncio
import socket
from contextlib import nullcontext, suppress
from importlib import import_module
from typing import Any, Final

from starlette.types import Receive, Scope, Send

from mcp_gateway.frontdoor.connect import ConnectPages
from mcp_gateway.frontdoor.doorstep import Doorstep
from mcp_gateway.frontdoor.exchange import send_json
from mcp_gateway.jsonrpc import dump

HOST: Final = "127.0.0.1"
STOP_S: Final = 2


class ConnectListener:
    """Serves `ConnectPages` on loopback from the first `base_url` on."""

    def __init__(self, pages: ConnectPages, port: int = 0) -> None:
        """`port`: preferred; where it is taken, any other one. 0: any."""
        self._pages = pages
        self._port = port
        self._doorstep = Doorstep(loopback=True, max_body_bytes=4096)
        self._lock = asyncio.Lock()
        self._url = ""
        self._server: Any = None
        self._serving: asyncio.Task[None] | None = None

    async def base_url(self) -> str:
        """Where the pages are; they are served by then."""
        async with self._lock:
            if not self._url:
                await self._start()
        return self._url

    async def close(self) -> None:
        """Stop serving."""
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await self._serving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection; anything but HTTP is refused."""
        if scope["type"] != "http":
            return
        refusal = self._doorstep.check(scope)
        if refusal is not None:
            await send_json(send, refusal.status, dump({"error": refusal.text}), refusal.headers)
            return
        await self._pages.serve(scope, receive, send, self._doorstep)

    async def _start(self) -> None:
        listener = _bound(self._port)
        uvicorn = import_module("uvicorn")  # a gateway without an HTTP door needs it here or not at all
        config = uvicorn.Config(
            self,
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            timeout_graceful_shutdown=STOP_S,
            limit_concurrency=100,
        )
        self._server = uvicorn.Server(config)
        self._server.capture_signals = nullcontext  # the process's signals are not its own
        self._serving = asyncio.get_running_loop().create_task(self._server.serve(sockets=[listener]))
        self._url = f"http://{HOST}:{listener.getsockname()[1]}"


def _bound(port: int) -> socket.socket:
    """A listening socket on this machine, on `port` if that is free."""
    for wanted in (port, 0) if port else (0,):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        with suppress(OSError):
            listener.bind((HOST, wanted))
            listener.listen(100)
            listener.setblocking(False)
            return listener
        listener.close()
    raise LookupError("no port of this machine can be listened on")
