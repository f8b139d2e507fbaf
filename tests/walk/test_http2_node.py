"""HTTP/2 with somebody else's implementation: node's own, with the least windows and no memory for headers."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Iterator

import pytest

from fakes.h2_server import certificate, trusting_client
from fakes.node import node_program, requires_node
from mcp_gateway.upstreams.fast_wire import FastClient

pytestmark = [pytest.mark.slow, requires_node]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with certificate() as pem:
        words, environ = node_program("http2_server.mjs", pem)
        node = subprocess.Popen(words, env={**os.environ, **environ}, stdout=subprocess.PIPE, text=True)
        try:
            assert node.stdout is not None
            yield f"https://127.0.0.1:{int(node.stdout.readline())}/"
        finally:
            node.terminate()
            node.communicate()


@pytest.fixture
async def client(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FastClient]:
    async with trusting_client(monkeypatch) as client:
        yield client


async def echoed(client: FastClient, url: str, body: bytes) -> int:
    """How many connections the server has seen once it has sent a body back."""
    async with client.open("POST", url, {"authorization": "Bearer x"}, body) as response:
        assert (response.status, await response.read(2**24)) == (200, body)
        return int(response.headers["x-sessions"])


async def test_many_at_once_and_in_a_row_share_few_connections(client: FastClient, url: str) -> None:
    before = await echoed(client, url, b"{}")
    await asyncio.gather(*(echoed(client, url, b"%d" % number) for number in range(100)))
    for number in range(1000):  # more than one connection may carry
        after = await echoed(client, url, b"%d" % number)
    assert after - before <= 100 // 10 + 2


async def test_a_large_body_goes_through_the_smallest_windows(client: FastClient, url: str) -> None:
    body = os.urandom(3_000_000)
    assert await echoed(client, url, body)
