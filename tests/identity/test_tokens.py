"""Tokens at the front door, from an issuer that really signs: who gets in, as whom, and for how long."""

import asyncio
import time
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from fakes.front import POLICY, Front, front, initialize, request
from fakes.issuer import ORIGIN, RESOURCE, FakeIssuer, ec, issuing, jwk, proof, signed, signed_by_secret, unsigned
from fakes.upstream import Hanging, answering_with
from fakes.waiting import until
from mcp_gateway.config.identity import CertificateConfig, IdentityConfig
from mcp_gateway.domain import Outcome, OutcomeStatus, RpcError
from mcp_gateway.frontdoor.housekeeping import close_revoked
from mcp_gateway.identity.certificates import Certificates
from mcp_gateway.identity.shown import Shown

MATCHES = """
[agents.alice]
match = 'claims.client_id == "bot" && claims.iss.startsWith("https://idp")'"""

WITH_MATCH = (
    POLICY.replace("\n[agents.alice]", MATCHES, 1)
    + """
[agents.twin]
match = 'claims.client_id == "twins"'
tasks = ["rest"]

[agents.other-twin]
match = 'claims.client_id.startsWith("twins")'
tasks = ["rest"]

[agents.mesh]
match = 'claims.certificate.uri.exists(u, u == "spiffe://corp/mesh")'
tasks = ["work"]
default_task = "work"

[[tasks.work.grant]]
tools = ["u/secret"]
scopes = ["secrets:read", "read"]
when = '!has(args.path) || args.path != "never"'

[[tasks.work.grant]]
tools = ["u/secret_routed"]
when = 'person == "corp:carol"'
"""
)


@dataclass
class Trusting:
    """A front door that believes one issuer, and that issuer."""

    door: Front
    idp: FakeIssuer

    async def call(self, token: str, name: str = "u__echo", scheme: str = "Bearer", **more: Any) -> httpx2.Response:
        return await self.door.call(name, {}, authorization=f"{scheme} {token}".strip(), **more)

    async def reasons(self) -> list[str]:
        """What the audit counted refusals under, so far."""
        self.door.audit._flush_refusals()
        await self.door.audit.note("config", "test")  # behind the refusals: once it is there, they are
        events = self.door.events()
        return [name for kind, name in events if kind == "refused"]


@asynccontextmanager
async def trusting(tmp_path: Path, **more: Any) -> AsyncIterator[Trusting]:
    """`more`: of the issuer's configuration, but for `identity`, which is of all of it."""
    identity = more.pop("identity", {})
    async with issuing(issuer="https://idp.example") as idp:
        if more.pop("introspection", False):
            more["introspection"] = idp.introspection()
        config = IdentityConfig(url=ORIGIN, issuers=(idp.config(**more),), **identity)
        async with front(tmp_path, identity=config, policy=WITH_MATCH) as door:
            yield Trusting(door, idp)


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Trusting]:
    async with trusting(tmp_path) as made:
        yield made


# Who gets in


async def test_a_good_token_is_the_agent_that_the_policy_matches_it_to(at: Trusting) -> None:
    response = await at.call(at.idp.token())
    assert response.status_code == 200
    assert at.door.rows("agent, person, identity_strength, decision") == [("alice", "corp:alice", "token", "allowed")]


async def test_a_program_that_acts_for_nobody_has_no_person(at: Trusting) -> None:
    await at.call(at.idp.token(sub="bot"))
    await at.call(at.idp.token(sub="bot@clients"))
    assert at.door.rows("agent, person") == [("alice", None)] * 2


async def test_a_person_is_visible_to_conditions(at: Trusting) -> None:
    assert "error" in (await at.call(at.idp.token(), "u__secret_routed")).json()
    assert "error" not in (await at.call(at.idp.token(sub="carol"), "u__secret_routed")).json()


async def test_after_the_first_time_nothing_is_fetched_and_nothing_verified(at: Trusting) -> None:
    token = at.idp.token()
    for _ in range(20):
        assert (await at.call(token)).status_code == 200
    assert at.idp.asked == ["/jwks"]
    assert at.door.tokens_known() == 1


