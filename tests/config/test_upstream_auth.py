"""`auth` of a server: each kind with what it needs, and nothing of another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mcp_gateway.config.secrets import Secrets
from mcp_gateway.config.table import ConfigCode, Findings, Table
from mcp_gateway.config.toml_lines import parse
from mcp_gateway.config.upstream_auth import AuthConfig, AuthKind, read_auth

SECRET = 'client_id = "gw", client_secret = "${S}"'


def read(auth: str, base: Path = Path()) -> tuple[AuthConfig | None, Findings]:
    document, lines = parse(f"auth = {auth}", "servers.toml")
    findings = Findings(lines)
    return read_auth(Table(document, (), findings), Secrets({"S": "canary", "T": "canary-token"}, base)), findings


def good(auth: str, base: Path = Path()) -> AuthConfig:
    config, findings = read(auth, base)
    assert config is not None and findings.errors == [], findings.errors
    return config


def codes(auth: str) -> list[Any]:
    return [complaint.code for complaint in read(auth)[1].errors]


def test_the_shortest_form_is_a_word() -> None:
    assert good('"oauth"') == good("{ oauth = {} }") == AuthConfig(AuthKind.OAUTH)


def test_every_key_of_a_login_is_read() -> None:
    config = good(
        f'{{ oauth = {{ {SECRET}, issuer = "https://as", scopes = ["a"], list_as = "alice",'
        ' client_metadata_url = "https://gw/c.json" } }'
    )
    assert (config.client.client_id, config.client.secret, config.client.issuer) == ("gw", "canary", "https://as")
    assert (config.scopes, config.list_as, config.client_metadata_url) == (("a",), "alice", "https://gw/c.json")
    assert "canary" not in repr(config)


def test_the_gateways_own_account_needs_something_to_prove_itself_with() -> None:
    assert good(f"{{ client_credentials = {{ {SECRET} }} }}").client.secret == "canary"
    key = good('{ client_credentials = { client_id = "gw", private_key = "${S}", algorithm = "RS256", key_id = "k" } }')
    assert (key.client.private_key, key.client.algorithm, key.client.key_id) == ("canary", "RS256", "k")
    assert codes('{ client_credentials = { client_id = "gw" } }') == [ConfigCode.BAD_VALUE]
    assert codes('{ client_credentials = { client_secret = "${S}" } }') == [ConfigCode.BAD_VALUE]


def test_an_assertion_may_change_and_is_read_when_it_is_needed(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("one")
    file.chmod(0o600)
    config = good('{ jwt_bearer = { assertion = "file:token" } }', tmp_path)
    file.write_text("two")
    assert config.token is not None and config.token.read() == "two"
    assert config == good('{ jwt_bearer = { assertion = "file:token" } }', tmp_path), "the same server, not restarted"
    assert codes('{ jwt_bearer = { assertion = "file:missing" } }') == [ConfigCode.SECRET_FILE]
    assert codes("{ jwt_bearer = {} }") == [ConfigCode.BAD_VALUE]


def test_an_exchange_says_where_people_log_in() -> None:
    config = good(f'{{ exchange = {{ {SECRET}, issuer = "https://idp", audience = "crm" }} }}')
    assert (config.client.issuer, config.audience, config.token) == ("https://idp", "crm", None)
    assert codes(f"{{ exchange = {{ {SECRET} }} }}") == [ConfigCode.BAD_VALUE]


def test_an_identity_assertion_names_its_provider() -> None:
    config = good(
        f'{{ id_jag = {{ {SECRET}, idp = {{ issuer = "https://idp", {SECRET} }}, subject_token = "${{T}}" }} }}'
    )
    assert (config.idp.issuer, config.idp.secret) == ("https://idp", "canary")
    assert config.token is not None and config.token.read() == "canary-token"
    assert codes(f"{{ id_jag = {{ {SECRET} }} }}") == [ConfigCode.BAD_VALUE]
    assert codes(f"{{ id_jag = {{ {SECRET}, idp = {{ {SECRET} }} }} }}") == [ConfigCode.BAD_VALUE]


@pytest.mark.parametrize(
    ("auth", "code"),
    [
        ("{ oauth = {}, bearer = '${S}' }", ConfigCode.UNKNOWN_KEY),
        ("{ oauth = { assertion = '${S}' } }", ConfigCode.UNKNOWN_KEY),
        ("{ oauth = { audience = 'x' } }", ConfigCode.UNKNOWN_KEY),
        ("{ oauth = 'per-person' }", ConfigCode.WRONG_TYPE),
        ("{ oauth = { issuer = 'ftp://x' } }", ConfigCode.BAD_VALUE),
        ("{ oauth = { issuer = 'https://u:p@x' } }", ConfigCode.BAD_VALUE),
        ("{ oauth = { client_metadata_url = 'http://gw/c' } }", ConfigCode.BAD_VALUE),
        ("{ client_credentials = { client_id = 'x', client_secret = '${UNSET}' } }", ConfigCode.ENV_UNSET),
        (
            "{ client_credentials = { client_id = 'x', client_secret = '${S}', algorithm = 'none' } }",
            ConfigCode.BAD_VALUE,
        ),
        (
            "{ client_credentials = { client_id = 'x', client_secret = '${S}', algorithm = 'HS256' } }",
            ConfigCode.BAD_VALUE,
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(auth: str, code: ConfigCode) -> None:
    assert code in codes(auth)


def test_a_secret_in_the_file_itself_is_warned_of() -> None:
    _, findings = read('{ oauth = { client_id = "gw", client_secret = "canary" } }')
    assert [complaint.code for complaint in findings.warnings] == [ConfigCode.SECRET_IN_FILE]
    assert "canary" not in str(findings.warnings)


def test_fixed_tokens_are_not_read_here() -> None:
    assert read("{ bearer = '${S}' }")[0] is None
    assert read("{ query = 'k', value = '${S}' }")[0] is None
