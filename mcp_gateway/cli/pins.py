"""`mcp-gateway pins`: the definitions that are approved, and those that wait for somebody to look at them."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import anyio
import typer
from rich.table import Table
from rich.text import Text

from mcp_gateway.audit.query import escaped
from mcp_gateway.catalog.pinbook import held_now
from mcp_gateway.catalog.pins import Held, Why, key_of, written
from mcp_gateway.cli.output import DEFAULT_CONFIG, EXIT_NO, AsJson, ConfigPath, out, print_json, shown, warn
from mcp_gateway.config.lock import Lock, Pin, UpstreamPins, lock_path, read_lock, update_lock
from mcp_gateway.config.servers import Configuration, load
from mcp_gateway.telemetry import setup_logging
from mcp_gateway.wiring import sifted_of

ASK_UPSTREAMS_S: Final = 15.0
SHORT: Final = 8

app = typer.Typer(help="Pins: which definitions are approved.", no_args_is_help=True)

Ask = Annotated[
    bool, typer.Option("--ask", help="Ask the upstreams now, instead of what a running gateway last saw of them.")
]
Targets = Annotated[
    list[str], typer.Argument(help="upstream/tool, prompt:upstream/name, ...; with @HASH only that very definition.")
]


@app.callback()
def root() -> None:
    """Pins: which definitions are approved."""


@app.command("list")
def list_pins(config: ConfigPath = DEFAULT_CONFIG, ask: Ask = False, as_json: AsJson = False) -> None:
    """What is approved of each upstream, and what waits for review; exits 1 if something waits.

    Example: `mcp-gateway pins list`
    """
    configuration = load(Path(config), os.environ)
    lock, held = read_lock(lock_path(configuration.path)), _held(configuration, ask)
    if as_json:
        print_json({"approved": _approved(lock), "held": [_plain(each) for each in held]})
    else:
        _print_list(configuration, lock, held)
    if any(each.why is not Why.REJECTED for each in held):
        raise typer.Exit(EXIT_NO)


@app.command()
def diff(
    targets: Annotated[list[str] | None, typer.Argument(help="Only these; without any, all that waits.")] = None,
    config: ConfigPath = DEFAULT_CONFIG,
    ask: Ask = False,
    as_json: AsJson = False,
) -> None:
    """What waits for review, beside what was approved, as text; everything invisible is spelt out.

    Example: `mcp-gateway pins diff git/git_log`
    """
    configuration = load(Path(config), os.environ)
    lock, held = read_lock(lock_path(configuration.path)), _held(configuration, ask)
    chosen = _chosen(held, targets) if targets else [each for each in held if each.why is not Why.REJECTED]
    if as_json:
        print_json([{**_plain(each), "diff": list(_diff(lock, each))} for each in chosen])
        return
    for each in chosen:
        _print_held(lock, each)
    if not chosen:
        out.print("nothing waits for review")


@app.command()
def approve(
    targets: Annotated[list[str] | None, typer.Argument(help="upstream/tool[@HASH], or an upstream's name.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Everything that waits and was not rejected.")] = False,
    config: ConfigPath = DEFAULT_CONFIG,
    ask: Ask = False,
) -> None:
    """Serve these definitions from now on; a running gateway does so at once.

    What is approved is shown. `@HASH` (from `pins diff`) refuses anything but the definition that was reviewed.

    Example: `mcp-gateway pins approve git/git_log@3f2a9c1e`
    """
    configuration = load(Path(config), os.environ)
    held = _held(configuration, ask)
    waiting = [each for each in held if each.why is not Why.REJECTED]
    chosen = waiting if every else _chosen(held, targets or [])
    if not chosen:
        raise typer.BadParameter("name what to approve, or --all")
    lock = read_lock(lock_path(configuration.path))
    for each in chosen:
        _print_held(lock, each)
    update_lock(lock_path(configuration.path), lambda found: _with_approved(found, chosen))
    for each in chosen:
        out.print(Text.assemble(("approved ", "green"), f"{escaped(each.target)}@{each.sha256[:SHORT]}"))


@app.command()
def reject(targets: Targets, config: ConfigPath = DEFAULT_CONFIG, ask: Ask = False) -> None:
    """Never serve these definitions: one that waits is not asked about again, an approved one is taken back at once.

    Example: `mcp-gateway pins reject mail/send`
    """
    configuration = load(Path(config), os.environ)
    held = _held(configuration, ask)
    path = lock_path(configuration.path)
    for target in targets:
        matching = [each for each in held if _is_meant(each, target)]
        name, key, sha256 = _refused(read_lock(path), matching, target)
        update_lock(path, partial(_with_rejected, name=name, key=key, sha256=sha256))
        out.print(Text.assemble(("rejected ", "red"), f"{escaped(written(name, key))}@{sha256[:SHORT]}"))


def _held(configuration: Configuration, ask: bool) -> list[Held]:
    """What waits: as a running gateway last wrote it, held against the pins as they are now; or asked for now."""
    setup_logging("critical")
    lock = read_lock(lock_path(configuration.path))
    if not ask:
        known = held_now(configuration.settings.state)
        return sorted((each for each in known if _waits(lock, each)), key=lambda each: each.target)
    sifted, silent = anyio.run(sifted_of, configuration, lock, ASK_UPSTREAMS_S)
    for name, detail in silent.items():
        warn(f"upstream {name!r} cannot be asked: {detail}")
    return sorted((each for one in sifted.values() for each in one.held), key=lambda each: each.target)


def _waits(lock: Lock, held: Held) -> bool:
    pins = lock.of(held.upstream) or UpstreamPins()
    pin = pins.pin(held.key, held.person)
    return pin is None or pin.sha256 != held.sha256


def _chosen(held: Sequence[Held], targets: Sequence[str]) -> list[Held]:
    found: list[Held] = []
    for target in targets:
        matching = [each for each in held if _is_meant(each, target)]
        if not matching:
            known = ", ".join(f"{escaped(each.target)}@{each.sha256[:SHORT]}" for each in held[:10])
            raise typer.BadParameter(f"{target!r} does not wait for review; what does: {known or 'nothing'}")
        found += matching
    return found


def _is_meant(held: Held, target: str) -> bool:
    name, at, sha256 = target.rpartition("@")
    if at and name and held.target == name:
        return len(sha256) >= SHORT and held.sha256.startswith(sha256)
    return target in (held.target, held.upstream)


def _with_approved(lock: Lock, chosen: Sequence[Held]) -> Lock:
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    for each in chosen:
        pins = lock.of(each.upstream) or UpstreamPins()
        pin = Pin(each.sha256, each.definition, "approved", now, each.signals)
        if each.why is Why.RENAMED:
            pins = pins.without(key_of(each.like)[1])
        lock = lock.with_upstream(each.upstream, pins.with_pin(each.key, pin, each.person))
    return lock


def _refused(lock: Lock, matching: Sequence[Held], target: str) -> tuple[str, str, str]:
    """Upstream, key and hash of what `target` means: what waits under that name, else what is approved."""
    if matching:
        return matching[0].upstream, matching[0].key, matching[0].sha256
    try:
        upstream, key = key_of(target)
    except ValueError as e:
        raise typer.BadParameter(str(e)) from e
    pin = (lock.of(upstream) or UpstreamPins()).pin(key)
    if pin is None:
        raise typer.BadParameter(f"{target!r} neither waits for review nor is approved")
    return upstream, key, pin.sha256


def _with_rejected(lock: Lock, name: str, key: str, sha256: str) -> Lock:
    pins = lock.of(name) or UpstreamPins()
    pin = pins.pin(key)
    kept = pins.without(key) if pin is not None and pin.sha256 == sha256 else pins
    return lock.with_upstream(name, kept.with_rejected(key, sha256))


def _print_list(configuration: Configuration, lock: Lock, held: Sequence[Held]) -> None:
    table = Table.grid(padding=(0, 2))
    for name, pins in sorted(lock.upstreams.items()):
        waiting = sum(each.upstream == name for each in held)
        table.add_row(escaped(name), f"{len(pins.pins)} approved", f"{waiting} held back" if waiting else "")
    if table.row_count:
        out.print(table)
    else:
        out.print(f"{shown(lock_path(configuration.path))} approves nothing yet")
    for each in held:
        like = f" from {each.like}" if each.why is Why.RENAMED else f" of {each.like}" if each.like else ""
        reason = Text.assemble(("held  ", "yellow"), f"{escaped(each.target)}@{each.sha256[:SHORT]}  ")
        out.print(reason.append(escaped(f"{each.why}{like}")))
        for signal in each.signals:
            out.print(f"      {escaped(signal)}")


def _print_held(lock: Lock, held: Held) -> None:
    like = f" ({held.like})" if held.like else ""
    out.print(Text(f"{escaped(held.target)}@{held.sha256[:SHORT]}: {held.why}{like}", style="bold"))
    for signal in held.signals:
        out.print(Text(f"  looks wrong: {escaped(signal)}", style="yellow"))
    for line in _diff(lock, held):
        style = {"+": "green", "-": "red"}.get(line[:1], "")
        out.print(Text(f"  {escaped(line)}", style=style))


def _diff(lock: Lock, held: Held) -> Iterator[str]:
    """The definition that waits beside the approved one (that of the old name, where it was renamed)."""
    pins = lock.of(held.upstream) or UpstreamPins()
    before = pins.pin(key_of(held.like)[1] if held.why is Why.RENAMED else held.key, held.person)
    old = list(_lines(before.definition)) if before else []
    lines = difflib.unified_diff(old, list(_lines(held.definition)), lineterm="", n=1)
    return (line for line in lines if not line.startswith(("---", "+++", "@@")))


def _lines(value: Any, path: str = "") -> Iterator[str]:
    """A definition as lines: one for each value, a long text broken where it breaks itself; ASCII."""
    if isinstance(value, Mapping) and value:
        for name in sorted(value):
            yield from _lines(value[name], f"{path}.{name}" if path else str(name))
    elif isinstance(value, (list, tuple)) and value:
        for index, item in enumerate(value):
            yield from _lines(item, f"{path}[{index}]")
    elif isinstance(value, str) and "\n" in value:
        yield from (f"{path} = {json.dumps(line)}" for line in value.split("\n"))
    else:
        yield f"{path} = {json.dumps(value)}"


def _approved(lock: Lock) -> dict[str, dict[str, str]]:
    return {
        name: {written(name, key): pin.sha256 for key, pin in sorted(pins.pins.items())}
        for name, pins in sorted(lock.upstreams.items())
    }


def _plain(held: Held) -> dict[str, Any]:
    return {
        "target": held.target,
        "sha256": held.sha256,
        "why": held.why.value,
        "like": held.like,
        "person": held.person,
        "signals": list(held.signals),
        "definition": held.definition,
    }
