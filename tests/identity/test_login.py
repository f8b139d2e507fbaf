"""The embedded authorization server without its pages: programs known by an address, and what has a bound."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mcp_gateway.config.identity import LoginConfig
from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.identity import login
from mcp_gateway.identity.login import AuthorizationServer, OAuthRefused, Wish, signing_key
from mcp_gateway.netguard import Answer, Fetcher, FetchFailed
from mcp_gateway.storage.logins import LoginStore, Person

ADDRESS = "https://app.example/client.json"
CALLBACK = "https://app.example/cb"
NOW = 1_800_000_000.0


class Pages(Fetcher):
    """A fetcher over pages at hand."""

    def __init__(self) -> None:
        super().__init__()
        self.pages: dict[str, Any] = {}
        self.fetched: list[str] = []

    async def get(self, url: str, *, accept: str = "application/json", max_bytes: int = 0) -> Answer:
        self.fetched.append(url)
        if url not in self.pages:
            raise FetchFailed("nobody there")
        page = self.pages[url]
        return Answer(200, {}, page if isinstance(page, bytes) else json.dumps(page).encode())


@pytest.fixture
def pages() -> Pages:
    return Pages()


@pytest.fixture
def server(tmp_path: Path, pages: Pages) -> Iterator[AuthorizationServer]:
    yield made(tmp_path, pages, lambda: NOW)


def made(folder: Path, pages: Fetcher, clock: Callable[[], float]) -> AuthorizationServer:
    store = LoginStore(folder / "state")
    key = signing_key(b"k" * 32)
    return AuthorizationServer("https://gw.example", LoginConfig(), store, key, pages, clock)


async def test_a_program_is_known_by_the_address_of_its_metadata(server: AuthorizationServer, pages: Pages) -> None:
    pages.pages[ADDRESS] = {"client_id": ADDRESS, "client_name": "App", "redirect_uris": [CALLBACK]}
    for _ in range(3):
        client = await server.client(ADDRESS, CALLBACK)
    assert (client.id, client.name) == (ADDRESS, "App")
    assert pages.fetched == [ADDRESS]
    with pytest.raises(OAuthRefused, match="redirect_uri"):
        await server.client(ADDRESS, "https://evil.example/cb")


@pytest.mark.parametrize(
    "page",
    [
        {"client_id": "https://other.example/client.json", "redirect_uris": [CALLBACK]},
        {"redirect_uris": [CALLBACK]},
        {"client_id": ADDRESS},
        {"client_id": ADDRESS, "redirect_uris": ["javascript:alert(1)"]},
        [],
        b"<html>",
        b'{"client_id": "a", "client_id": "b"}',
    ],
    ids=str,
)
async def test_metadata_that_is_anothers_or_none_makes_no_program(
    server: AuthorizationServer, pages: Pages, page: Any
) -> None:
    pages.pages[ADDRESS] = page
    with pytest.raises(OAuthRefused) as refused:
        await server.client(ADDRESS, CALLBACK)
    assert refused.value.error == "invalid_client"


async def test_metadata_that_cannot_be_fetched_makes_no_program(server: AuthorizationServer) -> None:
    with pytest.raises(OAuthRefused, match="cannot be fetched"):
        await server.client(ADDRESS, CALLBACK)


async def test_programs_remembered_by_address_have_a_bound(
    server: AuthorizationServer, pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(login, "MAX_DOCUMENTS", 3)
    for n in range(10):
        address = f"https://app.example/{n}.json"
        pages.pages[address] = {"client_id": address, "redirect_uris": [CALLBACK]}
        await server.client(address, CALLBACK)
    assert len(server._documents) <= 3


async def wished(server: AuthorizationServer, pages: Pages) -> Wish:
    pages.pages[ADDRESS] = {"client_id": ADDRESS, "redirect_uris": [CALLBACK]}
    client = await server.client(ADDRESS, CALLBACK)
    asked = {"response_type": "code", "code_challenge": "a" * 43, "code_challenge_method": "S256"}
    return server.wish(client, {**asked, "redirect_uri": CALLBACK, "scope": "read read openid"})


async def test_scopes_of_openid_are_none_of_ours(server: AuthorizationServer, pages: Pages) -> None:
    wish = await wished(server, pages)
    assert (wish.scope, wish.resource) == ("read", "https://gw.example/mcp")


async def test_codes_have_a_bound_and_end(tmp_path: Path, pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login, "MAX_CODES", 2)
    now = [NOW]
    server = made(tmp_path, pages, lambda: now[0])
    wish = await wished(server, pages)
    person = Person("ann", 0)
    server.code_for(wish, person)
    code = server.code_for(wish, person)
    with pytest.raises(OAuthRefused):
        server.code_for(wish, person)
    now[0] += login.CODE_S
    form = {"grant_type": "authorization_code", "code": code, "client_id": ADDRESS, "redirect_uri": CALLBACK}
    with pytest.raises(OAuthRefused, match="not valid"):
        await server.token({**form, "code_verifier": "v" * 43})
    server.code_for(wish, person)


async def test_failed_logins_remembered_have_a_bound(
    server: AuthorizationServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(login, "MAX_REMEMBERED_FAILURES", 5)
    monkeypatch.setattr(login, "MOST_FAILURES_OF_A_PEER", 99)
    monkeypatch.setattr(login, "is_right", lambda *_: False)
    for n in range(4):
        assert await server.log_in(f"name-{n}", "x", "peer") is None
    with pytest.raises(OAuthRefused):
        for n in range(4):
            await server.log_in(f"more-{n}", "x", "peer")
    assert len(server._failures) <= 5


async def test_until_it_is_known_what_was_revoked_no_token_is_believed(server: AuthorizationServer) -> None:
    with pytest.raises(StoreUnavailable):
        server.is_revoked({"grant": "g"})
    await server.learn_of_revocations()
    assert not server.is_revoked({"grant": "g"})


def test_the_key_set_holds_no_secret(server: AuthorizationServer) -> None:
    [key] = json.loads(server.key_set())["keys"]
    assert "d" not in key
