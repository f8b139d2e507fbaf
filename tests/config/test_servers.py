"""servers.toml: what it means, and that every mistake is named with its line, its fix and no secret."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_gateway.config.servers import Configuration, load
from mcp_gateway.config.table import ConfigCode
from mcp_gateway.errors import Complaint, ConfigInvalid

Load = Callable[..., Configuration]


@pytest.fixture
def read(tmp_path: Path) -> Load:
    def write_and_load(text: str, environ: Mapping[str, str] | None = None) -> Configuration:
        path = tmp_path / "servers.toml"
        path.write_text(text)
        path.chmod(0o600)
        return load(path, environ or {})

    return write_and_load


@pytest.fixture
def complaints(read: Load) -> Callable[..., tuple[Complaint, ...]]:
    def complaints_of(text: str, environ: Mapping[str, str] | None = None) -> tuple[Complaint, ...]:
        with pytest.raises(ConfigInvalid) as caught:
            read(text, environ)
        return caught.value.complaints

    return complaints_of


def only(complaints: tuple[Complaint, ...]) -> Complaint:
    [complaint] = complaints
    return complaint


def test_a_whole_file_is_read_as_written(read: Load, tmp_path: Path) -> None:
    configuration = read(
        """
[servers.git]
command = ["sh", "-c", "${GREETING:-hello}"]
env = { TOKEN = "${SECRET}" }
cwd = "sub"
prefix = "vc"
include = ["get_*"]
exclude = ["get_x"]
timeout_s = 5
tags = ["code"]

[servers.git.tools.get_log]
tags = ["slow"]

[servers.hub]
url = "https://hub.example/mcp"
transport = "http"
http2 = false
headers = { X-Team = "a" }
auth = { bearer = "${SECRET}" }
enabled = false
""",
        {"SECRET": "s3cret", "PATH": "/bin"},
    )
    git, hub = configuration.servers
    assert (git.command, git.transport, git.url) == (("sh", "-c", "hello"), "stdio", None)
    assert (git.env, git.cwd, git.prefix) == ({"TOKEN": "s3cret"}, tmp_path / "sub", "vc")
    assert (git.include, git.exclude, git.timeout_s) == (("get_*",), ("get_x",), 5.0)
    assert (git.tags, git.tool_tags) == (frozenset({"code"}), {"get_log": frozenset({"slow"})})
    assert git.at == f"{tmp_path}/servers.toml:2"
    assert (hub.url, hub.transport, hub.enabled) == ("https://hub.example/mcp", "http", False)
    assert hub.headers == {"X-Team": "a", "Authorization": "Bearer s3cret"}
    assert (git.http2, hub.http2) == (True, False)


def test_an_empty_file_is_usable_and_warns_that_agents_will_see_nothing(read: Load, tmp_path: Path) -> None:
    configuration = read("")
    assert configuration.settings.state == tmp_path / ".mcp-gateway"
    assert [warning.code for warning in configuration.warnings] == [ConfigCode.NO_SERVERS]


def test_a_command_runs_in_the_folder_of_the_file_unless_told_otherwise(read: Load, tmp_path: Path) -> None:
    [server] = read('[servers.a]\ncommand = ["sh"]', {"PATH": "/bin"}).servers
    assert server.cwd == tmp_path


def test_a_missing_file_is_a_complaint_with_a_fix(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        load(tmp_path / "servers.toml", {})
    complaint = only(caught.value.complaints)
    assert complaint.code == ConfigCode.UNREADABLE
    assert "create it" in complaint.fix


def test_a_file_that_is_not_text_is_a_complaint(tmp_path: Path) -> None:
    path = tmp_path / "servers.toml"
    path.write_bytes(b"\xff\xfe[")
    with pytest.raises(ConfigInvalid, match="not UTF-8"):
        load(path, {})


def test_all_complaints_come_at_once_in_the_order_of_the_file(complaints: Any) -> None:
    found = complaints(
        """
