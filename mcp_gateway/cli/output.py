"""What commands print: results on stdout, complaints on stderr, JSON where machines read.

Text is printed as it stands: no markup is looked for in it. What somebody else wrote (names, arguments, an upstream's
last words) goes through `escaped`, so that it can neither colour nor move anything on a terminal.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import anyio
import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from mcp_gateway.audit.query import escaped
from mcp_gateway.config.places import places
from mcp_gateway.errors import ConfigInvalid, GatewayError, PolicyInvalid, StoreUnavailable

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)

SLOW_S: Final = 1.0
"""After how long somebody at a terminal is told what takes so long."""

PIPED_WIDTH: Final = 240
"""Columns where there is no terminal and COLUMNS does not say: what reads a pipe breaks lines itself, or not."""


def _console(*, stderr: bool = False) -> Console:
    """`soft_wrap`: a terminal breaks lines by itself, and a line that is copied from it has no breaks of ours."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or os.environ.get("COLUMNS", "").isdigit() else PIPED_WIDTH
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=True, width=width)


out: Final = _console()
err: Final = _console(stderr=True)

DEFAULT_CONFIG: Final = "servers.toml"


def _nearest(written: str) -> str:
    """The one in this folder; where there is none and nobody named another, the user's own (`init --user`)."""
    own = Path(places().our_config) / DEFAULT_CONFIG
    return str(own) if written == DEFAULT_CONFIG and not Path(written).exists() and own.exists() else written


ConfigPath = Annotated[
    str,
    typer.Option(
        "--config",
        "-c",
        envvar="MCP_GATEWAY_CONFIG",
        help="Path of servers.toml; else the one here, or your own.",
        show_default=True,
        callback=_nearest,
    ),
]

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be written, and write nothing.")]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]

LogLevel = Annotated[Literal["debug", "info", "warning", "error"], typer.Option(help="How much is logged.")]

EXIT_NO: Final = 1
EXIT_UNUSABLE: Final = 2
EXIT_STORE: Final = 3


class Commands(TyperGroup):
    """The commands, with our errors reported instead of traced; a bug keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; an error of ours ends it with the exit code that belongs to it."""
        code = 0
        try:
            return super().invoke(ctx)
        except* GatewayError as errors:
            code = report_all(errors)
        raise typer.Exit(code)


def report_all(errors: BaseExceptionGroup[GatewayError]) -> int:
    """Print each of them; returns the exit code of the worst."""
    return max(report(error) for error in _leaves(errors))


def report(error: GatewayError) -> int:
    """Print an error with its code, cause and fix; returns the exit code that belongs to it."""
    if isinstance(error, (ConfigInvalid, PolicyInvalid)):
        for complaint in error.complaints:
            where = f"{complaint.file}:{complaint.line}" if complaint.line else complaint.file
            _print_error(complaint.code, f"{where}: {complaint.message}", complaint.fix)
        return EXIT_UNUSABLE
    _print_error(error.code, str(error), "")
    return EXIT_STORE if isinstance(error, StoreUnavailable) else EXIT_UNUSABLE


def shown(path: Path | str) -> str:
    """A path as it is shortest to read from here."""
    path, here = Path(path), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) and path != here else str(path)


def warn(text: str, fix: str = "") -> None:
    """Print a warning on stderr."""
    err.print(Text("warning ", style="yellow").append(escaped(text), style="default"))
    _print_fix(fix)


def ask(question: str) -> bool:
    """Ask somebody at the terminal; where there is none, nobody said yes. Raises `typer.BadParameter` then."""
    if not sys.stdin.isatty():
        raise typer.BadParameter("there is no terminal to ask at: add --yes, or --dry-run to only look")
    return read_line(f"{question} [y/N]").lower() in ("y", "yes")


def read_line(question: str) -> str:
    """What somebody types at a question, which goes to stderr: stdout may be somebody's pipe. Empty at the end."""
    err.print(question, end=": ")
    return sys.stdin.readline().strip()


def run(function: Callable[..., Awaitable[T]], *args: object) -> T:
    """Run a coroutine function to its end; an error that it ends with comes out as itself, not in a group of one."""
    try:
        return anyio.run(function, *args)
    except BaseExceptionGroup as group:
        leaves = list(_leaves(group))
        if len(leaves) == 1:
            raise leaves[0] from None
        raise


class Working:
    """A line that says what takes so long: at a terminal, and only after a second."""

    def __init__(self, text: str) -> None:
        self._status = err.status(escaped(text))
        self._timer: threading.Timer | None = None
        self._is_terminal = err.is_terminal

    def say(self, text: str) -> None:
        """What it is at now."""
        self._status.update(escaped(text))

    def paused(self, function: Callable[..., T]) -> Callable[..., T]:
        """`function`, which talks with whoever sits at the terminal, undisturbed."""

        def undisturbed(*args: object) -> T:
            self.stop()
            try:
                return function(*args)
            finally:
                self.start()

        return undisturbed

    def start(self) -> None:
        """Show it in a moment."""
        if self._is_terminal:
            self._timer = threading.Timer(SLOW_S, self._status.start)
            self._timer.daemon = True
            self._timer.start()

    def stop(self) -> None:
        """Show it no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()
            self._timer = None
            self._status.stop()


@contextmanager
def working(text: str) -> Iterator[Working]:
    """Something that may take longer than a second."""
    told = Working(text)
    told.start()
    try:
        yield told
    finally:
        told.stop()


def print_json(value: Mapping[str, Any] | list[Any]) -> None:
    """Print one JSON document as one line, in ASCII: safe on a terminal whatever stands in it."""
    sys.stdout.write(json.dumps(value, default=str, separators=(",", ":")) + "\n")
    sys.stdout.flush()


def _print_error(code: str, message: str, fix: str) -> None:
    err.print(Text(code, style="bold red").append(f" {escaped(message)}", style="default"))
    _print_fix(fix)


def _print_fix(fix: str) -> None:
    if fix:
        err.print(Text("  fix: ", style="green").append(escaped(fix), style="default"))


def _leaves(group: BaseExceptionGroup[E]) -> Iterator[E]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
