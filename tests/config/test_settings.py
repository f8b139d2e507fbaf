"""The [gateway] table: safe by default, loud where it is not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mcp_gateway.config.secrets import Secrets
from mcp_gateway.config.settings import Settings, is_loopback, read_settings
from mcp_gateway.config.table import ConfigCode, Findings, Table
from mcp_gateway.config.toml_lines import parse

BASE = Path("/etc/gateway")


def read(text: str, environ: dict[str, str] | None = None) -> tuple[Settings, Findings]:
    document, lines = parse(text, "servers.toml")
    findings = Findings(lines)
    return read_settings(Table(document, (), findings), Secrets(environ or {}, BASE)), findings


def codes(text: str) -> list[str]:
    return [error.code for error in read(text)[1].errors]


def test_the_defaults_listen_on_loopback_only_and_let_nobody_in_without_a_key() -> None:
    settings, findings = read("")
    assert (settings.listen, settings.is_loopback, settings.anonymous) == ("127.0.0.1:8765", True, None)
    assert (settings.audit, settings.policies) == (BASE / "audit.db", BASE / "policies")
    assert (settings.max_body_bytes, settings.max_header_bytes) == (4 * 1024 * 1024, 64 * 1024)
    assert findings.errors == findings.warnings == []


def test_paths_count_from_the_folder_of_the_file_and_may_be_absolute() -> None:
    settings, _ = read('audit = "log/a.db"\nstate = "${VAR}/gateway"', {"VAR": "/var/lib"})
    assert (settings.audit, settings.state) == (BASE / "log/a.db", Path("/var/lib/gateway"))


def test_an_ipv6_address_is_written_as_in_a_url() -> None:
    settings, _ = read('listen = "[::1]:80"')
    assert (settings.host, settings.port, settings.listen, settings.is_loopback) == ("::1", 80, "[::1]:80", True)


@pytest.mark.parametrize(
    "listen", ["8765", ":8765", "localhost", "127.0.0.1:99999", "::1:80", "http://x:1", "", "a b:1"]
)
def test_what_is_no_address_and_port_is_refused(listen: str) -> None:
    assert codes(f'listen = "{listen}"') == [ConfigCode.LISTEN]


@pytest.mark.parametrize("listen", ["0.0.0.0:80", "[::]:80", "gateway.example:80", "192.168.1.2:80"])
def test_listening_beyond_this_machine_must_be_written_down_with_the_allowed_hosts(listen: str) -> None:
    assert codes(f'listen = "{listen}"') == [ConfigCode.LISTEN]
    assert codes(f'listen = "{listen}"\nallowed_hosts = ["gateway.example"]') == []


def test_an_anonymous_agent_beyond_this_machine_is_a_warning() -> None:
    text = 'listen = "0.0.0.0:80"\nallowed_hosts = ["g.example:80"]\nanonymous = "guest"'
    settings, findings = read(text)
    assert settings.anonymous == "guest"
    assert [(w.line, w.code) for w in findings.warnings] == [(3, ConfigCode.ANONYMOUS_BEYOND_LOOPBACK)]


@pytest.mark.parametrize(
    "line",
    [
        'anonymous = ""',
        'anonymous = "a/b"',
        'allowed_hosts = ["*"]',
        'allowed_hosts = ["https://a.example"]',
        'allowed_origins = ["*"]',
        'allowed_origins = ["null"]',
        'allowed_origins = ["https://a.example/"]',
        'durability = "none"',
        "max_body_bytes = 0",
        "max_header_bytes = 99999999999",
        "call_timeout_s = inf",
        'audit = ""',
        'state = "a\\u0000b"',
    ],
)
def test_a_value_out_of_bounds_is_refused(line: str) -> None:
    assert codes(line) == [ConfigCode.BAD_VALUE]


def test_a_misspelt_word_gets_the_word_that_was_meant() -> None:
    _, findings = read('record = "digets"')
    assert findings.errors[0].fix == "did you mean 'digest'?"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost", "LOCALHOST"])
def test_loopback_is_recognised(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "localhost.evil.com", "127.0.0.1.evil.com", "", "10.0.0.1"])  # noqa: S104
def test_what_only_looks_like_loopback_is_not(host: str) -> None:
    assert not is_loopback(host)


def test_where_people_sign_in_is_read() -> None:
    settings, findings = read(
        'sign_in = { issuer = "https://idp.example", client_id = "gw", client_secret = "${S}" }',
        {"S": "canary"},
    )
    assert findings.errors == []
    assert settings.sign_in is not None and settings.sign_in.secret == "canary"
    assert "canary" not in repr(settings)


@pytest.mark.parametrize(
    "text",
    [
        'sign_in = { issuer = "https://idp.example" }',
        'sign_in = { client_id = "gw" }',
        'vault_keys = ["dGhlIGtleSBpdHNlbGY="]',
        'vault_keys = ["${KEY}"]',
    ],
)
def test_a_place_that_is_none_is_refused_without_repeating_it(text: str) -> None:
    _, findings = read(text)
    assert [error.code for error in findings.errors] == [ConfigCode.BAD_VALUE]
    assert "dGhl" not in str(findings.errors)


def test_keys_of_the_vault_are_named_not_written() -> None:
    assert read('vault_keys = ["command:kms current", "file:old"]')[0].vault_keys == ("command:kms current", "file:old")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('metrics_key = "${KEY}"', "needs 'admin'"),
        ('metrics_key = "${SHORT}"\nadmin = "127.0.0.1:8766"\nadmin_key = "${KEY}"', "can be guessed"),
    ],
)
def test_metrics_need_a_place_and_a_key_that_cannot_be_guessed(text: str, said: str) -> None:
    _, findings = read(text, {"KEY": "0123456789abcdef" * 2, "SHORT": "canary"})
    assert [said in error.message for error in findings.errors] == [True]
    assert "canary" not in str(findings.errors)


def test_a_metrics_key_is_read_and_never_shown() -> None:
    text = 'admin = "127.0.0.1:8766"\nadmin_key = "${KEY}"\nmetrics_key = "${KEY}"'
    settings, findings = read(text, {"KEY": "0123456789abcdef" * 2})
    assert (settings.metrics_key, findings.errors) == ("0123456789abcdef" * 2, [])
    assert "0123456789abcdef" not in repr(settings)


def test_without_the_package_that_writes_metrics_an_operator_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    text = 'admin = "127.0.0.1:8766"\nadmin_key = "${KEY}"\nmetrics_key = "${KEY}"'
    _, findings = read(text, {"KEY": "0123456789abcdef" * 2})
    assert [error.fix for error in findings.errors] == ["pip install 'mcp-gateway[metrics]'"]