async def test_what_is_at_hand_is_no_more_than_what_would_be_let_in(at: Trusting) -> None:
    """The short way of the front door: whoever would be refused, or has a proof to show, is not known there."""

    def known(token: str, task: str | None = None, scheme: str = "Bearer", now: datetime | None = None) -> bool:
        shown = Shown([f"{scheme} {token}"], task)
        return at.door.verifier.at_hand(shown, now or datetime.now(UTC)) is not None

    good, work = at.idp.token(), at.idp.token(aud=f"{RESOURCE}/work")
    stranger, held = at.idp.token(client_id="stranger"), bound(at.idp)
    assert not known(good)
    for token in (good, stranger):
        await at.call(token)
    await at.call(work, path="/work")
    await at.call(held, scheme="DPoP", dpop=proof(ec("holder"), held))
    assert known(good)
    assert known(good, "work")
    assert known(work, "work")
    assert not known(work)
    assert not known(work, "rest")
    assert not known(stranger)
    assert not known(held, scheme="DPoP")
    assert not known(held)
    assert not known(good, scheme="DPoP")
    assert not known(good, now=datetime.now(UTC) + timedelta(hours=1))
    at.door.offer(policy=WITH_MATCH.replace('client_id == "bot"', 'client_id == "robot"'))
    assert not known(good)


async def test_api_keys_work_beside_tokens_and_no_issuer_hears_of_them(tmp_path: Path) -> None:
    async with trusting(tmp_path, introspection=True) as at:
        assert (await at.door.call("u__echo")).status_code == 200
        key = at.door.token()
        wrong = key[:-1] + ("x" if key[-1] != "x" else "y")
        assert (await at.call(wrong)).status_code == 401
        assert at.idp.introspected == []


async def test_a_new_signing_key_works_at_once_and_an_old_one_until_it_is_taken_back(at: Trusting) -> None:
    assert (await at.call(at.idp.token())).status_code == 200
    at.idp.keys["k2"] = ec("k2")
    assert (await at.call(at.idp.token("k2"))).status_code == 401  # asked for too soon after the last time
    at.door.key_source()._tried_at = None
    assert (await at.call(at.idp.token("k2"))).status_code == 200


# Attacks: the same answer for all of them, and the audit knows better


def forgeries(idp: FakeIssuer) -> dict[str, tuple[str, str]]:
    """Forged tokens, with what the audit calls them."""
    thief = ec("thief")
    header = {"typ": "at+jwt", "kid": "k1"}
    forged = signed(idp.claims(), thief, **header)
    return {
        "none": (unsigned(idp.claims(), alg="none"), "malformed"),
        "none with a signature": (unsigned(idp.claims(), "AAAA", alg="none"), "algorithm"),
        "the public key as a secret": (signed_by_secret(idp.claims(), idp.key_set()), "algorithm"),
        "another key": (forged, "signature"),
        "its own key": (signed(idp.claims(), thief, **header, jwk=jwk(thief)), "signature"),
        "a key elsewhere": (signed(idp.claims(), thief, **{**header, "jku": f"{idp.origin}/evil"}), "signature"),
        "a key id that is a path": (idp.token(header={"kid": "../../../dev/null"}), "key"),
        "a key id that is a query": (idp.token(header={"kid": "k1' OR '1'='1"}), "key"),
        "a key id that is an address": (idp.token(header={"kid": f"{idp.origin}/evil"}), "key"),
        "a critical parameter": (idp.token(header={"crit": ["x"], "x": 1}), "header"),
        "an ID token": (idp.token(header={"typ": "JWT"}), "type"),
        "no type": (idp.token(header={"typ": None}), "type"),
        "another issuer": (idp.token(iss="https://evil.example"), "issuer"),
        "the issuer with a slash": (idp.token(iss="https://idp.example/"), "issuer"),
        "no issuer": (idp.token(iss=None), "issuer"),
        "another audience": (idp.token(aud="https://other.example/mcp"), "audience"),
        "an audience that begins like us": (idp.token(aud=f"{RESOURCE}2"), "audience"),
        "our origin alone": (idp.token(aud=ORIGIN), "audience"),
        "another endpoint": (idp.token(aud=f"{RESOURCE}/rest"), "audience"),
        "no audience": (idp.token(aud=None), "audience"),
        "expired": (idp.token(exp=int(time.time()) - 3600), "expired"),
        "never expires": (idp.token(exp=None), "claims"),
        "expires as a text": (idp.token(exp="2099"), "claims"),
        "not yet": (idp.token(nbf=int(time.time()) + 3600), "not_yet"),
        "nobody": (idp.token(sub=None), "claims"),
        "a subject that is a list": (idp.token(sub=["alice"]), "claims"),
        "bound in a way nobody knows": (idp.token(cnf={"osc": "x"}), "binding"),
        "bound to a key, shown without it": (idp.token(cnf={"jkt": "x"}), "binding"),
        "bound to a certificate, shown without it": (idp.token(cnf={"x5t#S256": "x"}), "binding"),
        "encrypted": ("eyJhbGciOiJkaXIifQ.a.b.c.d", "malformed"),
        "no token": ("ey.ey.ey", "malformed"),
        "opaque": ("opaque", "malformed"),
        "huge": ("ey" + "a" * 8200 + ".a.a", "malformed"),
    }


