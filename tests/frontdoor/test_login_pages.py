"""Logging in to the gateway itself, from the first 401 to the last refresh, over a real socket."""

import re
import secrets
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from fakes.front import POLICY, Front, front
from mcp_gateway.config.identity import IdentityConfig, LoginConfig
from mcp_gateway.identity import login
from mcp_gateway.identity.passwords import hashed
from mcp_gateway.storage.logins import Person

ORIGIN = "https://gw.example"
CALLBACK = "http://127.0.0.1:7777/cb"
PASSWORD = "correct horse battery"
HASH = hashed(PASSWORD)
FORM = {"content-type": "application/x-www-form-urlencoded"}
MATCHED = POLICY.replace("[agents.alice]", "[agents.alice]\nmatch = 'claims.iss == \"https://gw.example\"'", 1)


@dataclass
class Visitor:
    """A program, and the browser of the person it works for."""

    door: Front
    client_id: str = ""
    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(40))
    cookies: dict[str, str] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        return self.door.url.removesuffix("/mcp")

    async def register(self, **more: Any) -> httpx2.Response:
        document = {"client_name": "Cursor", "redirect_uris": [CALLBACK], **more}
        response = await self.door.http.post(f"{self.origin}/register", json=document)
        if response.status_code == 201:
            self.client_id = response.json()["client_id"]
        return response

    async def ask(self, **more: str | None) -> httpx2.Response:
        """Open the authorization page; None leaves a parameter out."""
        challenge = urlsafe_b64encode(sha256(self.verifier.encode()).digest()).rstrip(b"=").decode()
        asked = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": CALLBACK,
            "state": "s1",
            "scope": "read",
            "resource": f"{ORIGIN}/mcp",
            "code_challenge": challenge,
            "code_challenge_method": "S256",
            **more,
        }
        given = {name: value for name, value in asked.items() if value is not None}
        response = await self.door.http.get(f"{self.origin}/authorize", params=given)
        if "set-cookie" in response.headers:
            name, _, rest = response.headers["set-cookie"].partition("=")
            self.cookies[name] = rest.partition(";")[0]
        return response

    async def submit(self, page: httpx2.Response, name: str = "ann", password: str = PASSWORD, **more: str) -> Any:
        [sealed] = re.findall(r'name="request" value="([^"]+)"', page.text)
        form = {"request": unescape(sealed), "name": name, "password": password, **more}
        cookie = "; ".join(f"{key}={value}" for key, value in self.cookies.items())
        headers = {"cookie": cookie} if cookie else {}
        return await self.door.http.post(f"{self.origin}/authorize", data=form, headers=headers)

    async def code(self, **more: str | None) -> str:
        answer = await self.submit(await self.ask(**more))
        assert answer.status_code == 303, answer.text
        return parse_qs(urlsplit(answer.headers["location"]).query)["code"][0]

    async def redeem(self, code: str, **more: str) -> httpx2.Response:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "client_id": self.client_id,
            "redirect_uri": CALLBACK,
            "code_verifier": self.verifier,
            **more,
        }
        return await self.door.http.post(f"{self.origin}/token", data=form)

    async def refresh(self, token: str, **more: str) -> httpx2.Response:
        form = {"grant_type": "refresh_token", "refresh_token": token, "client_id": self.client_id, **more}
        return await self.door.http.post(f"{self.origin}/token", data=form)

    async def use(self, token: str, **more: Any) -> int:
        return (await self.door.call("u__echo", authorization=f"Bearer {token}", **more)).status_code


@asynccontextmanager
async def visiting(folder: Path, **settings: Any) -> AsyncIterator[Visitor]:
    config = IdentityConfig(url=ORIGIN, login=LoginConfig(**settings))
    async with front(folder, identity=config, policy=MATCHED) as door:
        assert door.login is not None
        door.login._store.add_person(Person("ann", 0.0, HASH))
        visitor = Visitor(door)
        if settings.get("registration", True):
            await visitor.register()
        yield visitor


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Visitor]:
    async with visiting(tmp_path) as visitor:
        yield visitor


