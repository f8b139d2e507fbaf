"""`mcp-gateway serve`: the gateway over HTTP, for many agents, and for those that `stdio` attaches."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import anyio
import typer
from anyio.abc import TaskGroup
from starlette.types import ASGIApp

from mcp_gateway import __version__
from mcp_gateway.cli.ahead import RUNNING_LOCK
from mcp_gateway.cli.background import attachable, serve_attached
from mcp_gateway.cli.introduce import Introduction, agents, how_to_connect, upstreams, url_of
from mcp_gateway.cli.loop import run_loop
from mcp_gateway.cli.output import DEFAULT_CONFIG, EXIT_UNUSABLE, AsJson, ConfigPath, LogLevel, out, print_json, warn
from mcp_gateway.cli.program import program_words
from mcp_gateway.cli.shared import locked
from mcp_gateway.cli.worker import AtWork, Worker
from mcp_gateway.cli.workers import MAX_WORKERS, Crew
from mcp_gateway.config.servers import Configuration, load
from mcp_gateway.config.settings import Settings, address
from mcp_gateway.frontdoor.exchange import Closers
from mcp_gateway.frontdoor.housekeeping import keep_house
from mcp_gateway.frontdoor.http_server import listening_socket, serve_http, spare_the_collector
from mcp_gateway.identity.keys import Keys
from mcp_gateway.reload import keep_current
from mcp_gateway.telemetry import setup_logging
from mcp_gateway.wiring import (
    Load,
    Running,
    check_shareable,
    keys_of,
    running,
    started_tasks_of,
    trusting,
    utc_now,
)

SETTLE_S: Final = 10.0
"""How long the start-up summary waits for upstreams; agents are served meanwhile."""

FOREVER: Final = "forever"

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class How:
    """In which way to serve."""

    as_json: bool = False
    worker: Worker | None = None
    """Which of several processes this is; None: the only one."""


@dataclass(frozen=True, slots=True)
class Sockets:
    """Where agents come over HTTP, and where operators' programs do, if they may."""

    agents: socket.socket | None
    """None: another process takes the connections and hands them on."""
    url: str
    admin: socket.socket | None


def serve(
    config: ConfigPath = DEFAULT_CONFIG,
    listen: Annotated[str, typer.Option(help="host:port instead of [gateway] listen; port 0 takes a free one.")] = "",
    no_http: Annotated[bool, typer.Option("--no-http", help="Open no port: only for `mcp-gateway stdio`.")] = False,
    linger: Annotated[
        str, typer.Option(help="Seconds after which to stop when nobody is attached; `forever`: not.")
    ] = FOREVER,
    workers: Annotated[int, typer.Option(min=1, max=MAX_WORKERS, help="Processes that share the port.")] = 1,
    as_worker: Annotated[str, typer.Option(hidden=True)] = "",
    as_json: AsJson = False,
    log_level: LogLevel = "warning",
) -> None:
    """Serve agents over HTTP until interrupted, and those that `mcp-gateway stdio` attaches.

    Example: `mcp-gateway serve --listen 127.0.0.1:9000`
    """
    at = address(listen) if listen else None
    if listen and at is None:
        raise typer.BadParameter(f"{listen!r} is not an address and a port, such as 127.0.0.1:8765 or [::1]:8765")
    how, linger_s = How(as_json, Worker.of(as_worker) if as_worker else None), _seconds(linger)
    setup_logging(log_level)
    path = Path(config)

    def load_again() -> Configuration:
        return load(path, os.environ, at)

    if no_http and workers == 1:
        run_loop(lambda: serve_attached(load_again, linger_s))
        return
    if workers == 1:
        run_loop(lambda: _serve(load_again, how))
        return
    _check_workers(no_http=no_http, linger_s=linger_s)
    said = ["--config", config, "--listen", listen, "--log-level", log_level, *(["--json"] if as_json else [])]
    run_loop(lambda: _supervise(load_again, [*program_words(), "serve", *said], workers))


def _check_workers(*, no_http: bool, linger_s: float | None) -> None:
    """Refuse what several processes cannot do."""
    if no_http:
        raise typer.BadParameter("--workers share a port, and --no-http opens none")
    if linger_s is not None:
        raise typer.BadParameter("--workers stay until they are told to stop: --linger is for one process")
    if not hasattr(socket, "send_fds"):
        raise typer.BadParameter("--workers hand connections to each other, which this platform cannot do")


async def _supervise(load_again: Load, words: list[str], workers: int) -> None:
    configuration = load_again()
    check_shareable(configuration)
    settings = configuration.settings
    with (
        listening_socket(settings.host, settings.port) as listener,
        locked(settings.state / RUNNING_LOCK, wait=False) as is_first,
    ):
        if not is_first:
            warn("another gateway runs on this state folder; --workers need it for themselves: mcp-gateway stop")
            raise typer.Exit(EXIT_UNUSABLE)
        status = await Crew([*words, "--as-worker"], listener, url_of(listener), settings.state, workers).work()
    if status:
        raise typer.Exit(status)


