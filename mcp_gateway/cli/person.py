"""`mcp-gateway person`: the local accounts that may log in to the embedded authorization server."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import anyio
import typer

from mcp_gateway.audit.query import escaped
from mcp_gateway.cli.output import DEFAULT_CONFIG, EXIT_NO, AsJson, ConfigPath, err, out, print_json, warn
from mcp_gateway.config.servers import Configuration, load
from mcp_gateway.config.settings import AGENT_NAME, AGENT_NAME_RULE
from mcp_gateway.identity.passwords import hashed, password_problem
from mcp_gateway.storage.logins import Person
from mcp_gateway.wiring import logins_of, open_audit

app = typer.Typer(help="Local accounts: the people who may log in where there is no identity provider.")


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="The person's name; policies know them as login:NAME.")],
    from_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input.")
    ] = False,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Add an account; the password is asked for and not shown.

    Exits 1 where there is one of that name.

    Example: `mcp-gateway person add alice`
    """
    configuration = load(Path(config), os.environ)
    if not AGENT_NAME.fullmatch(name):
        raise typer.BadParameter(f"not the name of a person: {AGENT_NAME_RULE}")
    password = sys.stdin.readline().rstrip("\r\n") if from_stdin else _asked()
    problem = password_problem(password)
    if problem is not None:
        raise typer.BadParameter(problem)
    is_new = anyio.run(_add, configuration, Person(name, time.time(), hashed(password)))
    if as_json:
        print_json({"name": name, "added": is_new})
    elif is_new:
        out.print(f"{name} may log in; policies know them as login:{name}")
    else:
        err.print(f"there is an account {name} already; remove it first: mcp-gateway person remove {name}")
    if configuration.identity.login is None:
        warn("nobody can log in yet", "add [identity.login] to servers.toml")
    if not is_new:
        raise typer.Exit(EXIT_NO)


@app.command("list")
def list_people(config: ConfigPath = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """List the accounts.

    Example: `mcp-gateway person list`
    """
    store = logins_of(load(Path(config), os.environ))
    people = store.people()
    store.close()
    if as_json:
        print_json([{"name": person.name, "created": person.created_at} for person in people])
        return
    for person in people:
        out.print(person.name)
    if not people:
        out.print("no accounts yet: mcp-gateway person add NAME")


@app.command()
def remove(
    name: Annotated[str, typer.Argument(help="The person's name.")],
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Remove an account and end what it allowed: within a second no token of theirs is accepted.

    Exits 1 where there is no such account.

    Example: `mcp-gateway person remove alice`
    """
    configuration = load(Path(config), os.environ)
    is_removed = anyio.run(_remove, configuration, name)
    if as_json:
        print_json({"name": name, "removed": is_removed})
    elif is_removed:
        out.print(f"removed {name}")
    else:
        err.print(f"there is no account {escaped(name)}")
    if not is_removed:
        raise typer.Exit(EXIT_NO)


def _asked() -> str:
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))


async def _add(configuration: Configuration, person: Person) -> bool:
    store = logins_of(configuration)
    try:
        async with open_audit(configuration) as audit:
            await audit.note("person", person.name, reason="added")
            return store.add_person(person)
    finally:
        store.close()


async def _remove(configuration: Configuration, name: str) -> bool:
    store = logins_of(configuration)
    try:
        async with open_audit(configuration) as audit:
            is_removed = store.remove_person(name, time.time())
            await audit.note("person", name, reason="removed" if is_removed else "unknown")
            return is_removed
    finally:
        store.close()
