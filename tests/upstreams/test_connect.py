"""A configuration leads to the right connection, by probing where it leaves that open."""

import asyncio
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

import pytest

from fakes import sdk_server
from fakes.raw_http import Asked, answering, http
from fakes.served import serving
from fakes.servers import QUICK, asked, hostile, over_http, text_of
from mcp_gateway.config.servers import ServerConfig
from mcp_gateway.errors import UpstreamError
from mcp_gateway.upstreams.connect import memory_of, open_connection
from mcp_gateway.upstreams.connection import Connection, Listener


def opening(config: ServerConfig) -> AbstractAsyncContextManager[Connection]:
    return open_connection(config, Listener(), QUICK, memory_of(config, {}))


async def test_a_command_is_spoken_to_over_stdio() -> None:
    async with opening(hostile()) as connection:
        assert connection.transport == "stdio"


async def test_a_url_is_probed_down_to_the_oldest_transport() -> None:
    async with serving(sdk_server.fresh_app()) as modern, serving(sdk_server.server.sse_app()) as oldest:
        async with opening(over_http(f"{modern}/mcp")) as connection:
            assert connection.transport == "http"
        async with opening(over_http(f"{oldest}/sse")) as connection:
            assert connection.transport == "sse"
            assert text_of(await asked(connection, "echo", text="x")) == "x"
        async with opening(over_http(f"{oldest}/sse", transport="sse")) as connection:
            assert connection.transport == "sse"
        with pytest.raises(UpstreamError):
            async with opening(over_http(f"{oldest}/sse", transport="http")):
                raise AssertionError


async def test_where_nothing_works_the_first_refusal_is_told() -> None:
    async def answerer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(http(404 if asked.method == "POST" else 418))

    async with answering(answerer) as served:
        with pytest.raises(UpstreamError, match="HTTP 404"):
            async with opening(over_http(served.url)):
                raise AssertionError


def test_what_is_remembered_belongs_to_one_command_or_url_and_shows_neither() -> None:
    kept: dict[str, str] = {}
    one = over_http("http://127.0.0.1/?key=s3cr3t")
    memory_of(one, kept).remember_legacy()
    assert memory_of(replace(one, timeout_s=1), kept).says_legacy
    assert not memory_of(replace(one, url="http://127.0.0.1/other"), kept).says_legacy
    assert not memory_of(replace(one, name="other"), kept).says_legacy
    assert "s3cr3t" not in str(kept)
