"""Names that lead to addresses that are not public: nothing is sent there, whatever kind of upstream they are of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fakes.authorization import world
from fakes.in_process import running_in
from fakes.replies import RecordingReply
from mcp_gateway.domain import Caller, Kind, Request, UpstreamState, Verb
from mcp_gateway.errors import Unreachable
from mcp_gateway.wiring import new_request_id

POLICY = """
[agents.bot]
tasks = ["work"]
default_task = "work"

[tasks.work]
allow = ["api/*"]
"""

NOT_PUBLIC = "leads to an address that is not public and not allowed"


def as_a_name(url: str) -> str:
    """`127.1` is no address in the one usual way of writing them: it has to be resolved, like any name."""
    return url.replace("127.0.0.1", "127.1")


def states(parts: Any) -> dict[str, tuple[UpstreamState, str]]:
    return {status.name: (status.state, status.detail) for status in parts.pool.statuses()}


async def test_mcp_servers_and_apis_behind_such_a_name_are_sent_nothing(tmp_path: Path) -> None:
    async with world() as w:
        url = as_a_name(w.url)
        servers = f'[servers.http]\nurl = "{url}"\n[servers.sse]\nurl = "{url}"\ntransport = "sse"\n'
        api = f'[servers.api]\nrest = "{as_a_name(w.origin)}"\n'
        api += '[servers.api.tool.keys]\npath = "/jwks"\n'
        files = {"servers.toml": servers + api, "policies/p.toml": POLICY}
        async with running_in(tmp_path, files) as parts:
            assert NOT_PUBLIC in states(parts)["http"][1]
            assert NOT_PUBLIC in states(parts)["sse"][1]
            request = Request(
                new_request_id(),
                Verb.CALL,
                "tools/call",
                Kind.TOOL,
                "api__keys",
                {"name": "api__keys", "arguments": {}},
            )
            with pytest.raises(Unreachable, match=NOT_PUBLIC):
                await parts.gateway.ask(Caller("bot", "work"), request, RecordingReply())


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_an_address_or_localhost_in_the_url_is_what_the_operator_meant(tmp_path: Path, host: str) -> None:
    async with world() as w:
        files = {
            "servers.toml": f'[servers.here]\nurl = "{w.url.replace("127.0.0.1", host)}"\n',
            "policies/p.toml": POLICY,
        }
        async with running_in(tmp_path, files) as parts:
            assert "credentials" in states(parts)["here"][1], "it was asked, and wants a token"


async def test_what_the_operator_allows_is_connected_to(tmp_path: Path) -> None:
    async with world() as w:
        servers = f'[gateway]\nallow_addresses = ["127.0.0.0/8"]\n[servers.here]\nurl = "{as_a_name(w.url)}"\n'
        files = {"servers.toml": servers, "policies/p.toml": POLICY}
        async with running_in(tmp_path, files) as parts:
            assert "credentials" in states(parts)["here"][1], "it was asked, and wants a token"
