"""The reference says what the code does: every key, every default, every example."""

import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mcp_gateway.config.servers import load
from mcp_gateway.errors import Complaint, ConfigInvalid, PolicyInvalid
from mcp_gateway.policy.compile import compile_policy
from mcp_gateway.policy.condition_checks import FIELDS
from mcp_gateway.policy.document import from_sources
from mcp_gateway.policy.golden import run_cases
from tools.source import ROOT

_IDENTITY = ["[identity]", "[identity.issuers.NAME]", "[identity.certificates]", "[identity.login]"]
ROW = re.compile(r"^\| (`[\w`, ]+`) \| (.*?) \| .* \|$", re.MULTILINE)
FENCE = re.compile(r"^```(.*)\n((?:.*\n)*?)```$", re.MULTILINE)
UNHEARD_OF = "0000000000"
"""A key that resembles no other, so that the complaint about it offers all there are."""


def documented(file: str, heading: str) -> dict[str, str]:
    """The keys in the table of one section, with the defaults as written."""
    section = reference(file).split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return {key: default for keys, default in ROW.findall(section) for key in re.findall(r"`(\w+)`", keys)}


def reference(file: str) -> str:
    return (ROOT / "docs/reference" / file).read_text(encoding="utf-8")


def offered(complaints: Iterable[Complaint]) -> set[str]:
    [fix] = [complaint.fix for complaint in complaints if UNHEARD_OF in complaint.message]
    return set(fix.removeprefix("known: ").split(", "))


def keys_of_servers_toml(folder: Path, toml: str) -> set[str]:
    path = folder / "servers.toml"
    path.write_text(f"{toml}\n{UNHEARD_OF} = 1")
    with pytest.raises(ConfigInvalid) as raised:
        load(path, {})
    return offered(raised.value.complaints)


def keys_of_a_policy(toml: str) -> set[str]:
    with pytest.raises(PolicyInvalid) as raised:
        from_sources({"a.toml": f"{toml}\n{UNHEARD_OF} = 1"})
    return offered(raised.value.complaints)


def test_every_key_of_the_gateway_table_is_documented(tmp_path: Path) -> None:
    assert documented("configuration.md", "[gateway]").keys() == keys_of_servers_toml(tmp_path, "[gateway]")


@pytest.mark.parametrize("heading", _IDENTITY)
def test_every_key_of_the_identity_tables_is_documented(heading: str, tmp_path: Path) -> None:
    written = heading.replace("NAME", "name")
    assert documented("configuration.md", heading).keys() == keys_of_servers_toml(tmp_path, written)


def test_every_key_of_a_server_is_documented(tmp_path: Path) -> None:
    by_command = keys_of_servers_toml(tmp_path, '[servers.a]\ncommand = ["true"]')
    by_url = keys_of_servers_toml(tmp_path, '[servers.a]\nurl = "https://a.example/mcp"')
    by_rest = keys_of_servers_toml(tmp_path, '[servers.a]\nrest = "https://a.example"\ninclude = ["* **"]')
    assert documented("configuration.md", "[servers.NAME]").keys() == by_command | by_url | by_rest


def test_every_key_of_a_tool_written_by_hand_is_documented(tmp_path: Path) -> None:
    server = '[servers.a]\nrest = "https://a.example"\ninclude = ["* **"]\n[servers.a.tool.t]\npath = "/v1"'
    assert documented("configuration.md", "tool of a rest server").keys() == keys_of_servers_toml(tmp_path, server)


def test_every_key_of_a_route_is_documented(tmp_path: Path) -> None:
    server = '[servers.a]\nrest = "https://a.example"\ninclude = ["* **"]\n[servers.a.route.r]\nmatch = ["* **"]\n'
    tables = {"route of a rest server": "", "request of a route": "request", "answer of a route": "answer"}
    for heading, table in tables.items():
        toml = f"{server}[servers.a.route.r.{table}]\n" if table else server
        assert documented("configuration.md", heading).keys() == keys_of_servers_toml(tmp_path, toml)


