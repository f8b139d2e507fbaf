"""`mcp-gateway connect` and `disconnect`: the one entry in an agent's program, bound to that agent's identity."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer
from rich.text import Text

from mcp_gateway.audit.query import escaped
from mcp_gateway.cli.connections import Connection, Connections, digest
from mcp_gateway.cli.output import (
    DEFAULT_CONFIG,
    EXIT_NO,
    AsJson,
    ConfigPath,
    DryRun,
    Yes,
    ask,
    out,
    print_json,
    shown,
    warn,
)
from mcp_gateway.cli.program import program_words
from mcp_gateway.config.clients import BY_ID, ENTRY, Client, servers_in, with_entry, without_entry
from mcp_gateway.config.moved_secrets import looks_secret
from mcp_gateway.config.places import places
from mcp_gateway.config.secrets import is_secret_name
from mcp_gateway.config.servers import load
from mcp_gateway.config.textfile import TextFile, check_writable, read, refusal, write
from mcp_gateway.wiring import policy_of

AGENT: Final = "GW-CONNECT-AGENT"
NOT_CONNECTED: Final = "GW-CONNECT-NOTHING"
TAKEN: Final = "GW-CONNECT-TAKEN"

_PAIR: Final = re.compile(r"[\"']?([\w-]+)[\"']?(\s*[:=]\s*)[\"']?([^\"',}]*)([\"']?)")
_QUOTED: Final = re.compile(r"([\"'])([^\"']+)\1")

ClientName = Literal["claude-code", "claude-desktop", "cursor", "vscode", "codex", "gemini", "goose", "zed"]

Program = Annotated[ClientName, typer.Argument(help="The agent's program.")]
EntryName = Annotated[str, typer.Option("--name", help="What the entry is called in the program's file.")]
File = Annotated[str, typer.Option("--file", help="The program's file, where it is not in its usual place.")]
InProject = Annotated[bool, typer.Option("--project", help="The project's own file in this folder, not the user's.")]


@dataclass(frozen=True, slots=True)
class _Edit:
    """One change of one file."""

    client: Client
    path: Path
    before: TextFile | None
    after: str


def connect(
    client: Program,
    agent: Annotated[str, typer.Option(help="Who the entry speaks for; else the agent named like the program.")] = "",
    task: Annotated[str, typer.Option(help="The task it is on; else the agent's default task.")] = "",
    name: EntryName = ENTRY,
    file: File = "",
    project: InProject = False,
    only: Annotated[
        bool, typer.Option("--only", help="Take its other servers out: the gateway serves them now.")
    ] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Give the file back as it was.")] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Write one entry for the gateway into an agent's program, after showing the difference; a backup is kept.

    The entry starts `mcp-gateway stdio` for one agent: who that is, is fixed by the entry and never by what a model
    says. Run again it replaces its own entry.

    Example: `mcp-gateway connect claude-code --dry-run`
    """
    chosen, path = BY_ID[client], _file(BY_ID[client], file, project)
    if undo:
        _undo(path, name, as_json, is_dry=dry_run, is_sure=yes)
        return
    agent = agent or client
    config_path = _check_agent(Path(config), agent, task)
    before = read(path)
    words = launch(agent, task, config_path)
    entry = chosen.entry(words[0], words[1:])
    edit = _Edit(chosen, path, before, _edited(chosen, before or _nothing(path), name, entry, only=only))
    _refuse_foreign(edit, name)
    if not _agreed(edit, as_json=as_json, is_dry=dry_run, is_sure=yes):
        return
    done = _carry_out(
        edit, Connection(client, str(path.absolute()), name, agent, str(config_path), before is not None, "")
    )
    if as_json:
        print_json({"client": client, "file": str(path), "entry": entry, "backup": str(done) if before else None})
        return
    out.print(Text.assemble(("connected ", "green"), f"{chosen.title}: {escaped(str(path))}, as the agent {agent}"))
    if before is not None:
        out.print(f"backup: {escaped(str(done))}")
    out.print(f"Restart {chosen.title} to see it. Undo: mcp-gateway connect {client} --undo")


