"""An ASGI app served by a real uvicorn in the test's own loop."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import anyio
import uvicorn
from starlette.types import ASGIApp

from fakes.ports import free_port


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serving(app: ASGIApp, port: int | None = None) -> AsyncIterator[str]:
    """The origin (`http://127.0.0.1:PORT`) under which the app answers, until the block is left."""
    port = port or free_port()
    config = uvicorn.Config(app, "127.0.0.1", port, log_level="critical", timeout_graceful_shutdown=0, ws="none")
    server = _Server(config)
    ended = anyio.Event()

    async def serve() -> None:
        await server.serve()
        ended.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        while not server.started:
            await anyio.sleep(0.005)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = server.force_exit = True
            with anyio.move_on_after(5, shield=True):
                await ended.wait()
