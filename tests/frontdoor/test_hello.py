"""The first line shows nothing that proves who we are, and nobody else can connect."""

import json
import stat
from pathlib import Path

from mcp_gateway.frontdoor.hello import Hello, listening_on


def test_the_line_says_everything_and_what_is_printed_hides_the_proof() -> None:
    hello = Hello("the-token", "1.0", "/etc/servers.toml", agent="reader", task="read", task_token="mgt_1")
    assert json.loads(hello.line())["token"] == "the-token"
    assert hello.line().endswith(b"}\n")
    assert "the-token" not in repr(hello)
    assert "mgt_1" not in repr(hello)


def test_the_socket_is_its_owner_s_alone_and_replaces_one_that_was_left(tmp_path: Path) -> None:
    for _ in range(2):
        with listening_on(tmp_path / "s"):
            assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600
