"""How many questions an issuer is asked at once, and how the gateway introduces itself."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from fakes.issuer import issuing
from fakes.waiting import until
from mcp_gateway.errors import IdentityUnavailable
from mcp_gateway.identity import introspection
from mcp_gateway.identity.introspection import Introspection
from mcp_gateway.netguard import Allowed, Fetcher


@asynccontextmanager
async def asking(url: str, client_id: str = "gateway") -> AsyncIterator[Introspection]:
    fetcher = Fetcher(Allowed.of(["127.0.0.0/8"]))
    try:
        yield Introspection(fetcher, url, client_id, "s3:cr%t")
    finally:
        await fetcher.aclose()


async def test_credentials_with_special_characters_arrive_as_they_are_meant() -> None:
    async with issuing(active={"t": {"sub": "a"}}) as idp, asking(f"{idp.origin}/introspect", "a:b") as asked:
        assert await asked.claims_of("t") == {"sub": "a"}
        [(_, authorization)] = idp.introspected
        assert base64.b64decode(authorization.removeprefix("Basic ")) == b"a%3Ab:s3%3Acr%25t"


async def test_only_so_many_are_asked_about_at_once_and_only_so_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(introspection, "MAX_AT_ONCE", 2)
    monkeypatch.setattr(introspection, "MAX_WAITING", 5)
    async with issuing(gate=anyio.Event(), active={"t": {}}) as idp, asking(f"{idp.origin}/introspect") as asked:
        waiting = [asyncio.create_task(asked.claims_of("t")) for _ in range(5)]
        await until(lambda: len(idp.asked) == 2)
        with pytest.raises(IdentityUnavailable):
            await asked.claims_of("t")
        assert len(idp.asked) == 2
        assert idp.gate is not None
        idp.gate.set()
        assert await asyncio.gather(*waiting) == [{}] * 5
        assert await asked.claims_of("t") == {}
