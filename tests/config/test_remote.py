"""A server reached by URL: only URLs and headers that can be sent, only credentials that are safe on the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_gateway.config.remote import Remote, read_remote
from mcp_gateway.config.secrets import Secrets
from mcp_gateway.config.table import ConfigCode, Findings, Table
from mcp_gateway.config.toml_lines import parse


def read(text: str, **environ: str) -> tuple[Remote, Findings]:
    document, lines = parse(text, "servers.toml")
    findings = Findings(lines)
    return read_remote(Table(document, (), findings), Secrets(environ, Path())), findings


def error_codes(text: str, **environ: str) -> list[str]:
    _, findings = read(text, **environ)
    assert not any("canary" in str(complaint) for complaint in [*findings.errors, *findings.warnings])
    return [error.code for error in findings.errors]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mcp",
        "ftp://h/",
        "https://",
        "https:///x",
        "https://u:canary@h/",
        "https://h/#f",
        "https://h:x/",
        "https://h /",
        "https://[::1/",
        "https://h/\\r\\n",
        "https://hö/",
        "file:///etc/passwd",
        "javascript:alert(1)",
    ],
)
def test_what_is_no_plain_http_url_is_refused_without_repeating_it(url: str) -> None:
    assert error_codes(f'url = "{url}"') == [ConfigCode.URL]


def test_a_bearer_token_becomes_the_authorization_header() -> None:
    remote, _ = read('url = "https://h/"\nauth = { bearer = "${T}" }', T="abc")
    assert remote.headers == {"Authorization": "Bearer abc"}


def test_a_key_goes_into_the_header_it_names() -> None:
    remote, _ = read('url = "https://h/"\nauth = { header = "X-Api-Key", value = "${T}" }', T="abc")
    assert remote.headers == {"X-Api-Key": "abc"}


@pytest.mark.parametrize("token", ["", "Bearer canary", "canary\\n", "canary canary"])
def test_a_token_that_cannot_be_one_is_refused(token: str) -> None:
    assert error_codes(f'url = "https://h/"\nauth = {{ bearer = "{token}" }}') == [ConfigCode.HEADER]


def test_a_key_can_go_into_the_query_and_is_shown_nowhere() -> None:
    remote, _ = read('url = "https://h/mcp"\nauth = { query = "api key", value = "${T}" }', T="a&b")
    assert remote.url == "https://h/mcp?api+key=a%26b"
    assert remote.shown == "https://h/mcp"
    remote, _ = read('url = "https://h/mcp?x=1"\nauth = { query = "k", value = "${T}" }', T="v")
    assert remote.url == "https://h/mcp?x=1&k=v"


@pytest.mark.parametrize(
    "auth", ["{}", '{ header = "X" }', '{ bearer = "${T}", header = "X", value = "${T}" }', '{ value = "${T}" }']
)
def test_half_a_credential_is_refused(auth: str) -> None:
    assert error_codes(f'url = "https://h/"\nauth = {auth}', T="x") == [ConfigCode.BAD_VALUE]


@pytest.mark.parametrize(
    "headers",
    [
        '"X Y" = "a"',
        '"X:Y" = "a"',
        '"" = "a"',
        'X = ""',
        'X = "canary\\r\\nEvil: 1"',
        'X = "canary\\u0000"',
        'X = " a"',
        'X = "ä€"',
        'Host = "a"',
        'mcp-session-id = "a"',
        'Content-Length = "1"',
    ],
)
def test_a_header_that_cannot_or_must_not_be_sent_is_refused(headers: str) -> None:
    assert error_codes(f'url = "https://h/"\nheaders = {{ {headers} }}') == [ConfigCode.HEADER]


def test_a_header_given_twice_is_refused_whatever_its_case() -> None:
    assert error_codes('url = "https://h/"\nheaders = { X-A = "1", x-a = "2" }') == [ConfigCode.HEADER]
    text = 'url = "https://h/"\nheaders = { authorization = "${T}" }\nauth = { bearer = "${T}" }'
    assert error_codes(text, T="x") == [ConfigCode.HEADER]


@pytest.mark.parametrize(("url", "warned"), [("http://h/", True), ("https://h/", False), ("http://127.0.0.1/", False)])
def test_a_credential_over_plain_http_is_a_warning_unless_it_stays_on_this_machine(url: str, warned: bool) -> None:
    _, findings = read(f'url = "{url}"\nauth = {{ bearer = "${{T}}" }}', T="x")
    assert [w.code for w in findings.warnings] == ([ConfigCode.PLAIN_HTTP] if warned else [])
    _, findings = read(f'url = "{url}"')
    assert findings.warnings == []


@pytest.mark.parametrize("line", ['auth = { bearer = "canary" }', 'headers = { X-Api-Key = "canary" }'])
def test_a_secret_written_into_the_file_is_a_warning(line: str) -> None:
    _, findings = read(f'url = "https://h/"\n{line}')
    assert [w.code for w in findings.warnings] == [ConfigCode.SECRET_IN_FILE]
    assert "canary" not in str(findings.warnings[0])