async def test_every_forgery_is_a_401_that_says_nothing_and_the_audit_says_what_it_was(at: Trusting) -> None:
    answers = set()
    expected = []
    for name, (token, fault) in forgeries(at.idp).items():
        at.door.key_source()._tried_at = None  # each may have the keys fetched again: it does not help
        response = await at.call(token)
        assert response.status_code == 401, name
        answers.add((response.text, response.headers["www-authenticate"]))
        expected.append(f"http_401:{fault}")
    assert len(answers) == 1
    [(text, challenge)] = answers
    assert text == '{"error":"the access token is not valid"}'
    assert 'error="invalid_token"' in challenge
    assert sorted(await at.reasons()) == sorted(set(expected))
    assert at.door.u.asked == []
    assert "/evil" not in at.idp.asked
    assert (await at.call(at.idp.token())).status_code == 200


async def test_one_issuers_key_makes_no_token_of_another(tmp_path: Path) -> None:
    async with issuing(issuer="https://idp.example") as idp, issuing(issuer="https://idp.two", name="two") as other:
        other.keys = {"k1": ec("two")}
        config = IdentityConfig(url=ORIGIN, issuers=(idp.config(), other.config()))
        async with front(tmp_path, identity=config, policy=WITH_MATCH) as door:
            at = Trusting(door, idp)
            assert (await at.call(other.token())).status_code == 200
            assert (await at.call(other.token(iss=idp.issuer))).status_code == 401
            assert await at.reasons() == ["http_401:signature"]
            assert [person for (person,) in door.rows("person")] == ["two:alice"]


async def test_a_header_that_could_mean_something_else_is_refused(at: Trusting) -> None:
    token = at.idp.token()
    ways = [["Bearer {}", "Bearer {}"], ["Bearer {}", "Bearer x"], ["Basic {}"], ["Bearer"], ["Bearer {} {}"], ["{}"]]
    for way in [*ways, ["Token {}"], ["Bearer x y"], ["Bearer {}, Bearer {}"], [""]]:
        headers = [("authorization", value.format(token, token)) for value in way]
        usual = ("content-type", "application/json")
        response = await at.door.http.post(at.door.url, content=b"{}", headers=[*headers, usual])
        assert response.status_code == 401, way


async def test_a_token_in_the_query_is_not_looked_at(at: Trusting) -> None:
    response = await at.door.call("u__echo", path=f"?access_token={at.idp.token()}", authorization="")
    assert response.status_code == 401
    assert "error=" not in response.headers["www-authenticate"]  # RFC 6750 section 3.1: none was shown


async def test_headers_that_claim_an_identity_are_not_looked_at(at: Trusting) -> None:
    claims = {"x_user": "alice", "x_forwarded_user": "alice", "client_cert": ":AAAA:", "x_forwarded_for": "127.0.0.1"}
    assert (await at.door.call("u__echo", authorization="", **claims)).status_code == 401


async def test_a_token_that_no_agent_is_for_or_more_than_one_is_a_403_without_a_challenge(at: Trusting) -> None:
    for client in ("stranger", "twins"):
        response = await at.call(at.idp.token(client_id=client))
        assert response.status_code == 403
        assert "www-authenticate" not in response.headers
        assert response.json() == {"error": "this identity may not use the gateway"}
    assert sorted(await at.reasons()) == ["http_403:ambiguous", "http_403:no_agent"]


async def test_claims_that_lack_what_a_match_asks_for_match_nothing(at: Trusting) -> None:
    assert (await at.call(at.idp.token(client_id=None, azp="bot"))).status_code == 403


