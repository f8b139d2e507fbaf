"""Configurations of the fake servers, and what tests ask of them."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fakes.replies import RecordingReply
from mcp_gateway.config.servers import ServerConfig
from mcp_gateway.domain import Outcome, Reply, Upstream, UpstreamRequest
from mcp_gateway.upstreams.connection import Answer, Connection, Limits

HERE = Path(__file__).parent

QUICK = Limits(
    max_message_bytes=2**20,
    max_answer_bytes=2**21,
    max_noise_bytes=2**20,
    probe_timeout_s=0.3,
    connect_timeout_s=2,
    start_timeout_s=10,
    check_timeout_s=0.3,
    max_pages=20,
    listing_timeout_s=5,
)
"""Bounds that a test need not wait for."""


def hostile(*habits: str, name: str = "hostile", **more: Any) -> ServerConfig:
    """The misbehaving stdio server."""
    return ServerConfig(name, command=(sys.executable, "-S", "-E", str(HERE / "hostile_stdio.py"), *habits), **more)


def sdk(name: str = "sdk", **more: Any) -> ServerConfig:
    """The SDK's server on stdio."""
    return ServerConfig(name, command=(sys.executable, "-W", "ignore", str(HERE / "sdk_server.py")), **more)


def over_http(url: str, name: str = "web", **more: Any) -> ServerConfig:
    """A server at a URL."""
    return ServerConfig(name, url=url, **more)


def call_of(tool: str, /, **arguments: Any) -> UpstreamRequest:
    """A tool call as the gateway hands it on."""
    return UpstreamRequest("tools/call", {"name": tool, "arguments": arguments})


async def call(upstream: Upstream, tool: str, /, reply: Reply | None = None, **arguments: Any) -> Outcome:
    """Call a tool of an upstream."""
    return await upstream.send(call_of(tool, **arguments), reply or RecordingReply())


async def asked(connection: Connection, tool: str, /, reply: Reply | None = None, **arguments: Any) -> Answer:
    """Call a tool over a connection."""
    return await connection.ask(call_of(tool, **arguments), reply or RecordingReply(), 5)


def text_of(answer: Any) -> str:
    """The text of a tool's result."""
    result = answer.result if isinstance(answer, Outcome) else answer
    assert isinstance(result, Mapping), result
    return str(result["content"][0]["text"])


def json_of(answer: Any) -> Any:
    """The JSON in the text of a tool's result."""
    return json.loads(text_of(answer))
