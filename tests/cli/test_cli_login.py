"""`login` and `logout`: a page on this machine, for exactly one owner; how all logins stand, without showing any."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fakes.authorization import log_in, world
from fakes.gateway_process import MCP_GATEWAY, write_files

POLICY = '[agents.bot]\ntasks = ["t"]\n[tasks.t]\nallow = ["crm/*"]\n'


def files_for(url: str) -> dict[str, str]:
    return {"servers.toml": f'[servers.crm]\nurl = "{url}"\nauth = "oauth"\n', "policies/a.toml": POLICY}


async def run(folder: Path, *words: str) -> tuple[int, str]:
    command = [*MCP_GATEWAY, *words]
    process = await asyncio.create_subprocess_exec(*command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = await process.communicate()
    return process.returncode or 0, (out + err).decode()


async def logged_in(folder: Path, person: str, *words: str) -> dict[str, Any]:
    """Run `login`, be that person in a browser, and return what it printed in the end."""
    command = [*MCP_GATEWAY, "login", "crm", "--no-browser", "--json", *words]
    process = await asyncio.create_subprocess_exec(*command, cwd=folder, stdout=subprocess.PIPE)
    assert process.stdout is not None
    page = json.loads(await process.stdout.readline())["open"]
    assert (await log_in(page, person)).status_code == 200
    said = json.loads(await process.stdout.readline())
    assert await process.wait() == 0
    return dict(said)


@pytest.mark.slow
async def test_a_login_on_the_command_line_is_told_of_and_can_be_ended(tmp_path: Path) -> None:
    async with world() as w:
        write_files(tmp_path, files_for(w.url))
        assert (await logged_in(tmp_path, "alice"))["owner"] == "agent:bot"
        made = await logged_in(tmp_path, "bob", "--person", "bob", "--issuer", "https://idp.example")
        assert made["owner"] == "person:https://idp.example bob"
        _, said = await run(tmp_path, "login", "--status", "--json")
        assert {(each["owner"], each["state"]) for each in json.loads(said)} == {
            ("agent:bot", "valid"),
            ("person:https://idp.example bob", "valid"),
        }
        assert await run(tmp_path, "logout", "crm") == (0, "bot is logged out of crm\n")
        assert (await run(tmp_path, "logout", "crm"))[0] == 1
        assert len(w.revoked) == 1
        _, said = await run(tmp_path, "login", "--status")
        assert "bob" in said and "valid" in said
        _, log = await run(tmp_path, "log", "--json")
        everything = said + log + (tmp_path / "audit.db").read_bytes().decode("latin-1")
        assert not any(secret in everything for secret in [*w.access, *w.refresh, *w.clients.values()])
        assert "logged out" in everything


def test_nobody_has_logged_in_yet(operator: Any) -> None:
    operator.write(files_for("https://crm.example/mcp"))
    [standing] = operator.json("login", "--status")
    assert (standing["upstream"], standing["state"]) == ("crm", "needs_login")
    assert "mcp-gateway login crm" in operator.run("login").stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["login", "erp"], "not an upstream that people log in to"),
        (["login", "crm", "--person", "a", "--agent", "b"], "not both"),
        (["logout", "erp"], "not an upstream that people log in to"),
    ],
)
def test_what_cannot_be_meant_is_refused(operator: Any, words: list[str], said: str) -> None:
    operator.write(files_for("https://crm.example/mcp"))
    result = operator.run(*words, exits=2)
    assert said in " ".join(result.output.replace("│", " ").split())


def test_where_there_are_several_agents_it_has_to_be_said_whose_login_it_is(operator: Any) -> None:
    operator.write({"servers.toml": files_for("https://crm.example/mcp")["servers.toml"]})
    result = operator.run("login", "crm", exits=2)
    assert "--person NAME" in " ".join(result.output.replace("│", " ").split())
