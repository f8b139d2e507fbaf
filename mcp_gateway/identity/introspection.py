"""Opaque access tokens: the issuer is asked whether they hold (RFC 7662).

Questions are bounded: so many at once, so many waiting, each answered within seconds or not at all. Where the issuer
cannot be asked nobody is let in, and it is our fault (503), not the agent's. What is remembered of answers is the
business of `tokens`.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from mcp_gateway.domain import Json
from mcp_gateway.errors import BadRequest, IdentityUnavailable
from mcp_gateway.identity.faults import Fault
from mcp_gateway.identity.jwt import TokenRefused
from mcp_gateway.jsonrpc import parse
from mcp_gateway.netguard import Fetcher, FetchFailed

MAX_AT_ONCE: Final = 16
MAX_WAITING: Final = 256
MAX_ANSWER_BYTES: Final = 64 * 1024


class Introspection:
    """One issuer's introspection endpoint, asked with the gateway's own client credentials."""

    def __init__(self, fetcher: Fetcher, url: str, client_id: str, client_secret: str) -> None:
        self._fetcher = fetcher
        self._url = url
        self._headers = {"Authorization": _basic(client_id, client_secret)}
        self._places = asyncio.Semaphore(MAX_AT_ONCE)
        self._waiting = 0

    async def claims_of(self, token: str) -> Json:
        """What the issuer says of an active token. Raises `TokenRefused`, or `IdentityUnavailable`."""
        if self._waiting >= MAX_WAITING:
            raise IdentityUnavailable("too many tokens wait to be introspected")
        self._waiting += 1
        try:
            async with self._places:
                answer = await self._ask(token)
        finally:
            self._waiting -= 1
        if answer.get("active") is not True:
            raise TokenRefused(Fault.INACTIVE)
        return {name: value for name, value in answer.items() if name != "active"}

    async def _ask(self, token: str) -> Mapping[str, Any]:
        form = {"token": token, "token_type_hint": "access_token"}
        try:
            answer = await self._fetcher.post_form(self._url, form, self._headers, max_bytes=MAX_ANSWER_BYTES)
            document = parse(answer.body) if answer.status == 200 else None
        except (FetchFailed, BadRequest) as e:
            raise IdentityUnavailable("the introspection endpoint does not answer") from e
        if not isinstance(document, dict):
            raise IdentityUnavailable("the introspection endpoint refuses the gateway")
        return document


def _basic(client_id: str, client_secret: str) -> str:
    # RFC 6749 section 2.3.1: both are form-encoded before they are joined.
    pair = f"{quote(client_id, safe='')}:{quote(client_secret, safe='')}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"