async def test_a_token_cannot_say_what_only_a_certificate_may(at: Trusting) -> None:
    forged = at.idp.token(client_id="stranger", certificate={"uri": ["spiffe://corp/mesh"]})
    assert (await at.call(forged)).status_code == 403


# Our own faults are not the agent's


async def test_an_issuer_that_is_down_at_the_start_is_our_fault_and_no_anonymous_agents_chance(tmp_path: Path) -> None:
    async with issuing(issuer="https://idp.example") as idp:
        idp.status, idp.body = 500, b"down"
        config = IdentityConfig(url=ORIGIN, issuers=(idp.config(),))
        async with front(tmp_path, identity=config, policy=WITH_MATCH, anonymous="bob") as door:
            at = Trusting(door, idp)
            response = await at.call(idp.token())
            assert response.status_code == 503
            assert "www-authenticate" not in response.headers
            assert response.headers["retry-after"]
            idp.status, idp.body = 200, None
            at.door.key_source()._tried_at = None
            assert (await at.call(idp.token())).status_code == 200


async def test_keys_that_were_fetched_outlive_an_outage(at: Trusting) -> None:
    await at.call(at.idp.token())
    at.idp.status, at.idp.body = 500, b"<html>" + b"x" * 1_000_000
    await at.door.key_source().refresh()
    assert (await at.call(at.idp.token())).status_code == 200


# How long an identity lasts


async def test_a_call_under_way_when_its_token_ends_finishes_and_the_next_is_refused(tmp_path: Path) -> None:
    async with trusting(tmp_path, leeway_s=0) as at:
        hanging = at.door.u.script["hang"] = Hanging()
        token = at.idp.token(exp=int(time.time()) + 2)
        call = asyncio.create_task(at.call(token, "u__hang"))
        await until(lambda: hanging.replies)
        close_revoked(at.door.closers, at.door.verifier, lambda: datetime.now(UTC) + timedelta(seconds=10))
        hanging.released.set()
        assert (await call).status_code == 200
        at.door.now_is(datetime.now(UTC) + timedelta(seconds=10))
        assert (await at.call(token)).status_code == 401


async def test_a_stream_ends_with_its_token(at: Trusting) -> None:
    listen = {"notifications": {"toolsListChanged": True}}
    token = at.idp.token()
    stream = asyncio.create_task(at.door.modern("subscriptions/listen", listen, authorization=f"Bearer {token}"))
    await until(lambda: at.door.closers._open)
    close_revoked(at.door.closers, at.door.verifier, lambda: datetime.now(UTC))
    assert not stream.done()
    close_revoked(at.door.closers, at.door.verifier, lambda: datetime.now(UTC) + timedelta(hours=1))
    assert (await stream).status_code == 200


async def test_a_stream_ends_when_the_policy_gives_its_token_to_another_agent(at: Trusting) -> None:
    listen = {"notifications": {"toolsListChanged": True}}
    stream = asyncio.create_task(
        at.door.modern("subscriptions/listen", listen, authorization=f"Bearer {at.idp.token()}")
    )
    await until(lambda: at.door.closers._open)
    at.door.offer(policy=WITH_MATCH.replace('client_id == "bot"', 'client_id == "robot"'))
    close_revoked(at.door.closers, at.door.verifier, lambda: datetime.now(UTC))
    assert (await stream).status_code == 200
    assert (await at.call(at.idp.token())).status_code == 403


async def test_a_session_is_its_principals_and_outlives_one_token_but_is_nobody_elses(at: Trusting) -> None:
    opened = await at.door.post(initialize(), authorization=f"Bearer {at.idp.token()}")
    session = opened.headers["mcp-session-id"]

    async def listed(token: str) -> int:
        ask = request("tools/list")
        response = await at.door.post(ask, mcp_session_id=session, authorization=f"Bearer {token}")
        return response.status_code

    assert await listed(at.idp.token()) == 200  # another token for the same person and program
    assert await listed(at.idp.token(sub="mallory")) == 404
    assert await listed(at.idp.token(act={"sub": "proxy"})) == 404
    assert await listed(at.door.token()) == 404  # an API key of the same agent
    assert await listed("junk") == 401