def test_every_key_of_a_model_is_documented(tmp_path: Path) -> None:
    provider = keys_of_servers_toml(tmp_path, '[models.a]\nurl = "https://a.example"')
    alias = keys_of_servers_toml(tmp_path, '[models.b]\nurl = "https://b.example"\n[models.a]\ntargets = ["b/m"]')
    assert documented("configuration.md", "[models.NAME] with a url").keys() == provider
    assert documented("configuration.md", "[models.NAME] with targets").keys() == alias


def test_every_key_of_a_detector_is_documented_with_its_default(tmp_path: Path) -> None:
    written = '[detectors.a]\nurl = "https://a.example"\nkinds = ["b"]'
    rows = documented("configuration.md", "[detectors.NAME]")
    assert rows.keys() == keys_of_servers_toml(tmp_path, written)
    (tmp_path / "servers.toml").write_text(written)
    [detector] = load(tmp_path / "servers.toml", {}).detectors
    for key in ("timeout_s", "at_once", "max_bytes", "if_unavailable", "remember_s"):
        assert value_of(rows[key], key, tmp_path) == plain(getattr(detector, key)), key


def test_the_documented_defaults_of_the_gateway_are_the_real_ones(tmp_path: Path) -> None:
    path = tmp_path / "servers.toml"
    path.write_text("")
    settings = load(path, {}).settings
    for key, written in documented("configuration.md", "[gateway]").items():
        assert value_of(written, key, tmp_path) == plain(getattr(settings, key)), key


def test_the_documented_defaults_of_a_server_are_the_real_ones(tmp_path: Path) -> None:
    path = tmp_path / "servers.toml"
    path.write_text('[servers.a]\ncommand = ["true"]')
    [server] = load(path, {}).servers
    rows = documented("configuration.md", "[servers.NAME]")
    for key in ("env", "cwd", "include", "exclude", "timeout_s", "enabled", "tags"):
        assert value_of(rows[key], key, tmp_path) == plain(getattr(server, key)), key


@pytest.mark.parametrize(
    "heading",
    [
        "[agents.NAME]",
        "[tasks.NAME]",
        "[tasks.NAME.models]",
        "[tasks.NAME.routes]",
        "[[guard]]",
        "[[keep]]",
        "[budgets.NAME]",
        "[[tasks.NAME.grant]]",
        "[[tasks.NAME.deny]]",
    ],
)
def test_every_key_of_a_policy_is_documented(heading: str) -> None:
    assert documented("policy.md", heading).keys() == keys_of_a_policy(heading)


def test_everything_a_condition_sees_is_documented() -> None:
    assert documented("policy.md", "Conditions").keys() == FIELDS.keys()
    for root, fields in FIELDS.items():
        for field in fields or ():
            assert f"`{root}.{field}`" in reference("policy.md")


def test_every_key_of_a_case_is_documented(tmp_path: Path) -> None:
    path = tmp_path / "a.test.toml"
    path.write_text(f"[[case]]\n{UNHEARD_OF} = 1")
    with pytest.raises(PolicyInvalid) as raised:
        run_cases(compile_policy(from_sources({})), [path])
    assert documented("policy.md", "[[case]]").keys() == offered(raised.value.complaints)


def test_the_policy_shown_is_a_policy_and_passes_the_cases_shown(tmp_path: Path) -> None:
    policy = compile_policy(from_sources({"a.toml": "\n".join(examples("toml"))}))
    path = tmp_path / "a.test.toml"
    path.write_text("\n".join(examples("toml test")))
    results = run_cases(policy, [path])
    assert results
    assert all(result.passed for result in results)


def examples(language: str) -> Iterator[str]:
    return (text for fence, text in FENCE.findall(reference("policy.md")) if fence == language)


def value_of(written: str, key: str, folder: Path) -> Any:
    """A default as the table writes it."""
    if written == "none":
        return None
    value = tomllib.loads(f"x = {written.strip('`')}")["x"]
    return folder / value if key in ("audit", "policies", "state", "cwd") else value


def plain(value: Any) -> Any:
    if isinstance(value, (tuple, frozenset)):
        return list(value)
    return dict(value) if hasattr(value, "keys") else value


def test_what_capabilities_say_is_seen_in_a_test_is_in_one_that_exists() -> None:
    named = set(re.findall(r"`((?:\w+/)?test_\w+\.py)`", reference("capabilities.md")))
    assert len(named) > 20
    assert [name for name in named if not (ROOT / "tests" / name).is_file()] == []
