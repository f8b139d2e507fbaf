"""`mcp-gateway servers`: the servers in servers.toml, edited so that comments and order stay, and tried out."""

from __future__ import annotations

import os
import secrets as random_source
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.table import Table
from rich.text import Text

from mcp_gateway.audit.query import escaped
from mcp_gateway.cli.intake import (
    SecretsIn,
    comment_on,
    description,
    keep_secrets,
    referring,
    resolved_keep,
    switched_off_without,
)
from mcp_gateway.cli.output import (
    DEFAULT_CONFIG,
    EXIT_NO,
    AsJson,
    ConfigPath,
    DryRun,
    out,
    print_json,
    run,
    shown,
    warn,
    working,
)
from mcp_gateway.config import keyrings
from mcp_gateway.config.found import FoundServer, server_name
from mcp_gateway.config.moved_secrets import without_secrets
from mcp_gateway.config.servers import Configuration, ServerConfig, load
from mcp_gateway.config.table import ConfigCode
from mcp_gateway.config.textfile import TextFile, read, refusal, write
from mcp_gateway.config.toml_edit import NotEditable
from mcp_gateway.config.toml_lines import did_you_mean
from mcp_gateway.config.writing import AlreadyThere, NoSuchServer, added, removed, with_flag
from mcp_gateway.domain import Kind
from mcp_gateway.errors import Complaint, ConfigInvalid, PolicyInvalid, Unreachable
from mcp_gateway.policy.compile import Policy
from mcp_gateway.telemetry import setup_logging
from mcp_gateway.wiring import catalog_of, policy_of

app = typer.Typer(help="Servers: list, add, test, enable, disable, remove; keep a secret.", no_args_is_help=True)

EDIT: Final = "GW-SERVERS-EDIT"
UNKNOWN: Final = "GW-SERVERS-UNKNOWN"
KEYRING: Final = "GW-SERVERS-KEYRING"

TRY_S: Final = 20.0

_UNRESOLVED: Final = (ConfigCode.ENV_UNSET, ConfigCode.SECRET_FILE, ConfigCode.KEYRING)

Name = Annotated[str, typer.Argument(help="The server's name in servers.toml.")]


@dataclass(frozen=True, slots=True)
class Tried:
    """What became of an attempt to use a server."""

    name: str
    milliseconds: float
    counts: dict[str, int]
    tools: tuple[str, ...] = ()
    problem: str = ""


