"""servers.toml as we write and edit it: usable at once, and everybody's comments and order stay."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.config.found import FoundServer
from mcp_gateway.config.servers import load
from mcp_gateway.config.writing import (
    AlreadyThere,
    Comment,
    NoSuchServer,
    added,
    first_policy,
    new_servers_toml,
    removed,
    with_flag,
)
from mcp_gateway.policy.compile import compile_policy
from mcp_gateway.policy.document import from_sources

WRITTEN = """\
# top of the file
[gateway]   # ours
listen = "127.0.0.1:1" # why

# about a
[servers.a]
command = ["x"]  # the program
enabled = false
[servers.a.tools.t]
tags = ["q"]

# about b, which
# takes two lines
[servers.b]
command = ["y"]

# about c
[servers.c]
url = "https://c.example/mcp"   # why
enabled = true # keep
# the end
"""


def test_what_is_written_is_what_the_gateway_reads(tmp_path: Path) -> None:
    servers = [
        FoundServer("a", "", command=("x", 'say "hi"\n\\'), env={"A": "b"}, cwd="sub", include=("r_*",)),
        FoundServer("b", "", url="https://b.example/mcp", headers={"Authorization": "Bearer ${T}", "X-Team": "y"}),
        FoundServer("c", "", url="https://c.example/sse", transport="sse", enabled=False),
    ]
    path = tmp_path / "servers.toml"
    path.write_text(new_servers_toml(servers, {"a": Comment(("from Cursor",))}))
    read = load(path, {"T": "token"})
    assert [server.name for server in read.servers] == ["a", "b", "c"]
    assert read.servers[0].command == ("x", 'say "hi"\n\\')
    assert read.servers[1].headers == {"Authorization": "Bearer token", "X-Team": "y"}
    assert not read.servers[2].enabled
    assert "# from Cursor\n[servers.a]\n" in path.read_text()


def test_without_servers_it_is_a_servers_toml_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "servers.toml"
    path.write_text(new_servers_toml([]))
    assert load(path, {}).servers == ()


def test_a_server_is_added_at_the_end_and_taken_out_again_without_a_trace() -> None:
    server = FoundServer("d", "", command=("z",))
    more = added(WRITTEN, server)
    assert more.startswith(WRITTEN)
    assert tomllib.loads(more)["servers"]["d"] == {"command": ["z"]}
    with pytest.raises(AlreadyThere):
        added(more, server)


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        (
            "a",
            [
                "# about a",
                "[servers.a]",
                'command = ["x"]  # the program',
                "enabled = false",
                "[servers.a.tools.t]",
                'tags = ["q"]',
            ],
        ),
        ("b", ["# about b, which", "# takes two lines", "[servers.b]", 'command = ["y"]']),
        ("c", ["# about c", "[servers.c]", 'url = "https://c.example/mcp"   # why', "enabled = true # keep"]),
    ],
)
def test_taking_a_server_out_takes_its_lines_and_no_other(name: str, gone: list[str]) -> None:
    left = removed(WRITTEN, name).splitlines()
    assert [line for line in WRITTEN.splitlines() if line not in left] == gone
    assert [line for line in left if line not in WRITTEN.splitlines()] == []


def test_switching_changes_one_line(tmp_path: Path) -> None:
    off = with_flag(WRITTEN, "b", enabled=False)
    assert off == WRITTEN.replace("[servers.b]\n", "[servers.b]\nenabled = false\n")
    assert with_flag(off, "b", enabled=True) == WRITTEN
    assert with_flag(WRITTEN, "a", enabled=True) == WRITTEN.replace("enabled = false\n", "")
    assert with_flag(WRITTEN, "c", enabled=False) == WRITTEN.replace("enabled = true # keep", "enabled = false # keep")
    assert with_flag(WRITTEN, "b", enabled=True) == WRITTEN


def test_a_header_on_the_last_line_without_a_line_end_is_no_trap() -> None:
    assert tomllib.loads(with_flag("[servers.a]", "a", enabled=False)) == {"servers": {"a": {"enabled": False}}}


def test_servers_written_in_one_line_are_edited_too() -> None:
    text = 'servers = { a = { command = ["x"] }, b = { url = "https://b" } }  # short\n'
    assert tomllib.loads(with_flag(text, "a", enabled=False))["servers"]["a"]["enabled"] is False
    assert list(tomllib.loads(removed(text, "a"))["servers"]) == ["b"]


def test_a_text_that_looks_like_a_header_is_none() -> None:
    text = '[servers.a]\ncommand = ["""\n[servers.b]\n"""]\n\n[servers.c]\ncommand = ["x"]\n'
    assert tomllib.loads(removed(text, "a")) == {"servers": {"c": {"command": ["x"]}}}


@pytest.mark.parametrize("edit", [removed, lambda text, name: with_flag(text, name, enabled=True)])
def test_a_server_that_is_not_there_is_said_to_be_none(edit: object) -> None:
    with pytest.raises(NoSuchServer):
        edit(WRITTEN, "nobody")  # type: ignore[operator]


NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,8}[a-z0-9]", fullmatch=True)


@given(names=st.lists(NAMES, min_size=1, max_size=4, unique=True), values=st.lists(st.text(max_size=12), max_size=3))
def test_any_server_survives_writing_switching_and_taking_out(names: list[str], values: list[str]) -> None:
    servers = [
        FoundServer(name, "", command=("x", *values), env=dict.fromkeys(["A", "B"], "".join(values))) for name in names
    ]
    text = new_servers_toml(servers)
    told = tomllib.loads(text)["servers"]
    assert [server["command"][1:] for server in told.values()] == [values] * len(names)
    off = with_flag(text, names[0], enabled=False)
    assert tomllib.loads(off)["servers"][names[0]]["enabled"] is False
    assert with_flag(off, names[0], enabled=True) == text
    assert list(tomllib.loads(removed(text, names[0])).get("servers", {})) == names[1:]


def test_the_first_policy_names_each_agent_and_server_and_is_one() -> None:
    policy = compile_policy(from_sources({"a.toml": first_policy(["claude-code", "a.b"], ["time", "git"])}))
    assert set(policy.assignments) == {"claude-code", "a.b"}
    [grant] = policy.tasks["look"].grants
    assert {pattern.upstream for pattern in grant.patterns} == {"time", "git"}
    assert compile_policy(from_sources({"a.toml": first_policy([], [])})).tasks["look"].grants == ()