[gateway]
lisen = "127.0.0.1:1"
[servers.a]
command = "mcp-server-time --local"
[servers.b]
url = "ftp://x"
timeout_s = "5"
[servers.c]
[extra]
"""
    )
    assert [(complaint.line, complaint.code) for complaint in found] == [
        (3, ConfigCode.UNKNOWN_KEY),
        (5, ConfigCode.COMMAND),
        (7, ConfigCode.URL),
        (8, ConfigCode.WRONG_TYPE),
        (9, ConfigCode.COMMAND_OR_URL),
        (10, ConfigCode.UNKNOWN_KEY),
    ]
    assert found[0].fix == "did you mean 'listen'?"


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ('[servers.a]\ncommand = ["sh"]\nurl = "https://x/"', ConfigCode.COMMAND_OR_URL, "together"),
        ("[servers.a]\nenabled = true", ConfigCode.COMMAND_OR_URL, "neither"),
        ("[servers.a]\ncommand = []", ConfigCode.COMMAND, "no program"),
        ('[servers.a]\ncommand = [""]', ConfigCode.COMMAND, "no program"),
        ('[servers.a]\ncommand = ["sh", 1]', ConfigCode.WRONG_TYPE, "integer"),
        ('[servers.a]\ncommand = ["sh"]\nenv = { A = 1 }', ConfigCode.WRONG_TYPE, "integer"),
        ('[servers.a]\ncommand = ["sh"]\nenv = { A-B = "1" }', ConfigCode.BAD_VALUE, "environment variable"),
        ('[servers.a]\ncommand = ["sh"]\nheaders = { A = "1" }', ConfigCode.UNKNOWN_KEY, "beside 'command'"),
        ('[servers.a]\ncommand = ["sh"]\nhttp2 = false', ConfigCode.UNKNOWN_KEY, "beside 'command'"),
        ('[servers.a]\nurl = "https://x/"\nhttp2 = "no"', ConfigCode.WRONG_TYPE, "'http2'"),
        ('[servers.a]\nurl = "https://x/"\ncwd = "."', ConfigCode.UNKNOWN_KEY, "beside 'url'"),
        ('[servers.a]\nurl = "https://x/"\nchildren = 2', ConfigCode.UNKNOWN_KEY, "beside 'url'"),
        ('[servers.a]\ncommand = ["x"]\nchildren = 0', ConfigCode.BAD_VALUE, "out of range"),
        ('[servers.a]\ncommand = ["sh"]\ntransport = "sse"', ConfigCode.BAD_VALUE, "'sse'"),
        ('[servers.a]\nurl = "https://x/"\ntransport = "stdio"', ConfigCode.BAD_VALUE, "'stdio'"),
        ('[servers.a]\ncommand = ["sh"]\nprefix = "a__b"', ConfigCode.BAD_VALUE, "'prefix'"),
        ('[servers.a]\ncommand = ["sh"]\ninclude = [""]', ConfigCode.BAD_VALUE, "empty string"),
        ('[servers.a]\ncommand = ["sh"]\ntimeout_s = 0', ConfigCode.BAD_VALUE, "out of range"),
        ('[servers.a]\ncommand = ["sh"]\ntimeout_s = nan', ConfigCode.BAD_VALUE, "out of range"),
        ('[servers.a]\ncommand = ["sh"]\ntimeout_s = true', ConfigCode.WRONG_TYPE, "boolean"),
        ('[servers.a]\ncommand = ["sh"]\nenabled = "no"', ConfigCode.WRONG_TYPE, "string"),
        ('[servers.a]\ncommand = ["sh"]\n[servers.a.tools.x]\ntag = []', ConfigCode.UNKNOWN_KEY, "'tag'"),
        ("[servers.a]\nurl = 5", ConfigCode.WRONG_TYPE, "'url' must be a string"),
        ('[servers.a]\nurl = "https://x/"\nauth = { bearer = 5 }', ConfigCode.WRONG_TYPE, "'bearer' must be a string"),
        ("servers = 1", ConfigCode.WRONG_TYPE, "a table, not an integer"),
        ("[servers]\na = 1979-05-27", ConfigCode.WRONG_TYPE, "a date"),
        ("gateway = []", ConfigCode.WRONG_TYPE, "a list"),
    ],
)
def test_a_mistake_is_named(complaints: Any, text: str, code: ConfigCode, words: str) -> None:
    complaint = only(complaints(text))
    assert complaint.code == code
    assert words in complaint.message


@pytest.mark.parametrize("name", ["A", "a__b", '"a/b"', "_a", "a_", "-a", '"ä"', '""', '"a b"', "a" * 33])
def test_a_name_that_cannot_begin_a_public_name_is_refused(complaints: Any, name: str) -> None:
    complaint = only(complaints(f'[servers.{name}]\ncommand = ["sh"]'))
    assert complaint.code == ConfigCode.SERVER_NAME


@pytest.mark.parametrize("name", ["a", "0", "my-server", "my_server", "a-", "a" * 32])
def test_a_plain_name_is_accepted(read: Load, name: str) -> None:
    assert read(f'[servers.{name}]\ncommand = ["sh"]', {"PATH": "/bin"}).servers[0].name == name


def test_two_servers_of_one_name_are_a_clear_complaint_on_the_second_ones_line(complaints: Any) -> None:
    complaint = only(complaints('[servers.a]\ncommand = ["sh"]\n\n[servers.a]\ncommand = ["sh"]\n'))
    assert (complaint.line, complaint.code) == (4, ConfigCode.DUPLICATE_SERVER)
    assert complaint.message == "there is already a server named 'a'"


def test_names_that_differ_only_by_case_are_refused(complaints: Any) -> None:
    codes = [c.code for c in complaints('[servers.a]\ncommand = ["sh"]\n[servers.A]\ncommand = ["sh"]')]
    assert codes == [ConfigCode.DUPLICATE_SERVER]


def test_text_that_is_not_toml_keeps_its_own_complaint(complaints: Any) -> None:
    complaint = only(complaints("[servers.a]\ncommand = [\n"))
    assert complaint.code == "GW-TOML"


def test_two_servers_of_one_prefix_are_refused(complaints: Any) -> None:
    text = '[servers.a]\ncommand = ["sh"]\n[servers.b]\ncommand = ["sh"]\nprefix = "a"'
    complaint = only(complaints(text))
    assert (complaint.line, complaint.code) == (5, ConfigCode.DUPLICATE_PREFIX)


def test_any_number_of_servers_may_have_no_prefix(read: Load) -> None:
    text = '[servers.a]\ncommand = ["sh"]\nprefix = ""\n[servers.b]\ncommand = ["sh"]\nprefix = ""'
    assert [server.prefix for server in read(text, {"PATH": "/bin"}).servers] == ["", ""]


def test_a_program_that_is_not_there_is_only_a_warning(read: Load) -> None:
    configuration = read('[servers.a]\ncommand = ["no-such-program-anywhere"]')
    warning = only(configuration.warnings)
    assert (warning.code, warning.line) == (ConfigCode.COMMAND_NOT_FOUND, 2)


def test_an_unset_variable_is_named_with_its_line(complaints: Any) -> None:
    complaint = only(complaints('[servers.a]\nurl = "https://x/"\nauth = { bearer = "${TOKEN}" }'))
    assert (complaint.line, complaint.code) == (3, ConfigCode.ENV_UNSET)
    assert "TOKEN" in complaint.message


def test_a_disabled_server_needs_none_of_its_secrets(read: Load) -> None:
    text = '[servers.a]\nenabled = false\nurl = "${BASE}/x"\nauth = { bearer = "${TOKEN}" }\nheaders = { X = "file:x" }'
    assert read(text).servers[0].enabled is False


def test_a_disabled_server_is_still_checked_for_mistakes(complaints: Any) -> None:
    complaint = only(complaints('[servers.a]\nenabled = false\ncommand = ["sh"]\ntimeout = 1'))
    assert complaint.code == ConfigCode.UNKNOWN_KEY


def test_a_file_that_everybody_can_edit_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "servers.toml"
    path.write_text('[servers.a]\ncommand = ["sh"]')
    path.chmod(0o666)
    assert only(load(path, {"PATH": "/bin"}).warnings).code == ConfigCode.WRITABLE


def test_no_repr_shows_a_secret(read: Load) -> None:
    text = """
