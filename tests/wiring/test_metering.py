"""Metrics as a configuration turns them on: names from policy and configuration, facts from the parts."""

from __future__ import annotations

from pathlib import Path

from starlette.responses import PlainTextResponse

from fakes.in_process import FILES, POLICY, caller, running_in, server_table
from fakes.replies import RecordingReply
from mcp_gateway.audit.metered import MeteredAuditLog
from mcp_gateway.domain import Kind, Request, Verb
from mcp_gateway.metrics import CALLS, UPSTREAM_STATE, Names
from mcp_gateway.wiring import Running
from mcp_gateway.wiring.clock import new_request_id
from mcp_gateway.wiring.metering import facts, with_metrics

GATEWAY = """
[gateway]
admin = "127.0.0.1:8766"
admin_key = "0123456789abcdef0123456789abcdef"
metrics_key = "fedcba9876543210fedcba9876543210"

"""
METERED = {**FILES, "servers.toml": GATEWAY + FILES["servers.toml"]}


async def echo(parts: Running) -> None:
    params = {"name": "one__echo", "arguments": {}}
    asked = Request(new_request_id(), Verb.CALL, "tools/call", Kind.TOOL, "one__echo", params)
    await parts.gateway.ask(caller("reader"), asked, RecordingReply())


async def test_where_nobody_wants_metrics_nothing_is_counted(tmp_path: Path) -> None:
    async with running_in(tmp_path) as parts:
        beyond = PlainTextResponse()
        assert (parts.metrics, type(parts.audit).__name__) == (None, "AuditLog")
        assert with_metrics(beyond, parts, parts.metrics) is beyond


async def test_with_a_metrics_key_calls_are_counted_under_configured_names(tmp_path: Path) -> None:
    async with running_in(tmp_path, METERED) as parts:
        assert parts.metrics is not None
        assert isinstance(parts.audit, MeteredAuditLog)
        await echo(parts)
        [calls] = [taken.values for taken in parts.metrics.taken() if taken.family is CALLS]
        assert calls == [(("call", "reader", "read", "one", "allowed", "ok"), 1)]


async def test_an_edited_policy_brings_its_names(tmp_path: Path) -> None:
    async with running_in(tmp_path, METERED) as parts:
        assert parts.metrics is not None
        assert parts.metrics.names == Names(
            agents={"reader", "writer"},
            tasks={"read", "write"},
            upstreams={"one", "two", "models", "provider-tools", "_drafts"},
        )
        edited = POLICY.replace("writer", "editor")
        (tmp_path / "policies/agents.toml").write_text(edited)
        await parts.reload_policy()
        assert parts.metrics.names.agents == {"reader", "editor"}


async def test_what_the_parts_say_of_themselves(tmp_path: Path) -> None:
    servers = GATEWAY + server_table("one") + server_table("two", enabled="false")
    async with running_in(tmp_path, {**METERED, "servers.toml": servers}) as parts:
        told = {taken.family.name: dict(taken.values) for taken in facts(parts)}
        states = [labels for labels, value in told[UPSTREAM_STATE.name].items() if value == 1]
        assert states == [("one", "ready"), ("two", "disabled")]
        assert told["mcp_gateway_audit_healthy"] == {(): 1}
        assert told["mcp_gateway_complaints"] == {(): 0}
        parts.complain("policies", "broken")
        told = {taken.family.name: dict(taken.values) for taken in facts(parts)}
        assert told["mcp_gateway_complaints"] == {(): 1}