async def test_what_is_remembered_of_tokens_has_a_bound(at: Trusting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcp_gateway.identity.tokens.MAX_KNOWN", 3)
    for _ in range(8):
        assert (await at.call(at.idp.token())).status_code == 200
    assert at.door.tokens_known() == 3


# Which endpoint


async def test_a_token_for_one_endpoint_is_good_there_and_nowhere_else(at: Trusting) -> None:
    token = at.idp.token(aud=["https://other.example", f"{RESOURCE}/work"])
    assert (await at.call(token, path="/work")).status_code == 200
    assert (await at.call(token)).status_code == 401
    assert (await at.call(token, path="/rest")).status_code == 401
    everywhere = at.idp.token(aud=["https://other.example", RESOURCE])
    assert (await at.call(everywhere, path="/work")).status_code == 200


async def test_audiences_that_an_operator_wrote_down_stand_for_the_whole_gateway(tmp_path: Path) -> None:
    async with trusting(tmp_path, audiences=("api://gateway",)) as at:
        assert (await at.call(at.idp.token(aud="api://gateway"))).status_code == 200
        assert (await at.call(at.idp.token())).status_code == 401


# Scopes


async def test_missing_scopes_are_a_403_that_names_all_of_them_at_once(tmp_path: Path) -> None:
    async with trusting(tmp_path, identity={"scopes": ("mcp",)}) as at:
        for path in ("", "/work"):
            response = await at.call(at.idp.token(scope="mcp"), "u__secret", path=path)
            assert response.status_code == 403
            assert response.headers["www-authenticate"] == (
                'Bearer realm="mcp_gateway", error="insufficient_scope", '
                f'resource_metadata="{ORIGIN}/.well-known/oauth-protected-resource/mcp{path}", '
                'scope="mcp read secrets:read"'
            )
            assert response.json()["error"]["data"] == {"scopes": ["read", "secrets:read"]}
        assert (await at.call(at.idp.token(scope="read secrets:read"), "u__secret")).status_code == 200
        assert (await at.call(at.idp.token(scope=None, scp=["read", "secrets:read"]), "u__secret")).status_code == 200
        assert at.door.rows("decision, reason")[0] == ("denied", "insufficient_scope")


async def test_missing_scopes_are_a_403_in_a_session_too(at: Trusting) -> None:
    bearer = f"Bearer {at.idp.token()}"
    session = (await at.door.post(initialize(), authorization=bearer)).headers["mcp-session-id"]
    ask = request("tools/call", {"name": "u__secret", "arguments": {}})
    response = await at.door.post(ask, mcp_session_id=session, authorization=bearer)
    assert response.status_code == 403
    assert 'error="insufficient_scope"' in response.headers["www-authenticate"]


async def test_where_more_scopes_would_not_help_a_denied_tool_is_unknown(at: Trusting) -> None:
    token = at.idp.token(scope="")
    never = await at.door.call("u__secret", {"path": "never"}, authorization=f"Bearer {token}")
    unknown = await at.call(token, "u__nowhere")
    assert (never.status_code, unknown.status_code) == (400, 400)
    with_key = await at.door.call("u__secret", {})
    assert with_key.status_code == 400  # a key has no scopes and can get none


async def test_a_tool_that_more_scopes_would_open_is_listed_and_one_they_would_not_is_hidden(at: Trusting) -> None:
    async def listed(authorization: str) -> set[str]:
        response = await at.door.modern("tools/list", authorization=authorization)
        return {tool["name"] for tool in response.json()["result"]["tools"]}

    with_token = await listed(f"Bearer {at.idp.token(scope='')}")
    assert "u__secret" in with_token
    assert "u__secret_routed" not in with_token
    assert "u__secret" not in await listed(f"Bearer {at.door.token()}")


async def test_an_upstream_cannot_challenge_our_agents(at: Trusting) -> None:
    error = RpcError(403, "more scopes", {"scopes": ["everything"]})
    at.door.u.script["echo"] = answering_with(Outcome(OutcomeStatus.RPC_ERROR, error=error))
    response = await at.call(at.idp.token())
    assert response.status_code == 200
    assert "www-authenticate" not in response.headers


# Metadata


async def test_the_metadata_of_each_endpoint_names_it_and_its_issuers(at: Trusting) -> None:
    well_known = at.door.url.removesuffix("/mcp") + "/.well-known/oauth-protected-resource"
    for path, resource in (("", RESOURCE), ("/mcp", RESOURCE), ("/mcp/work", f"{RESOURCE}/work")):
        document = (await at.door.http.get(well_known + path)).json()
        assert document["resource"] == resource
        assert document["authorization_servers"] == ["https://idp.example"]
        assert document["bearer_methods_supported"] == ["header"]
    # Whether there is such a task is nobody's business.
    assert (await at.door.http.get(f"{well_known}/mcp/nosuch")).status_code == 200
    assert (await at.door.http.get(f"{well_known}/mcp/a/b")).status_code == 404
    assert (await at.door.http.get(f"{well_known}evil")).status_code == 404
    assert (await at.door.http.post(f"{well_known}/mcp")).status_code == 405


async def test_a_challenge_leads_to_the_metadata_of_the_endpoint_that_was_asked_for(at: Trusting) -> None:
    response = await at.door.call("u__echo", path="/work", authorization="")
    assert response.headers["www-authenticate"] == (
        f'Bearer realm="mcp_gateway", resource_metadata="{ORIGIN}/.well-known/oauth-protected-resource/mcp/work"'
    )


# Opaque tokens


async def test_an_opaque_token_is_what_its_issuer_says_it_is(tmp_path: Path) -> None:
    async with trusting(tmp_path, introspection=True) as at:
        at.idp.active["opaque"] = {"aud": RESOURCE, "sub": "alice", "client_id": "bot", "scope": "read secrets:read"}
        for _ in range(3):
            assert (await at.call("opaque", "u__secret")).status_code == 200
        assert at.idp.introspected == [("opaque", "Basic " + b64encode(b"gateway:s3cret").decode())]
        assert at.door.rows("agent, person")[0] == ("alice", "corp:alice")


async def test_an_opaque_token_is_at_hand_only_until_its_issuer_is_to_be_asked_again(tmp_path: Path) -> None:
    async with trusting(tmp_path, introspection=True) as at:
        at.idp.active["opaque"] = {"aud": RESOURCE, "sub": "alice", "client_id": "bot", "exp": int(time.time()) + 9999}
        asked = datetime.now(UTC)
        assert (await at.call("opaque")).status_code == 200

        def known(later_s: float) -> bool:
            shown = Shown(["Bearer opaque"], None)
            return at.door.verifier.at_hand(shown, asked + timedelta(seconds=later_s)) is not None

        assert [known(later_s) for later_s in (0, 59, 65, 0, 9000)] == [True, True, False, True, False]


async def test_an_opaque_token_that_is_not_for_us_is_refused_and_not_asked_about_again(tmp_path: Path) -> None:
    good = {"aud": RESOURCE, "sub": "alice", "client_id": "bot"}
    answers: dict[str, Any] = {
        "unknown": None,
        "another-audience": {**good, "aud": "https://other.example"},
        "no-audience": {"sub": "alice", "client_id": "bot"},
        "nobody": {"aud": RESOURCE},
        "another-issuer": {**good, "iss": "https://evil.example"},
        "expired": {**good, "exp": 1},
        "no-time": {**good, "exp": "never"},
        "not-quite-active": {**good, "active": "true"},
    }
    async with trusting(tmp_path, introspection=True) as at:
        at.idp.active = {name: said for name, said in answers.items() if said is not None}
        for name in answers:
            for _ in range(3):
                assert (await at.call(name)).status_code == 401, name
        assert [token for token, _ in at.idp.introspected] == list(answers)


async def test_an_issuer_that_cannot_be_asked_lets_nobody_in_and_it_is_not_their_fault(tmp_path: Path) -> None:
    async with trusting(tmp_path, introspection=True) as at:
        at.idp.status = 500
        assert (await at.call("opaque")).status_code == 503
        at.idp.status, at.idp.body = 200, b"<html>"
        assert (await at.call("opaque")).status_code == 503


async def test_many_who_come_with_one_opaque_token_wait_for_one_answer(tmp_path: Path) -> None:
    async with trusting(tmp_path, introspection=True) as at:
        at.idp.active["opaque"] = {"aud": RESOURCE, "sub": "alice", "client_id": "bot"}
        responses = await asyncio.gather(*(at.call("opaque") for _ in range(20)))
        assert {response.status_code for response in responses} == {200}
        assert len(at.idp.introspected) == 1


async def test_a_stream_of_an_opaque_token_ends_when_its_issuer_takes_it_back(tmp_path: Path) -> None:
    async with trusting(tmp_path, introspection=True) as at:
        at.idp.active["opaque"] = {"aud": RESOURCE, "sub": "alice", "client_id": "bot", "exp": int(time.time()) + 9999}
        listen = {"notifications": {"toolsListChanged": True}}
        stream = asyncio.create_task(at.door.modern("subscriptions/listen", listen, authorization="Bearer opaque"))
        await until(lambda: at.door.closers._open)

        def look(later_s: float) -> None:
            close_revoked(at.door.closers, at.door.verifier, lambda: datetime.now(UTC) + timedelta(seconds=later_s))

        look(0)
        look(61)
        await until(lambda: len(at.idp.introspected) == 2)
        assert not stream.done()
        at.idp.active.clear()

        def is_over() -> bool:
            look(130)
            return stream.done()

        await until(is_over)
        assert (await stream).status_code == 200


# DPoP


def bound(idp: FakeIssuer, **more: Any) -> str:
    return idp.token(cnf={"jkt": ec("holder").thumbprint()}, **more)


async def test_a_bound_token_is_good_for_its_holder_and_each_proof_once(at: Trusting) -> None:
    token = bound(at.idp)
    first = proof(ec("holder"), token)
    assert (await at.call(token, scheme="DPoP", dpop=first)).status_code == 200
    assert (await at.call(token, scheme="DPoP", dpop=first)).status_code == 401
    assert (await at.call(token, scheme="dpop", dpop=proof(ec("holder"), token))).status_code == 200
    assert await at.reasons() == ["http_401:replayed"]
    assert at.door.rows("identity_strength") == [("bound-token",)] * 2


async def test_a_proof_that_does_not_fit_is_refused_with_a_challenge_for_another(at: Trusting) -> None:
    token, key = bound(at.idp), ec("holder")
    thief = ec("thief")
    wrong = [
        "",
        "junk",
        proof(thief, token),
        proof(key, token, method="GET"),
        proof(key, token, "https://other.example/mcp"),
        proof(key, token, f"{RESOURCE}/work"),
        proof(key, "another token"),
        proof(key, token, ath=None),
        proof(key, token, jti=None),
        proof(key, token, jti=""),
        proof(key, token, jti="x" * 300),
        proof(key, token, iat=None),
        proof(key, token, iat=int(time.time()) - 120),
        proof(key, token, iat=int(time.time()) + 120),
        proof(key, token, header={"typ": "jwt"}),
        proof(key, token, header={"jwk": jwk(thief)}),
        proof(key, token, header={"jwk": key.as_dict(private=True)}),
        proof(key, token, header={"jwk": None}),
        proof(key, token, header={"crit": ["x"]}),
    ]
    for each in wrong:
        response = await at.call(token, scheme="DPoP", dpop=each)
        assert response.status_code == 401, each
        assert "DPoP realm" in str(response.headers) or "invalid_token" in response.headers["www-authenticate"]
    assert (await at.call(token, dpop=proof(key, token))).status_code == 401  # as a bearer token
    assert (await at.call(at.idp.token(), scheme="DPoP", dpop=proof(key, token))).status_code == 401
    assert at.door.u.asked == []


async def test_two_proofs_are_none(at: Trusting) -> None:
    token, key = bound(at.idp), ec("holder")
    headers = list(at.door.headers(authorization=f"DPoP {token}").items())
    proofs = [("dpop", proof(key, token)), ("dpop", proof(key, token))]
    response = await at.door.http.post(at.door.url, content=b"{}", headers=[*headers, *proofs])
    assert response.status_code == 401


async def test_where_proofs_are_required_a_bearer_token_is_not_enough(tmp_path: Path) -> None:
    async with trusting(tmp_path, identity={"dpop": "required"}) as at:
        response = await at.call(at.idp.token())
        assert response.status_code == 401
        assert [value.split()[0] for value in response.headers.get_list("www-authenticate")] == ["Bearer", "DPoP"]
        token = bound(at.idp)
        assert (await at.call(token, scheme="DPoP", dpop=proof(ec("holder"), token))).status_code == 200


async def test_a_nonce_of_ours_can_be_required(tmp_path: Path) -> None:
    async with trusting(tmp_path, identity={"dpop_nonce": True}) as at:
        token, key = bound(at.idp), ec("holder")
        response = await at.call(token, scheme="DPoP", dpop=proof(key, token))
        assert response.status_code == 401
        assert 'error="use_dpop_nonce"' in str(response.headers.get_list("www-authenticate"))
        again = proof(key, token, nonce=response.headers["dpop-nonce"])
        assert (await at.call(token, scheme="DPoP", dpop=again)).status_code == 200


# Client certificates


def certificate(uri: str = "spiffe://corp/mesh", days: int = 1, name: str = "mesh") -> x509.Certificate:
    key = ec("certificate").private_key
    now = datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=9))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
        .sign(key, SHA256())
    )