[servers.a]
url = "https://x/mcp?key=${S}"
auth = { bearer = "${S}" }
headers = { X-Key = "${S}" }
[servers.b]
command = ["sh", "${S}"]
env = { S = "${S}" }
"""
    configuration = read(text, {"S": "canary", "PATH": "/bin"})
    assert "canary" in configuration.servers[0].headers["Authorization"]
    assert "canary" not in repr(configuration)
    assert [server.shown for server in configuration.servers] == ["https://x/mcp", "sh '${S}'"]


def test_the_version_changes_with_the_text_and_not_with_the_secrets(read: Load) -> None:
    text = '[servers.a]\ncommand = ["sh"]\nenv = { K = "${S}" }'
    first = read(text, {"S": "one", "PATH": "/bin"})
    assert first.version == read(text, {"S": "two", "PATH": "/bin"}).version
    assert first.version != read(text + "\n", {"S": "one", "PATH": "/bin"}).version


def test_a_changed_secret_makes_the_server_differ_so_that_a_reload_restarts_it(read: Load) -> None:
    text = '[servers.a]\ncommand = ["sh"]\nenv = { K = "${S}" }'
    assert read(text, {"S": "one"}).servers != read(text, {"S": "two"}).servers


KEYS = st.sampled_from(
    [
        "command",
        "url",
        "env",
        "cwd",
        "headers",
        "http2",
        "auth",
        "prefix",
        "include",
        "timeout_s",
        "enabled",
        "tags",
        "tools",
        "transport",
        "listen",
        "allowed_hosts",
        "anonymous",
        "audit",
        "odd",
    ]
)
SCALARS = st.one_of(
    st.sampled_from(
        [
            '"canary"',
            '"${CANARY}"',
            '"file:canary"',
            '""',
            "1",
            "-1",
            "nan",
            "1e400",
            "true",
            "1979-05-27",
            "07:32:00",
            '"https://canary:x@[::1"',
            '"${"',
            '"\\u0000"',
            '"a\\r\\nb"',
            "99999999999999999999999",
        ]
    )
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.dictionaries(KEYS, inner, max_size=3).map(
            lambda pairs: "{ " + ", ".join(f"{k} = {v}" for k, v in pairs.items()) + " }"
        ),
    ),
    max_leaves=5,
)
TABLES = st.tuples(
    st.sampled_from(["gateway", "servers.a", "servers.b", '"servers"."A"', "servers", "other"]),
    st.dictionaries(KEYS, VALUES, max_size=4),
).map(lambda table: f"[{table[0]}]\n" + "".join(f"{k} = {v}\n" for k, v in table[1].items()))


@given(st.lists(TABLES, max_size=3).map("".join))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_is_written_is_loaded_or_refused_with_lines_and_without_secrets(tmp_path: Path, text: str) -> None:
    path = tmp_path / "servers.toml"
    path.write_text(text)
    try:
        load(path, {"CANARY": "the-secret"})
    except ConfigInvalid as invalid:
        assert invalid.complaints
        for complaint in invalid.complaints:
            assert 1 <= complaint.line <= text.count("\n") + 1
            assert complaint.code.startswith("GW-")
        assert "the-secret" not in str(invalid)


@given(st.text(max_size=200))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_text_is_loaded_or_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "servers.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        load(path, {})
    except ConfigInvalid as invalid:
        assert invalid.complaints
