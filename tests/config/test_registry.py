"""A stranger's description of a server: data is taken, programs never."""

import json
from pathlib import Path
from typing import Any

import pytest

from mcp_gateway.config.found import FoundServer
from mcp_gateway.config.registry import MAX_ARGUMENTS, NotAServer, described


def server(**document: Any) -> FoundServer:
    return described(json.dumps({"name": "com.example/notes", "version": "1.0.0", **document}), "here", None)


def package(kind: str = "npm", identifier: str = "@example/notes", **more: Any) -> FoundServer:
    one = {"registryType": kind, "identifier": identifier, "version": "1.2.3", "transport": {"type": "stdio"}, **more}
    return server(packages=[one])


@pytest.mark.parametrize(
    ("kind", "identifier", "command"),
    [
        ("npm", "@example/notes", ("npx", "-y", "@example/notes@1.2.3")),
        ("pypi", "example-notes", ("uvx", "example-notes==1.2.3")),
        ("nuget", "Example.Notes", ("dnx", "Example.Notes@1.2.3", "--yes")),
        ("oci", "docker.io/example/notes", ("docker", "run", "-i", "--rm", "docker.io/example/notes:1.2.3")),
    ],
)
def test_each_kind_of_package_has_its_own_program(kind: str, identifier: str, command: tuple[str, ...]) -> None:
    found = package(kind, identifier, runtimeHint="bash")
    assert (found.name, found.command) == ("notes", command)


def test_variables_are_references_and_those_without_a_value_are_told() -> None:
    found = package(
        environmentVariables=[
            {"name": "API_KEY", "isRequired": True, "isSecret": True, "default": "never-this"},
            {"name": "REGION", "default": "eu"},
            {"name": "DEBUG"},
            {"name": "FIXED", "value": "a ${b}"},
        ]
    )
    assert found.env == {"API_KEY": "${API_KEY}", "REGION": "${REGION:-eu}", "FIXED": "a $${b}"}
    assert found.needs == ("API_KEY",)


def test_arguments_are_taken_in_order() -> None:
    found = package(
        packageArguments=[
            {"type": "positional", "value": "serve"},
            {"type": "named", "name": "--port", "value": "{port}", "variables": {"port": {"default": "80"}}},
            {"type": "named", "name": "--quiet"},
            {"type": "positional", "valueHint": "folder", "isRequired": True},
        ]
    )
    assert found.command[3:] == ("serve", "--port", "${PORT:-80}", "--quiet", "${FOLDER}")
    assert found.needs == ("FOLDER",)


def test_a_remote_is_an_address_with_headers() -> None:
    headers = [{"name": "Authorization", "value": "Bearer {token}", "isSecret": True}]
    found = server(remotes=[{"type": "streamable-http", "url": "https://a.example/{team}/mcp", "headers": headers}])
    assert (found.url, found.headers) == ("https://a.example/${TEAM}/mcp", {"Authorization": "Bearer ${TOKEN}"})
    assert found.needs == ("TEAM", "TOKEN")
    assert server(remotes=[{"type": "sse", "url": "https://a.example/sse"}]).transport == "sse"


def test_what_a_registry_s_api_wraps_around_it_is_taken_off() -> None:
    inner = {"name": "a/b", "remotes": [{"type": "sse", "url": "https://a.example/sse"}]}
    assert described(json.dumps({"server": inner, "_meta": {}}), "", None).name == "b"


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"packages": [{"registryType": "npm", "identifier": "--registry=https://evil"}]}, "characters"),
        ({"packages": [{"registryType": "npm", "identifier": "a/../../b"}]}, "characters"),
        ({"packages": [{"registryType": "npm", "identifier": "a b; rm -rf"}]}, "characters"),
        ({"packages": [{"registryType": "npm", "identifier": "a", "version": "1 --x"}]}, "characters"),
        ({"packages": [{"registryType": "mcpb", "identifier": "https://a/b.mcpb"}]}, "characters|installed first"),
        ({"packages": [{"registryType": "cargo", "identifier": "a"}]}, "installed first"),
        (
            {
                "packages": [
                    {
                        "registryType": "npm",
                        "identifier": "a",
                        "runtimeArguments": [{"type": "positional", "value": "--eval=x"}],
                    }
                ]
            },
            "arguments of its own",
        ),
        ({"packages": [{"registryType": "npm", "identifier": "a", "transport": {"type": "sse"}}]}, "serves HTTP"),
        (
            {
                "packages": [
                    {"registryType": "npm", "identifier": "a", "environmentVariables": [{"name": "A=B", "value": "1"}]}
                ]
            },
            "no name",
        ),
        ({"remotes": [{"type": "sse", "url": "http://a.example/sse"}]}, "https://"),
        ({"remotes": [{"type": "sse", "url": "file:///etc/passwd"}]}, "https://"),
        ({"remotes": [{"type": "sse", "url": "https://a", "headers": [{"name": "A\r\nB", "value": "x"}]}]}, "no name"),
        ({"remotes": [{}] * (MAX_ARGUMENTS + 1)}, "more than"),
        ({}, "no package and no remote"),
    ],
)
def test_what_is_no_plain_data_is_refused(document: dict[str, Any], said: str) -> None:
    with pytest.raises(NotAServer, match=said):
        server(**document)


@pytest.mark.parametrize("text", ["", "[]", "{}", "not json", '{"name": 7}'])
def test_what_is_no_description_is_refused(text: str) -> None:
    with pytest.raises(NotAServer):
        described(text, "", None)


MANIFEST = {
    "manifest_version": "0.3",
    "name": "Notes",
    "server": {
        "type": "node",
        "entry_point": "server/index.js",
        "mcp_config": {
            "command": "node",
            "args": ["${__dirname}/server/index.js", "${user_config.folder}"],
            "env": {"API_KEY": "${user_config.api_key}"},
        },
    },
    "user_config": {
        "api_key": {"type": "string", "sensitive": True, "default": "never-this"},
        "folder": {"type": "directory", "default": "/notes"},
    },
}


def test_an_unpacked_bundle_is_started_where_it_lies() -> None:
    found = described(json.dumps(MANIFEST), "here", Path("/opt/notes"))
    assert found.command == ("node", "/opt/notes/server/index.js", "${FOLDER:-/notes}")
    assert (found.env, found.needs) == ({"API_KEY": "${API_KEY}"}, ("API_KEY",))


def test_a_bundle_that_is_not_unpacked_or_starts_any_program_is_refused() -> None:
    with pytest.raises(NotAServer, match="unpack"):
        described(json.dumps(MANIFEST), "here", None)
    evil = {**MANIFEST, "server": {"mcp_config": {"command": "curl", "args": ["https://a"]}}}
    with pytest.raises(NotAServer, match="curl"):
        described(json.dumps(evil), "here", Path("/opt"))