def rfc9440(cert: x509.Certificate) -> str:
    return f":{b64encode(cert.public_bytes(Encoding.DER)).decode()}:"


def through(*proxies: str) -> dict[str, Any]:
    return {"identity": {"certificates": CertificateConfig("Client-Cert", proxies)}}


async def test_a_certificate_that_a_trusted_proxy_hands_on_is_an_identity(tmp_path: Path) -> None:
    async with trusting(tmp_path, **through("127.0.0.1")) as at:
        for written in (rfc9440(certificate()), quote(certificate().public_bytes(Encoding.PEM).decode())):
            response = await at.door.call("u__echo", authorization="", client_cert=written)
            assert response.status_code == 200
        assert at.door.rows("agent, identity_strength")[0] == ("mesh", "certificate")


async def test_a_token_beside_a_certificate_is_not_at_hand(tmp_path: Path) -> None:
    """The long way looks at the certificate, and refuses one that cannot be read."""
    async with trusting(tmp_path, **through("127.0.0.1")) as at:
        token = at.idp.token()
        assert (await at.call(token)).status_code == 200
        assert (await at.door.call("u__echo", authorization=f"Bearer {token}", client_cert="none")).status_code == 401


async def test_a_certificate_from_anybody_else_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    async with trusting(tmp_path, **through("10.0.0.0/8")) as at:
        response = await at.door.call("u__echo", authorization="", client_cert=rfc9440(certificate()))
        assert response.status_code == 401