@app.command("list")
def list_servers(config: ConfigPath = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """List the servers of servers.toml: how each is reached, and whether it is on.

    Example: `mcp-gateway servers list --json`
    """
    configuration = load(Path(config), os.environ)
    if as_json:
        print_json([_plain(server) for server in configuration.servers])
        return
    if not configuration.servers:
        out.print("no servers yet: mcp-gateway servers add NAME -- PROGRAM ARGUMENTS")
        return
    table = Table("server", "state", "how", "at", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for server in configuration.servers:
        state = Text("on", "green") if server.enabled else Text("off", "dim")
        table.add_row(server.name, state, escaped(server.shown), escaped(shown(server.at)))
    out.print(table, soft_wrap=False)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What it is called; with --from the description's name if empty.")] = "",
    command: Annotated[list[str] | None, typer.Argument(help="-- PROGRAM ARGUMENTS, for one that is started.")] = None,
    url: Annotated[str, typer.Option(help="Its address, for one that is connected to.")] = "",
    header: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE, sent with each request; secrets move out.")
    ] = None,
    env: Annotated[list[str] | None, typer.Option(help="NAME=VALUE for a command; secrets move out.")] = None,
    source: Annotated[str, typer.Option("--from", help="URL or file of a server.json or a manifest.json.")] = "",
    secrets: SecretsIn = "auto",
    config: ConfigPath = DEFAULT_CONFIG,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Add a server to servers.toml. What agents may use of it the policy says, and so far it says nothing.

    Example: `mcp-gateway servers add time -- uvx mcp-server-time --local-timezone UTC`
    """
    server = description(source) if source else _typed(name, command or [], url, header or [], env or [])
    server = replace(server, name=name or server.name)
    keep = resolved_keep(secrets)
    (server,), moved = without_secrets((server,), referring(keep))
    server = switched_off_without(server)
    path = Path(config)
    comment = comment_on(server) if source or server.notes else None
    edit = _edit(path, lambda text: added(text, server, comment), server.name)
    if dry_run:
        _show_new(edit, as_json)
        return
    keep_secrets(moved, keep, path.absolute().parent)
    write(path, edit[1])
    if as_json:
        print_json({"name": server.name, "enabled": server.enabled, "needs": _needed(server)})
        return
    out.print(Text.assemble(("added ", "green"), f"{server.name} to {path}"))
    for variable in _needed(server):
        warn(f"set {variable} where the gateway is started", f"export {variable}=...")
    if not server.enabled:
        out.print(f"then: mcp-gateway servers enable {server.name}")
    out.print(f"try it: mcp-gateway servers test {server.name}")
    _tell_grant(load(path, os.environ), server.name)


@app.command()
def test(
    name: Name,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Start or connect to one server, ask what it offers, and end it again. Exits 1 where that does not work.

    Example: `mcp-gateway servers test time`
    """
    setup_logging("critical")
    configuration = load(Path(config), os.environ)
    _server(configuration, name)
    with working(f"asking {name}"):
        tried = run(try_server, configuration, name)
    if as_json:
        print_json(
            {
                "name": name,
                "ok": not tried.problem,
                "ms": round(tried.milliseconds),
                "counts": tried.counts,
                "tools": list(tried.tools),
                "problem": tried.problem,
            }
        )
    elif tried.problem:
        out.print(Text.assemble(("failed ", "red"), escaped(f"{name}: {tried.problem}")))
        out.print("mcp-gateway doctor says what to do about it")
    else:
        out.print(Text.assemble(("ok ", "green"), f"{name} {offered(tried)} {tried.milliseconds:.0f} ms"))
        for tool in tried.tools:
            out.print(f"  {escaped(tool)}")
    if tried.problem:
        raise typer.Exit(EXIT_NO)


@app.command()
def enable(name: Name, config: ConfigPath = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Switch a server on. A gateway that runs starts it at once.

    Example: `mcp-gateway servers enable time`
    """
    _switch(Path(config), name, as_json, on=True)


@app.command()
def disable(name: Name, config: ConfigPath = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Switch a server off. A gateway that runs ends it at once; agents no longer see its tools.

    Example: `mcp-gateway servers disable time`
    """
    _switch(Path(config), name, as_json, on=False)


@app.command()
def remove(name: Name, config: ConfigPath = DEFAULT_CONFIG, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Take a server out of servers.toml, with the comment right above it; everything else stays.

    Example: `mcp-gateway servers remove time`
    """
    path = Path(config)
    edit = _edit(path, lambda text: removed(text, name), name)
    if dry_run:
        _show_new(edit, as_json)
        return
    write(path, edit[1])
    if as_json:
        print_json({"name": name, "removed": True})
    else:
        out.print(Text.assemble(("removed ", "green"), f"{name} from {path}"))


@app.command()
def secret(
    name: Annotated[str, typer.Argument(help="The name that keyring:NAME in servers.toml refers to.")],
    as_json: AsJson = False,
) -> None:
    """Keep a secret in the system's keyring. It is read from the terminal without being shown, or from a pipe.

    Example: `mcp-gateway servers secret GITHUB_TOKEN`
    """
    value = typer.prompt(name, hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
    if not value:
        raise typer.BadParameter("nothing was given")
    try:
        keyrings.store(name, value)
    except keyrings.KeyringUnusable as e:
        fix = f'write "${{{name}}}" in servers.toml instead, and set the variable'
        raise refusal(Path("keyring"), 0, str(e), fix, KEYRING) from e
    if as_json:
        print_json({"name": name, "kept": True})
    else:
        out.print(f'kept: write "keyring:{name}" where the secret belongs')


async def try_server(configuration: Configuration, name: str) -> Tried:
    """Use one server, whether it is on or not, and tell how that went."""
    server = replace(_server(configuration, name), enabled=True)
    began_at = time.perf_counter()
    try:
        alone = replace(configuration, servers=(server,))
        catalog, _ = await catalog_of(alone, name, min(TRY_S, server.timeout_s))
    except Unreachable as e:
        return Tried(name, (time.perf_counter() - began_at) * 1000, {}, problem=str(e))
    took_ms = (time.perf_counter() - began_at) * 1000
    counts = {kind.value: len(catalog.targets(kind)) for kind in Kind if catalog.targets(kind)}
    return Tried(name, took_ms, counts, tuple(target.name for target in catalog.targets(Kind.TOOL)))


def offered(tried: Tried) -> str:
    """How much a server offers, in words."""
    words = [f"{count} {kind}{'' if count == 1 else 's'}" for kind, count in tried.counts.items()]
    return ", ".join(words) or "nothing"


def grants_nothing_of(policy: Policy, name: str) -> bool:
    """Whether no grant speaks of a server, so that nobody may use anything of it."""
    grants = (grant for task in policy.tasks.values() for grant in task.grants)
    return not any(pattern.upstream == name for grant in grants for pattern in grant.patterns)


def _typed(name: str, command: list[str], url: str, header: list[str], env: list[str]) -> FoundServer:
    if not name or bool(command) == bool(url):
        raise typer.BadParameter("give a NAME and either -- PROGRAM ARGUMENTS or --url URL (or --from)")
    if server_name(name) != name:
        raise typer.BadParameter(f"{name!r} is no server name; {server_name(name)!r} would be one")
    return FoundServer(
        name, "the command line", command=tuple(command), url=url, env=dict(_pairs(env)), headers=dict(_pairs(header))
    )


def _pairs(words: list[str]) -> Iterator[tuple[str, str]]:
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{word.partition('=')[0]!r} is not followed by =VALUE")
        yield name, value


def _switch(path: Path, name: str, as_json: bool, *, on: bool) -> None:
    before, data = _edit(path, lambda text: with_flag(text, name, enabled=on), name)
    if before.data != data:
        write(path, data)
    if as_json:
        print_json({"name": name, "enabled": on})
        return
    out.print(Text.assemble(("on ", "green") if on else ("off ", "yellow"), f"{name} in {path}"))
    if on:
        _tell_grant(load(path, os.environ), name)


def _edit(path: Path, change: Callable[[str], str], name: str) -> tuple[TextFile, bytes]:
    """The file as it is and as it would be, found usable. Raises `ConfigInvalid`; nothing is written."""
    before = read(path)
    if before is None:
        load(path, os.environ)  # which says that there is none
        raise AssertionError("load raises for a file that is not there")
    if before.encoding != "utf-8":
        raise refusal(path, 0, "is not UTF-8 text", "save it as UTF-8", ConfigCode.UNREADABLE)
    try:
        text = change(before.text)
    except tomllib.TOMLDecodeError:
        load(path, os.environ)
        raise
    except NoSuchServer as e:
        known = tomllib.loads(before.text).get("servers", {})
        raise refusal(path, 0, f"has no server {name!r}", did_you_mean(name, known), UNKNOWN) from e
    except (AlreadyThere, NotEditable) as e:
        said = str(e) if isinstance(e, NotEditable) else f"has a server {name!r} already"
        fix = "edit it by hand" if isinstance(e, NotEditable) else "give it another name, or remove that one first"
        raise refusal(path, 0, said, fix, EDIT) from e
    if before.newline == "\r\n":
        text = text.replace("\r\n", "\n").replace("\n", "\r\n")
    _check_usable(path, before, before.encoded(text))
    return before, before.encoded(text)


def _check_usable(path: Path, before: TextFile, data: bytes) -> None:
    """Raises `ConfigInvalid` where an edit makes complaints that the file did not give before."""
    old = {complaint.message for complaint in _complaints(path, before.data)}
    found = _complaints(path, data)
    # A secret that is not there yet is kept, or asked for, once the edit is known to be sound.
    new = [one for one in found if one.message not in old and one.code not in _UNRESOLVED]
    if new:
        raise ConfigInvalid(new)


def _complaints(path: Path, data: bytes) -> list[Complaint]:
    draft = path.with_name(f".{path.name}.{random_source.token_hex(6)}")
    write(draft, data)
    try:
        load(draft, os.environ)
    except ConfigInvalid as e:
        return [replace(complaint, file=str(path)) for complaint in e.complaints]
    finally:
        draft.unlink(missing_ok=True)
    return []


def _server(configuration: Configuration, name: str) -> ServerConfig:
    for server in configuration.servers:
        if server.name == name:
            return server
    known = [server.name for server in configuration.servers]
    raise refusal(configuration.path, 0, f"has no server {name!r}", did_you_mean(name, known), UNKNOWN)


def _needed(server: FoundServer) -> list[str]:
    return [name for name in server.needs if name not in os.environ]


def _show_new(edit: tuple[TextFile, bytes], as_json: bool) -> None:
    text = edit[1][len(edit[0].mark) :].decode(edit[0].encoding)
    if as_json:
        print_json({"file": str(edit[0].path), "text": text})
        return
    for line in text.splitlines():
        out.print(escaped(line))


def _tell_grant(configuration: Configuration, name: str) -> None:
    try:
        policy = policy_of(configuration)
    except PolicyInvalid:
        return
    if grants_nothing_of(policy, name):
        warn(
            f"no agent may use anything of {name!r} yet",
            f'add "{name}/TOOL" to a task\'s allow in {shown(configuration.settings.policies)}',
        )


def _plain(server: ServerConfig) -> dict[str, object]:
    return {
        "name": server.name,
        "enabled": server.enabled,
        "kind": "command" if server.command is not None else "url",
        "how": server.shown,
        "transport": server.transport,
        "tags": sorted(server.tags),
        "at": server.at,
    }