async def test_from_a_401_to_a_tool_call_and_through_a_renewal(at: Visitor) -> None:
    challenge = (await at.door.call("u__echo", authorization="")).headers["www-authenticate"]
    metadata = urlsplit(re.findall(r'resource_metadata="([^"]+)"', challenge)[0]).path
    resource = (await at.door.http.get(at.origin + metadata)).json()
    assert resource["authorization_servers"] == [ORIGIN]
    server = (await at.door.http.get(f"{at.origin}/.well-known/oauth-authorization-server")).json()
    assert (server["issuer"], server["code_challenge_methods_supported"]) == (ORIGIN, ["S256"])
    answer = await at.submit(await at.ask())
    said = parse_qs(urlsplit(answer.headers["location"]).query)
    assert (answer.status_code, said["state"], said["iss"]) == (303, ["s1"], [ORIGIN])
    tokens = (await at.redeem(said["code"][0])).json()
    assert await at.use(tokens["access_token"]) == 200
    again = (await at.refresh(tokens["refresh_token"])).json()
    assert await at.use(again["access_token"]) == 200
    assert set(at.door.rows("agent, person, identity_strength")) == {("alice", "login:ann", "token")}


async def test_a_code_is_good_once_and_its_reuse_ends_what_came_of_it(at: Visitor) -> None:
    code = await at.code()
    tokens = (await at.redeem(code)).json()
    assert (await at.redeem(code)).json()["error"] == "invalid_grant"
    assert await at.use(tokens["access_token"]) == 401
    assert (await at.refresh(tokens["refresh_token"])).status_code == 400


async def test_a_refresh_token_that_comes_twice_ends_the_grant(at: Visitor) -> None:
    first = (await at.redeem(await at.code())).json()
    second = (await at.refresh(first["refresh_token"])).json()
    assert (await at.refresh(first["refresh_token"])).status_code == 400
    assert (await at.refresh(second["refresh_token"])).status_code == 400
    assert await at.use(second["access_token"]) == 401


async def test_what_was_revoked_is_over_at_once(at: Visitor) -> None:
    tokens = (await at.redeem(await at.code())).json()
    form = {"token": tokens["refresh_token"], "client_id": at.client_id}
    assert (await at.door.http.post(f"{at.origin}/revoke", data={**form, "client_id": "x"})).status_code == 200
    assert await at.use(tokens["access_token"]) == 200
    assert (await at.door.http.post(f"{at.origin}/revoke", data=form)).status_code == 200
    assert await at.use(tokens["access_token"]) == 401


async def test_a_person_who_was_removed_by_another_process_is_out(at: Visitor) -> None:
    tokens = (await at.redeem(await at.code())).json()
    assert at.door.login is not None
    at.door.login._store.remove_person("ann", 9e9)
    await at.door.login.learn_of_revocations()
    assert await at.use(tokens["access_token"]) == 401
    assert (await at.submit(await at.ask())).status_code == 401


@pytest.mark.parametrize(
    "wrong",
    [
        {"code_verifier": "x" * 43},
        {"code_verifier": ""},
        {"client_id": "another"},
        {"redirect_uri": "http://127.0.0.1:7777/other"},
        {"resource": "https://other.example/mcp"},
        {"grant_type": "password"},
    ],
    ids=str,
)
async def test_a_code_is_for_who_asked_with_what_was_asked(at: Visitor, wrong: dict[str, str]) -> None:
    response = await at.redeem(await at.code(), **wrong)
    assert response.status_code == 400
    assert "access_token" not in response.text


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"code_challenge": None}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge_method": None}, "invalid_request"),
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"resource": "https://other.example/mcp"}, "invalid_target"),
        ({"resource": f"{ORIGIN}/mcp/"}, "invalid_target"),
        ({"resource": f"{ORIGIN}/mcp/a/b"}, "invalid_target"),
        ({"scope": 'a"b'}, "invalid_scope"),
    ],
    ids=str,
)
async def test_a_wrong_request_of_a_known_program_is_told_to_it(
    at: Visitor, wrong: dict[str, str | None], error: str
) -> None:
    response = await at.ask(**wrong)
    assert response.status_code == 303
    assert response.headers["location"].startswith(f"{CALLBACK}?")
    said = parse_qs(urlsplit(response.headers["location"]).query)
    assert (said["error"], said["iss"], said["state"]) == ([error], [ORIGIN], ["s1"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"client_id": "unknown"},
        {"client_id": ""},
        {"redirect_uri": "https://evil.example/cb"},
        {"redirect_uri": "http://127.0.0.1:7777/cb/../evil"},
        {"redirect_uri": "//evil"},
        {"redirect_uri": None},
        {"client_id": "https://127.0.0.1:1/client.json"},
        {"client_id": "https://169.254.169.254/latest"},
    ],
    ids=str,
)
async def test_nobody_is_sent_anywhere_for_a_program_that_is_not_known(
    at: Visitor, wrong: dict[str, str | None]
) -> None:
    response = await at.ask(**wrong)
    assert response.status_code == 400
    assert "location" not in response.headers


