"""`check`: every complaint with code, file:line, cause and fix; nothing is started."""

from typing import Any

import pytest

BROKEN = [
    ("unknown-key", 'comand = ["x"]', "GW-CONFIG-UNKNOWN-KEY", 2, "comand"),
    ("wrong-type", 'command = ["x"]\ntimeout_s = "soon"', "GW-CONFIG-WRONG-TYPE", 3, "timeout_s"),
    ("shell-line", 'command = "npx server"', "GW-CONFIG-COMMAND", 2, "no shell"),
    ("no-program", "command = []", "GW-CONFIG-COMMAND", 2, "names no program"),
    ("neither", 'tags = ["x"]', "GW-CONFIG-COMMAND-OR-URL", 1, "command"),
    (
        "unset-variable",
        'url = "https://u.example"\nauth = { bearer = "${NOT_SET_HERE}" }',
        "GW-CONFIG-ENV-UNSET",
        3,
        "",
    ),
    ("no-secret-file", 'url = "https://u.example"\nauth = { bearer = "file:none" }', "GW-CONFIG-SECRET-FILE", 3, ""),
    ("twice", 'command = ["x"]\n[servers.u]\ncommand = ["y"]', "GW-CONFIG-DUPLICATE-SERVER", 3, "'u'"),
    ("no-toml", "command = [", "GW-TOML", 2, "not valid TOML"),
]


@pytest.mark.parametrize(("body", "code", "line", "about"), [b[1:] for b in BROKEN], ids=[b[0] for b in BROKEN])
def test_a_broken_servers_toml_is_named_with_its_line(
    operator: Any, body: str, code: str, line: int, about: str
) -> None:
    operator.write({"servers.toml": f"[servers.u]\n{body}\n"})
    said = operator.run("check", exits=2).stderr
    first = next(each for each in said.splitlines() if each.startswith(code))
    assert f"servers.toml:{line}: " in first
    assert about in first
    found = operator.json("check", exits=2)
    assert found["ok"] is False
    assert (code, line) in {(each["code"], each["line"]) for each in found["errors"]}


def test_a_secret_is_never_repeated(operator: Any) -> None:
    operator.write({"servers.toml": '[servers.u]\nurl = "https://u.example"\nauth = { bearer = "${A_TOKEN} x\\n" }\n'})
    result = operator.run("check", exits=2, A_TOKEN="hunter2")
    assert "hunter2" not in result.output


def test_a_program_that_is_not_there_is_a_warning(operator: Any) -> None:
    operator.write({"servers.toml": '[servers.u]\ncommand = ["no-such-program"]\n', "policies/agents.toml": ""})
    result = operator.run("check")
    assert "warning GW-CONFIG-COMMAND-NOT-FOUND servers.toml:2: the program of 'command' is not on PATH" in (
        result.stderr
    )
    assert "  fix: install it, or write its absolute path" in result.stderr
    assert result.stdout.startswith("ok servers.toml: 1 server (u)\nok ")


def test_a_broken_policy_is_named_and_the_rest_is_still_checked(operator: Any) -> None:
    operator.write({"policies/agents.toml": '[agents.reader]\ntaks = ["read"]\n'})
    result = operator.run("check", exits=2)
    assert "policies/agents.toml:2: unknown key 'taks'" in result.stderr
    assert "fix: did you mean 'tasks'?" in result.stderr
    assert result.stdout == "ok servers.toml: 1 server (files)\n"


def test_a_grant_for_a_server_nobody_configured_is_a_warning(operator: Any) -> None:
    policy = '[agents.a]\ntasks = ["t"]\n[tasks.t]\nallow = [\n  "files/echo",\n  "flies/*",\n]\n'
    operator.write({"policies/agents.toml": policy})
    assert "policies/agents.toml:6: no server is named 'flies'" in operator.run("check").stderr
    [warning] = operator.json("check")["warnings"]
    assert (warning["line"], warning["fix"]) == (6, "did you mean 'files'?")


def test_a_deny_for_every_server_is_no_stranger(operator: Any) -> None:
    policy = '[agents.a]\ntasks = ["t"]\n[tasks.t]\n[[tasks.t.deny]]\ntools = ["*"]\n'
    operator.write({"policies/agents.toml": policy})
    assert operator.json("check") == {"ok": True, "errors": [], "warnings": []}


def test_a_draft_that_no_route_is_is_a_warning(operator: Any) -> None:
    route = '[servers.api.route.v3]\nmatch = ["* **"]\nstate = "draft"\n'
    servers = f'[servers.api]\nrest = "http://127.0.0.1:9"\ninclude = ["* **"]\n{route}'
    policy = '[agents.a]\ntasks = ["t"]\n[tasks.t.routes]\ndrafts = [\n  "api/v3",\n  "api/v4",\n]\n'
    operator.write({"servers.toml": servers, "policies/agents.toml": policy})
    [warning] = operator.json("check")["warnings"]
    assert warning["message"] == "no route is a draft named 'api/v4', so this concerns nothing"
    assert (warning["line"], warning["fix"]) == (6, "did you mean 'api/v3'?")


def test_what_is_sound_is_summed_up(operator: Any) -> None:
    servers, policies = operator.run("check").stdout.splitlines()
    assert servers == "ok servers.toml: 1 server (files)"
    assert policies.startswith("ok policies: policy ")
    assert policies.endswith(", 2 agents (reader, writer)")
    assert operator.json("check") == {"ok": True, "errors": [], "warnings": []}


def test_without_policies_everything_is_denied_and_check_says_so(operator: Any) -> None:
    (operator.folder / "policies/agents.toml").unlink()
    result = operator.run("check")
    assert "everything is denied" in result.output
