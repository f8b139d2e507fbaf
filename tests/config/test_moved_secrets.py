"""Secrets are taken out of wherever they stand, and what is none is left alone."""

import base64

import pytest

from mcp_gateway.config.found import FoundServer
from mcp_gateway.config.moved_secrets import Moved, looks_secret, without_secrets

CANARY = "canary-4f1c9d7e"


def taken(**server: object) -> tuple[FoundServer, tuple[Moved, ...]]:
    (found,), moved = without_secrets(
        (FoundServer("shop", "here", **server),),  # type: ignore[arg-type]
        lambda name, is_whole: f"<{name}{'!' if is_whole else ''}>",
    )
    return found, moved


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (("x", "--api-key", CANARY), "SHOP_API_KEY"),
        (("x", f"--token={CANARY}"), "SHOP_TOKEN"),
        (("x", "--header", f"Authorization: Bearer {CANARY}"), "SHOP_AUTHORIZATION"),
        (("x", "--header", f"X-Api-Key:{CANARY}"), "SHOP_X_API_KEY"),
        (("x", f"postgres://ann:{CANARY}@db/shop"), "SHOP_PASSWORD"),
        (("docker", "run", "-e", f"GITHUB_TOKEN={CANARY}", "image"), "SHOP_GITHUB_TOKEN"),
        (("x", "ghp_16C7e42F292c6912E7710c838347Ae178B4a"), "SHOP_SECRET"),
    ],
)
def test_a_secret_among_the_arguments_is_taken_out(command: tuple[str, ...], name: str) -> None:
    found, moved = taken(command=command)
    [item] = moved
    assert item.name == name
    assert f"<{name}>" in " ".join(found.command)
    assert item.value not in " ".join(found.command)
    assert item.value not in repr(moved)


@pytest.mark.parametrize(
    ("env", "name", "left"),
    [
        ({"GITHUB_TOKEN": CANARY}, "GITHUB_TOKEN", "<GITHUB_TOKEN!>"),
        ({"CODE": "sk-proj-aaaaaaaaaaaaaaaaaaaa"}, "CODE", "<CODE!>"),
        (
            {"DATABASE_URL": f"postgres://a:{CANARY}@h/d"},
            "SHOP_DATABASE_URL_PASSWORD",
            "postgres://a:<SHOP_DATABASE_URL_PASSWORD>@h/d",
        ),
        ({"KEY": "-----BEGIN PRIVATE KEY-----\nabc"}, "KEY", "<KEY!>"),
    ],
)
def test_a_secret_in_the_environment_is_taken_out(env: dict[str, str], name: str, left: str) -> None:
    found, moved = taken(command=("x",), env=env)
    assert [item.name for item in moved] == [name]
    assert list(found.env.values()) == [left]


@pytest.mark.parametrize(
    ("headers", "left"),
    [
        ({"Authorization": f"Bearer {CANARY}"}, {"Authorization": "Bearer <SHOP_TOKEN>"}),
        ({"X-Api-Key": CANARY}, {"X-Api-Key": "<SHOP_X_API_KEY!>"}),
        ({"X-Team": "blue"}, {"X-Team": "blue"}),
    ],
)
def test_a_secret_in_a_header_is_taken_out(headers: dict[str, str], left: dict[str, str]) -> None:
    assert taken(url="https://a/mcp", headers=headers)[0].headers == left


def test_a_secret_in_the_url_is_taken_out_and_a_login_becomes_a_header() -> None:
    found, moved = taken(url=f"https://ann:{CANARY}@a.example/mcp?key=abc%2Fd&page=2")
    assert found.url == "https://a.example/mcp?key=<SHOP_KEY>&page=2"
    assert found.headers == {"Authorization": "Basic <SHOP_TOKEN>"}
    assert {item.name: item.value for item in moved} == {
        "SHOP_KEY": "abc%2Fd",
        "SHOP_TOKEN": base64.b64encode(f"ann:{CANARY}".encode()).decode(),
    }


@pytest.mark.parametrize("value", ["${TOKEN}", "file:secrets/a", "keyring:A", "", "true", "none"])
def test_a_reference_and_a_plain_word_are_left_alone(value: str) -> None:
    found, moved = taken(command=("x",), env={"AUTH_TOKEN": value})
    assert (found.env, moved) == ({"AUTH_TOKEN": value}, ())


@pytest.mark.parametrize(
    "value",
    [
        "-y",
        "@modelcontextprotocol/server-filesystem",
        "/srv/ann/Documents/Notes2026",
        "https://a.example/mcp",
        "UTC",
        "main",
    ],
)
def test_what_looks_like_no_secret_is_left_alone(value: str) -> None:
    assert not looks_secret(value)
    assert taken(command=("x", value))[0].command == ("x", value)


def test_the_same_secret_has_one_name_and_two_secrets_of_one_name_have_two() -> None:
    servers = tuple(
        FoundServer(name, "", command=("x",), env={"API_KEY": key})
        for name, key in (("a", CANARY), ("b", CANARY), ("c", "another-secret"))
    )
    found, moved = without_secrets(servers, lambda name, is_whole: name)
    assert [server.env["API_KEY"] for server in found] == ["API_KEY", "API_KEY", "C_API_KEY"]
    assert [item.value for item in moved] == [CANARY, "another-secret"]