def disconnect(
    client: Program,
    name: EntryName = ENTRY,
    file: File = "",
    project: InProject = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Take the gateway's entry out of an agent's program; everything else in its file stays.

    Example: `mcp-gateway disconnect claude-code`
    """
    chosen, path = BY_ID[client], _file(BY_ID[client], file, project)
    before = read(path)
    if before is None or name not in servers_in(chosen, before):
        raise _nothing_there(path, name)
    edit = _Edit(chosen, path, before, without_entry(chosen, before, name))
    if not _agreed(edit, as_json=as_json, is_dry=dry_run, is_sure=yes):
        return
    write(path, before.encoded(edit.after))
    connections().forget(path)
    if as_json:
        print_json({"client": client, "file": str(path), "disconnected": True})
    else:
        out.print(Text.assemble(("disconnected ", "green"), f"{chosen.title}: {escaped(str(path))}"))


def connections() -> Connections:
    """What was connected by this user."""
    return Connections(Path(places().our_state))


def launch(agent: str, task: str, config: Path) -> list[str]:
    """The command of an entry: absolute, for agents' programs start it with a PATH and a folder of their own."""
    chosen = ["--task", task] if task else []
    return [*program_words(), "stdio", "--agent", agent, *chosen, "--config", str(config)]


def _file(client: Client, file: str, project: bool) -> Path:
    if file:
        return Path(file)
    files = client.files(places(), Path.cwd())
    if project and len(files) == 1:
        raise typer.BadParameter(f"{client.title} has no files for single projects")
    return files[-1] if project else files[0]


def _nothing(path: Path) -> TextFile:
    return TextFile(path, b"", "")


def _check_agent(config: Path, agent: str, task: str) -> Path:
    """The absolute path of servers.toml; raises `ConfigInvalid` where the policy does not know the agent."""
    configuration = load(config, os.environ)
    known = policy_of(configuration).assignments
    where = configuration.settings.policies
    if agent not in known:
        first = next(iter(sorted(known)), "NAME")
        fix = f"add [agents.{agent}] to a file in {shown(where)}, or choose one of it: --agent {first}"
        raise refusal(where, 0, f"no policy names the agent {agent!r}", fix, AGENT)
    if task and task not in known[agent].tasks:
        tasks = ", ".join(known[agent].tasks) or "none"
        raise refusal(where, 0, f"agent {agent!r} has no task {task!r}", f"it has: {tasks}", AGENT)
    return config.absolute()


def _edited(client: Client, before: TextFile, name: str, entry: dict[str, Any], *, only: bool) -> str:
    text = with_entry(client, before, name, entry)
    for other in servers_in(client, before) if only else ():
        if other != name:
            text = without_entry(client, TextFile(before.path, b"", text), other)
    return text


def _refuse_foreign(edit: _Edit, name: str) -> None:
    """An entry of that name that is not ours is somebody's server."""
    there = servers_in(edit.client, edit.before).get(name) if edit.before else None
    if isinstance(there, dict) and "stdio" not in [*(there.get("args") or [])]:
        fix = "give ours another name: --name mcp-gateway"
        raise refusal(edit.path, 0, f"there is another server named {name!r}", fix, TAKEN)


def _agreed(edit: _Edit, *, as_json: bool, is_dry: bool, is_sure: bool) -> bool:
    """Whether to go on, once the difference was shown."""
    if edit.before is not None:
        check_writable(edit.path)
    if not as_json or is_dry:
        _show(edit, as_json)
    if is_dry:
        return False
    if is_sure or ask("Write it?"):
        return True
    raise typer.Exit(EXIT_NO)


def _show(edit: _Edit, as_json: bool) -> None:
    old = edit.before.text.splitlines() if edit.before else []
    new, name = edit.after.splitlines(), str(edit.path)
    lines = list(difflib.unified_diff(old, new, name if edit.before else "nothing", name, lineterm="", n=2))
    if as_json:
        print_json({"file": name, "diff": lines})
        return
    styles = {"+": "green", "-": "red", "@": "dim"}
    for line in lines:
        out.print(Text(escaped(masked(line.expandtabs(4))), styles.get(line[:1], "")))


def masked(line: str) -> str:
    """A line of somebody's file without what may be a secret in it: differences end up in terminals and tickets.

    >>> masked('+ "env": {"API_KEY": "abc", "MODE": "x"}')
    '+ "env": {"API_KEY": "...", "MODE": "x"}'
    """
    line = _PAIR.sub(
        lambda m: m[0] if not is_secret_name(m[1]) else f"{m[0][: m.start(3) - m.start(0)]}...{m[4]}", line
    )
    return _QUOTED.sub(lambda m: m[0] if not looks_secret(m[2]) else f"{m[1]}...{m[1]}", line)


def _carry_out(edit: _Edit, connection: Connection) -> Path:
    file = edit.before or _nothing(edit.path)
    data = file.encoded(edit.after)
    known = connections().of(edit.path)
    is_ours_still = known is not None and edit.before is not None and digest(edit.before.data) == known.wrote
    if known is not None and not is_ours_still:
        connections().forget(edit.path)
        known = None
    existed = known.existed if known else edit.before is not None
    kept = replace(connection, existed=existed, wrote=digest(data))
    backup = connections().remember(kept, edit.before.data if edit.before and known is None else None)
    write(edit.path, data)
    return backup


def _undo(path: Path, name: str, as_json: bool, *, is_dry: bool, is_sure: bool) -> None:
    known, now = connections().of(path), read(path)
    if known is None:
        raise _nothing_there(path, name)
    if now is None or digest(now.data) != known.wrote:
        warn(f"{path} was changed since: only the entry is taken out, the rest stays as it is now")
        disconnect(BY_ID[known.client].id, known.name, str(path), False, is_sure, is_dry, as_json)  # type: ignore[arg-type]
        return
    if is_dry:
        out.print(
            f"{escaped(str(path))} would be as it was before" if known.existed else f"{escaped(str(path))} would go"
        )
        return
    if known.existed:
        write(path, connections().backup_of(path).read_bytes())
    else:
        path.resolve().unlink()
    connections().forget(path)
    if as_json:
        print_json({"file": str(path), "undone": True})
    else:
        said = "is as it was before" if known.existed else "was not there before, and is gone"
        out.print(Text.assemble(("undone ", "green"), escaped(f"{path} {said}")))


def _nothing_there(path: Path, name: str) -> Exception:
    fix = "mcp-gateway doctor lists what is connected"
    return refusal(path, 0, f"no entry {name!r} of ours is there", fix, NOT_CONNECTED)
