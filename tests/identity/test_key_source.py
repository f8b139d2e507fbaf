"""When keys are fetched, when they are not, and how long they last."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fakes.issuer import FakeIssuer, ec, issuing
from fakes.waiting import until
from mcp_gateway.errors import IdentityUnavailable
from mcp_gateway.identity.key_source import (
    LEAST_BETWEEN_S,
    REFRESH_S,
    STALE_OK_S,
    KeySource,
    Load,
    keys_at,
    keys_discovered,
    keys_in,
    metadata_urls,
)
from mcp_gateway.netguard import Allowed, Fetcher, FetchFailed


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Shelf:
    """A key set that is loaded from memory, and counted."""

    def __init__(self) -> None:
        self.idp = FakeIssuer()
        self.loads = 0
        self.is_down = False
        self.gate: asyncio.Event | None = None

    async def load(self) -> bytes:
        self.loads += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.is_down:
            raise FetchFailed("down")
        return self.idp.key_set()


@asynccontextmanager
async def source(load: Load, clock: Clock | None = None) -> AsyncIterator[KeySource]:
    made = KeySource("corp", load, clock or Clock())
    try:
        yield made
    finally:
        await made.aclose()


async def test_a_known_key_is_fetched_once() -> None:
    shelf = Shelf()
    async with source(shelf.load) as keys:
        for _ in range(50):
            assert len(await keys.keys_for("ES256", "k1")) == 1
    assert shelf.loads == 1


async def test_unknown_keys_cause_one_fetch_however_many_come() -> None:
    shelf, clock = Shelf(), Clock()
    async with source(shelf.load, clock) as keys:
        await keys.refresh()
        clock.now += LEAST_BETWEEN_S
        found = await asyncio.gather(*(keys.keys_for("ES256", f"junk-{n}") for n in range(500)))
        assert set(found) == {()}
        for n in range(500):
            assert await keys.keys_for("ES256", f"more-{n}") == ()
        assert shelf.loads == 2
        clock.now += LEAST_BETWEEN_S
        await keys.keys_for("ES256", "junk")
        assert shelf.loads == 3


async def test_a_new_key_is_found_by_the_first_token_that_names_it() -> None:
    shelf, clock = Shelf(), Clock()
    async with source(shelf.load, clock) as keys:
        await keys.refresh()
        shelf.idp.keys["k2"] = ec("k2")
        clock.now += LEAST_BETWEEN_S
        assert len(await keys.keys_for("ES256", "k2")) == 1


async def test_a_key_that_was_taken_back_is_gone_with_the_next_fetch() -> None:
    shelf = Shelf()
    async with source(shelf.load) as keys:
        await keys.refresh()
        shelf.idp.keys = {"k2": ec("k2")}
        await keys.refresh()
        assert await keys.keys_for("ES256", "k1") == ()


async def test_keys_outlive_an_outage_but_not_forever() -> None:
    shelf, clock = Shelf(), Clock()
    async with source(shelf.load, clock) as keys:
        await keys.refresh()
        shelf.is_down = True
        clock.now += STALE_OK_S
        await keys.refresh()
        assert len(await keys.keys_for("ES256", "k1")) == 1
        with pytest.raises(IdentityUnavailable):
            await keys.keys_for("ES256", "k2")  # it may be a new one, for all we know
        clock.now += 1
        with pytest.raises(IdentityUnavailable):
            await keys.keys_for("ES256", "k1")
        shelf.is_down = False
        clock.now += LEAST_BETWEEN_S
        assert len(await keys.keys_for("ES256", "k1")) == 1


async def test_nobody_is_let_in_on_keys_that_never_came_and_they_come_by_themselves_later() -> None:
    shelf, clock = Shelf(), Clock()
    shelf.is_down = True
    async with source(shelf.load, clock) as keys:
        with pytest.raises(IdentityUnavailable):
            await keys.keys_for("ES256", "k1")
        shelf.is_down = False
        clock.now += LEAST_BETWEEN_S
        assert len(await keys.keys_for("ES256", "k1")) == 1


async def test_whoever_hangs_up_does_not_end_the_fetch_of_the_others() -> None:
    shelf = Shelf()
    shelf.gate = asyncio.Event()
    async with source(shelf.load) as keys:
        one, other = (asyncio.create_task(keys.keys_for("ES256", "k1")) for _ in range(2))
        await until(lambda: shelf.loads)
        one.cancel()
        shelf.gate.set()
        assert len(await other) == 1
        assert shelf.loads == 1


async def test_a_document_that_cannot_be_used_leaves_the_keys_there_are() -> None:
    async with issuing() as idp, fetching() as fetcher, source(keys_at(fetcher, f"{idp.origin}/jwks")) as keys:
        await keys.refresh()
        for body in (b"<html>", b'{"keys": 1}', b"x" * 300_000):
            idp.body = body
            await keys.refresh()
            assert len(await keys.keys_for("ES256", "k1")) == 1
        idp.body, idp.status, idp.keys = None, 500, {}
        await keys.refresh()
        assert len(await keys.keys_for("ES256", "k1")) == 1


async def test_keys_are_discovered_where_the_issuers_own_metadata_says() -> None:
    async with issuing() as idp, fetching() as fetcher:
        idp.issuer = idp.origin
        async with source(keys_discovered(fetcher, idp.origin)) as keys:
            assert len(await keys.keys_for("ES256", "k1")) == 1
        assert idp.asked[-2:] == ["/.well-known/openid-configuration", "/jwks"]


@pytest.mark.parametrize(
    "metadata", [{"issuer": "https://other.example"}, {"jwks_uri": None}, {"jwks_uri": "http://10.0.0.1/"}]
)
async def test_metadata_that_is_anothers_or_leads_where_it_must_not_is_not_used(metadata: dict[str, object]) -> None:
    async with issuing() as idp, fetching() as fetcher:
        idp.issuer, idp.metadata = idp.origin, metadata
        async with source(keys_discovered(fetcher, idp.origin)) as keys:
            with pytest.raises(IdentityUnavailable):
                await keys.keys_for("ES256", "k1")
        assert "/jwks" not in idp.asked


async def test_keys_in_a_file_are_read_from_it(tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    async with source(keys_in(file), clock := Clock()) as keys:
        with pytest.raises(IdentityUnavailable):
            await keys.keys_for("ES256", "k1")
        file.write_bytes(FakeIssuer().key_set())
        clock.now += LEAST_BETWEEN_S
        assert len(await keys.keys_for("ES256", "k1")) == 1


def test_metadata_is_looked_for_where_the_specifications_say() -> None:
    assert metadata_urls("https://a.example") == (
        "https://a.example/.well-known/oauth-authorization-server",
        "https://a.example/.well-known/openid-configuration",
    )
    assert metadata_urls("https://a.example/t/")[-1] == "https://a.example/t/.well-known/openid-configuration"
    assert LEAST_BETWEEN_S < REFRESH_S < STALE_OK_S


@asynccontextmanager
async def fetching() -> AsyncIterator[Fetcher]:
    fetcher = Fetcher(Allowed.of(["127.0.0.0/8"]))
    try:
        yield fetcher
    finally:
        await fetcher.aclose()
