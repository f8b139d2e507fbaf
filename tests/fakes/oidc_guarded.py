"""npm oidc-provider as the authorization server of some MCP servers, which check the tokens it signs."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import httpx2
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from starlette.requests import Request
from starlette.responses import Response

from fakes.authorization import Given, World
from fakes.node import node_binary, node_modules
from fakes.ports import free_port
from fakes.served import serving

SERVER: Final = Path(__file__).with_name("oidc_server.mjs")


class Guarded(World):
    """An MCP server that takes the JWTs of one issuer, for itself alone."""

    issuer: str = ""
    keys: KeySet

    async def _mcp(self, request: Request) -> Response:
        token = request.headers.get("authorization", "").partition(" ")[2]
        try:
            claims: dict[str, Any] = jwt.decode(token, self.keys, algorithms=["RS256"]).claims
            scopes = str(claims.get("scope", ""))
            given = Given(claims["sub"], claims["client_id"], claims["aud"], scopes, claims["exp"])
            given.jkt = claims.get("cnf", {}).get("jkt", "")
            self.access = {token: given}
        except (JoseError, ValueError, KeyError):
            self.access = {}
        return await super()._mcp(request)


@asynccontextmanager
async def oidc_provider(ttl_s: int = 3600, *, rotates: bool = True) -> AsyncIterator[str]:
    """The issuer's URL, served by a node process until the block is left."""
    port, node, modules = free_port(), node_binary(), node_modules()
    command = [str(node), str(SERVER), str(port), str(ttl_s), "yes" if rotates else "no", str(modules)]
    process = await anyio.open_process(command, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        with anyio.fail_after(20):
            await process.stdout.receive()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        with anyio.CancelScope(shield=True):
            await process.wait()
            await process.aclose()


@asynccontextmanager
async def guarded_servers(issuer: str, count: int) -> AsyncIterator[list[Guarded]]:
    """MCP servers that trust this issuer."""
    async with httpx2.AsyncClient(trust_env=False) as client:
        keys = KeySet.import_key_set((await client.get(f"{issuer}/jwks")).json())
    async with AsyncExitStack() as stack:
        servers = []
        for _ in range(count):
            server = Guarded(resource_metadata={"authorization_servers": [issuer], "scopes_supported": ["read"]})
            server.keys = keys
            server.origin = await stack.enter_async_context(serving(server.app()))
            servers.append(server)
        yield servers
