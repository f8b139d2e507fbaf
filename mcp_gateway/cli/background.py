"""A gateway for those who attach: what `mcp-gateway stdio` starts in the background, and part of what `serve` is.

Nobody looks at what it prints, and windows wait for it: so it loads nothing that is for people at a terminal.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Final

import anyio

from mcp_gateway import __version__
from mcp_gateway.cli.ahead import RUNNING_LOCK
from mcp_gateway.cli.loop import run_loop
from mcp_gateway.cli.shared import RECORD_FILE, Record, listening, locked, token_of, unlisten, write_record
from mcp_gateway.config.servers import Configuration, load
from mcp_gateway.domain import Json
from mcp_gateway.errors import GatewayError
from mcp_gateway.frontdoor.attach import AttachDoor, Opened
from mcp_gateway.frontdoor.hello import Hello
from mcp_gateway.reload import keep_current
from mcp_gateway.telemetry import setup_logging
from mcp_gateway.wiring import Load, Running, running, started_now, started_task_of, started_tasks_of, until_over

FIRST_AGENT_S: Final = 30.0
"""How long a gateway that was started for an agent waits for it."""

_log: Final = logging.getLogger(__name__)


def main() -> None:
    """Be the gateway that `ahead` begins: wait for a line that says how, and go on. Without one nobody needs it."""
    line = sys.stdin.buffer.readline()
    if not line:
        return
    told = json.loads(line)
    _write_to(Path(told["log"]))
    setup_logging("warning")
    path, linger = Path(told["config"]), told["linger"]

    def load_again() -> Configuration:
        return load(path, os.environ)

    try:
        run_loop(lambda: serve_attached(load_again, None if linger is None else float(linger)))
    except* GatewayError as errors:
        report_all = import_module("mcp_gateway.cli.output").report_all  # only now what prints for people
        sys.exit(report_all(errors))


async def serve_attached(load_again: Load, linger_s: float | None) -> None:
    """Serve those who attach until told to stop, or until nobody has been there for `linger_s`; None: never mind."""
    settings = load_again().settings
    with locked(settings.state / RUNNING_LOCK, wait=False) as is_first:
        if not is_first:
            sys.stdout.write("another gateway runs on this configuration already\n")
            return
        async with running(load_again) as parts:
            for complaint in parts.configuration.warnings:
                _log.warning("%s", complaint)
            async with attachable(parts, "", is_first, os.getpid()) as attach, anyio.create_task_group() as tasks:
                tasks.start_soon(keep_current, parts)
                await _until_told(attach, linger_s)
                tasks.cancel_scope.cancel()


@asynccontextmanager
async def attachable(parts: Running, url: str, is_first: bool, pid: int) -> AsyncIterator[AttachDoor | None]:
    """Let `mcp-gateway stdio` attach meanwhile; the first gateway of a state folder does. `url`: of its HTTP."""
    if not is_first:
        yield None
        return
    configuration, started = parts.configuration, time.time()
    state, config = configuration.settings.state, str(configuration.path.absolute())
    try:
        attach_listener, where = listening(state)
    except OSError as e:
        _log.warning("mcp-gateway stdio cannot attach: %s", e.strerror)
        yield None
        return
    record = Record(pid, __version__, config, where, url, started)

    def about() -> Json:
        return about_running(parts, door, record)

    started_tasks = started_tasks_of(configuration)

    def opened(hello: Hello) -> Opened:
        if not hello.task_token:
            return Opened(parts.stdio_door(hello.agent, hello.task))
        started = started_task_of(started_tasks, hello.agent, hello.task_token)
        door = parts.stdio_door(hello.agent, hello.task, started_now(started_tasks, started))
        return Opened(door, lambda: until_over(started_tasks, started))

    door = AttachDoor(opened, about, token_of(state), __version__, config, time.time)
    async with door.opened(attach_listener):
        write_record(state, record)
        try:
            yield door
        finally:
            (state / RECORD_FILE).unlink(missing_ok=True)
            unlisten(where)


def about_running(parts: Running, door: AttachDoor, record: Record) -> Json:
    """What `mcp-gateway status` is told: names and all, for it goes to the operator alone."""
    listings = parts.pool.listings
    upstreams_told = []
    for status in parts.pool.statuses():
        listing = listings.get(status.name)
        counts = {"tools": len(listing.tools), "prompts": len(listing.prompts)} if listing else {}
        upstreams_told.append({**asdict(status), **counts})
    return {
        **asdict(record),
        "upstreams": upstreams_told,
        "workers": [asdict(one) for one in parts.workers],
        "attached": [asdict(one) for one in door.attached],
        **{key: value for key, value in parts.health().items() if key in ("ok", "ready", "audit")},
        "complaints": parts.complaints,
        "held": [held.target for held in parts.pins.held],
        "lists": parts.list_costs(),
        "policy": parts.policy.version,
    }


async def _until_told(attach: AttachDoor | None, linger_s: float | None) -> None:
    """Serve who attaches until a signal says so, or until nobody has been there for long enough."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for name in ("SIGTERM", "SIGINT", "SIGHUP"):
        with suppress(NotImplementedError, AttributeError):  # Windows ends it without asking
            loop.add_signal_handler(getattr(signal, name), stop.set)
    _log.warning("a gateway for those who attach, process %d", os.getpid())
    async with anyio.create_task_group() as waiting:
        if linger_s is not None and attach is not None:
            waiting.start_soon(_stop_when_idle, attach, linger_s, stop)
        await stop.wait()
        waiting.cancel_scope.cancel()


async def _stop_when_idle(attach: AttachDoor, linger_s: float, stop: asyncio.Event) -> None:
    await attach.idle(linger_s, FIRST_AGENT_S)
    stop.set()


def _write_to(log: Path) -> None:
    """Have all that this process says in a file; its stdin is nothing from now on."""
    _become(Path(os.devnull), os.O_RDONLY, 0)
    _become(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 1, 2)


def _become(path: Path, flags: int, *descriptors: int) -> None:
    opened = os.open(path, flags, 0o600)
    for descriptor in descriptors:
        os.dup2(opened, descriptor)
    os.close(opened)