async def test_a_certificate_that_proves_nothing_is_refused(tmp_path: Path) -> None:
    good = rfc9440(certificate())
    wrong = ["junk", ":AAAA:", "::", "-----BEGIN%20CERTIFICATE-----", ":\xe9:", rfc9440(certificate(days=-1))]
    async with trusting(tmp_path, **through("127.0.0.1")) as at:
        usual = list(at.door.headers(authorization="").items())
        for written in (*wrong, good[:-9] + ":", f"{good}, {good}", rfc9440(certificate("spiffe://corp/other"))):
            headers = [*usual, (b"client-cert", written.encode("latin-1"))]
            response = await at.door.http.post(at.door.url, content=b"{}", headers=headers)
            assert response.status_code in (401, 403), written
        twice = [*usual, ("client-cert", good), ("client-cert", good)]
        assert (await at.door.http.post(at.door.url, content=b"{}", headers=twice)).status_code == 401


async def test_a_token_bound_to_a_certificate_is_good_with_that_one_only(tmp_path: Path) -> None:
    async with trusting(tmp_path, **through("127.0.0.1")) as at:
        mine = rfc9440(certificate())
        thumbprint = Certificates("Client-Cert", ["127.0.0.1"]).certificate_in([mine], datetime.now(UTC)).thumbprint
        token = at.idp.token(cnf={"x5t#S256": thumbprint})
        assert (await at.call(token, client_cert=mine)).status_code == 200
        assert (await at.call(token, client_cert=rfc9440(certificate(name="other")))).status_code == 401
        assert (await at.call(token)).status_code == 401
        assert at.door.rows("agent, identity_strength") == [("alice", "bound-token")]


async def test_no_byte_of_a_token_is_in_the_audit_or_in_an_answer(
    at: Trusting, caplog: pytest.LogCaptureFixture
) -> None:
    token = at.idp.token(jti="planted-secret-jti")
    answers = [await at.call(token), await at.call(token[:-3] + "AAA"), await at.call(token, "u__nowhere")]
    await at.reasons()
    signature = token.rpartition(".")[2]
    kept = b"".join(path.read_bytes() for path in at.door.folder.glob("audit.db*"))
    for text in (*(answer.text for answer in answers), caplog.text, kept.decode("latin-1")):
        assert signature not in text
        assert "planted-secret-jti" not in text