def _seconds(written: str) -> float | None:
    if written == FOREVER:
        return None
    with suppress(ValueError):
        if (seconds := float(written)) >= 0:
            return seconds
    raise typer.BadParameter(f"{written!r} is neither a number of seconds nor {FOREVER!r}")


async def _serve(load_again: Load, how: How) -> None:
    settings = load_again().settings
    # Before anything is started: a second gateway on the same port should end at once, and start no upstream.
    with _http_sockets(settings, how) as sockets, _first(settings, how.worker) as is_first:
        at_work = None if how.worker is None else AtWork(how.worker)
        async with running(load_again, None if at_work is None else at_work.siblings) as parts:
            for complaint in parts.configuration.warnings:
                warn(str(complaint))
            pid = os.getpid() if how.worker is None else os.getppid()
            async with attachable(parts, sockets.url, is_first, pid), anyio.create_task_group() as tasks:
                tasks.start_soon(keep_current, parts)
                if at_work is not None:
                    tasks.start_soon(_end_when_alone, at_work)
                await _over_http(parts, sockets, how, tasks, at_work)
                tasks.cancel_scope.cancel()


async def _over_http(parts: Running, sockets: Sockets, how: How, tasks: TaskGroup, at_work: AtWork | None) -> None:
    settings, started = parts.configuration.settings, started_tasks_of(parts.configuration)
    keys, origin = keys_of(parts.configuration), sockets.url.removesuffix("/mcp")
    parts.serve_pages_at(origin)
    async with trusting(parts, keys, started, origin) as trust:
        door, legacy = parts.http_door(trust)
        tasks.start_soon(keep_house, parts.closers, legacy, trust.verifier, utc_now)
        if how.worker is None or (how.worker.is_first and not how.worker.is_again):
            tasks.start_soon(_introduce, parts, keys, sockets, how.as_json)
        if sockets.admin is not None:
            tasks.start_soon(_serve_admin, parts.admin_door(started), sockets.admin, settings.max_header_bytes)
        spare_the_collector()
        taking = None if at_work is None else partial(at_work.begin, meet=parts.meet)
        await serve_http(door, sockets.agents, parts.closers, settings.max_header_bytes, taking=taking)


async def _serve_admin(door: ASGIApp, listener: socket.socket, max_header_bytes: int) -> None:
    await serve_http(door, listener, Closers(), max_header_bytes, hears_signals=False)


async def _end_when_alone(at_work: AtWork) -> None:
    await at_work.until_alone()
    _log.warning("the process that started this worker is gone")
    os.kill(os.getpid(), signal.SIGTERM)


def _first(settings: Settings, worker: Worker | None) -> AbstractContextManager[bool]:
    """Whether this is the first gateway of its state folder; of several workers, the first one is."""
    if worker is not None:  # whoever started it holds the lock
        return nullcontext(worker.is_first)
    return locked(settings.state / RUNNING_LOCK, wait=False)


@contextmanager
def _http_sockets(settings: Settings, how: How) -> Iterator[Sockets]:
    worker = how.worker
    has_admin = settings.admin is not None and (worker is None or worker.is_first)
    admin = listening_socket(*settings.admin) if has_admin and settings.admin else nullcontext()
    if worker is not None:
        with admin as operators_come_to:
            yield Sockets(None, worker.url, operators_come_to)
        return
    with listening_socket(settings.host, settings.port) as agents_come_to, admin as operators_come_to:
        yield Sockets(agents_come_to, url_of(agents_come_to), operators_come_to)


async def _introduce(parts: Running, keys: Keys, sockets: Sockets, as_json: bool) -> None:
    """Say where we listen at once; what there is and who may use it when the upstreams have come up."""
    url = sockets.url
    if as_json:
        own = {} if sockets.admin is None else {"admin": url_of(sockets.admin).removesuffix("/mcp")}
        print_json({"event": "listening", "url": url, **own, "version": __version__, "pid": os.getpid()})
    else:
        out.print(f"mcp_gateway {__version__} listens on {url}", style="bold")
    await parts.settled(SETTLE_S)
    if as_json:
        print_json({"event": "settled", "upstreams": [status.name for status in parts.pool.statuses()]})
        return
    told = Introduction(parts, {record.agent for record in keys.list() if record.holds(utc_now())}, url)
    out.print("\nUpstreams", style="bold")
    out.print(upstreams(told), soft_wrap=False)
    out.print("\nAgents and what they may do", style="bold")
    out.print(agents(told), soft_wrap=False)
    out.print("\nConnect an agent", style="bold")
    for line in how_to_connect(told):
        out.print(f"  {line}" if line else "")