async def test_a_form_works_in_the_browser_it_was_shown_to_and_nowhere_else(at: Visitor) -> None:
    page = await at.ask()
    mine, at.cookies = at.cookies, {}
    assert (await at.submit(page)).status_code == 400
    at.cookies = dict.fromkeys(mine, "guessed")
    assert (await at.submit(page)).status_code == 400
    at.cookies = mine
    assert (await at.submit(page, request="altered")).status_code == 400
    assert (await at.submit(page)).status_code == 303


async def test_the_page_runs_nothing_loads_nothing_and_is_in_no_frame(tmp_path: Path) -> None:
    async with visiting(tmp_path) as at:
        await at.register(client_name="<script>alert(1)</script>\"'&")
        page = await at.ask()
        assert "<script" not in page.text
        assert "&lt;script&gt;" in page.text
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "form-action 'self' http://127.0.0.1:7777" in policy
        assert "unsafe" not in policy
        assert page.headers["x-frame-options"] == "DENY"
        assert page.headers["cache-control"] == "no-store"
        cookie = page.headers["set-cookie"]
        assert cookie.startswith("__Host-")
        assert all(word in cookie for word in ("HttpOnly", "Secure", "SameSite=Strict", "Path=/"))


async def test_a_wrong_password_says_nothing_of_the_account_and_soon_it_is_too_many(
    at: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(login, "MOST_FAILURES", 3)
    page = await at.ask()
    texts = set()
    for name in ("ann", "nobody"):
        response = await at.submit(page, name, "wrong password!")
        assert response.status_code == 401
        texts.add(re.sub(r'value="[^"]+"', "", response.text))
    assert len(texts) == 1
    for _ in range(2):
        await at.submit(page, "ann", "wrong password!")
    assert (await at.submit(page)).status_code == 429
    assert (await at.submit(page, "ben")).status_code == 401  # another account is not locked with it


async def test_who_denies_is_not_asked_for_a_password(at: Visitor) -> None:
    answer = await at.submit(await at.ask(), "", "", deny="1")
    assert parse_qs(urlsplit(answer.headers["location"]).query)["error"] == ["access_denied"]


async def test_a_token_for_one_endpoint_is_good_there_only(at: Visitor) -> None:
    tokens = (await at.redeem(await at.code(resource=f"{ORIGIN}/mcp/work"))).json()
    assert await at.use(tokens["access_token"], path="/work") == 200
    assert await at.use(tokens["access_token"]) == 401


async def test_where_registration_is_off_nobody_registers(tmp_path: Path) -> None:
    async with visiting(tmp_path, registration=False) as at:
        assert (await at.register()).status_code == 400
        server = (await at.door.http.get(f"{at.origin}/.well-known/oauth-authorization-server")).json()
        assert "registration_endpoint" not in server


async def test_a_gateway_without_it_has_none_of_these_routes(tmp_path: Path) -> None:
    async with front(tmp_path) as door:
        origin = door.url.removesuffix("/mcp")
        for path in ("/authorize", "/token", "/register", "/.well-known/oauth-authorization-server"):
            assert (await door.http.get(origin + path)).status_code == 404


async def test_what_is_no_form_and_other_methods_are_refused(at: Visitor) -> None:
    post = at.door.http.post
    assert (await post(f"{at.origin}/token", json={})).status_code == 400
    assert (await post(f"{at.origin}/token", content=b"a=1&a=2", headers=FORM)).status_code == 400
    many = b"&".join(b"a%d=" % n for n in range(99))
    assert (await post(f"{at.origin}/token", content=many, headers=FORM)).status_code == 400
    is_json = {"content-type": "application/json"}
    assert (await post(f"{at.origin}/register", content=b"{", headers=is_json)).status_code == 400
    assert (await post(f"{at.origin}/register", json=[1])).status_code == 400
    assert (await at.door.http.get(f"{at.origin}/token")).status_code == 405
    evil = {**FORM, "origin": "https://evil.example"}
    assert (await post(f"{at.origin}/authorize", content=b"", headers=evil)).status_code == 403


async def test_no_secret_is_kept_as_it_is(at: Visitor) -> None:
    code = await at.code()
    tokens = (await at.redeem(code)).json()
    await at.door.audit.note("config", "test")
    kept = b"".join(path.read_bytes() for path in at.door.folder.rglob("*") if path.is_file())
    for secret in (PASSWORD, code, tokens["access_token"], tokens["refresh_token"], at.verifier):
        assert secret.encode() not in kept
