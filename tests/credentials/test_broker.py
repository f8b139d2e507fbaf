"""The broker: each person's own token, renewed once, and nobody's in place of another's."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from fakes.authorization import World, log_in, world
from fakes.broker import Bench, bench, caller_of, server_of
from fakes.waiting import until
from mcp_gateway.config.servers import ServerConfig
from mcp_gateway.config.upstream_auth import AuthConfig, AuthKind, ClientAuth
from mcp_gateway.domain import Caller, Challenge, Credential
from mcp_gateway.errors import ConsentNeeded, LoginNeeded, Misbehaved, Unreachable

EXPIRED = 3600.0


def token_in(credential: Credential) -> str:
    return credential.headers["Authorization"].removeprefix("Bearer ")


async def again(made: Bench, person: str = "alice") -> Credential:
    return await made.broker.credential_for(caller_of(person), "crm")


async def test_an_upstream_with_a_fixed_credential_gets_exactly_that(tmp_path: Path) -> None:
    a = ServerConfig("a", url="https://a/", headers={"Authorization": "Bearer for-a"})
    async with bench(tmp_path / "s", a, ServerConfig("c", command=("c",))) as made:
        assert (await made.broker.credential_for(caller_of("alice"), "a")).headers == a.headers
        assert (await made.broker.credential_for(caller_of("alice"), "c")).headers == {}
        with pytest.raises(KeyError):
            await made.broker.credential_for(caller_of("alice"), "d")
        assert "for-a" not in repr(await made.broker.credential_for(caller_of("alice"), "a"))
    assert not (tmp_path / "s" / "vault.db").exists(), "nobody needed it"


async def test_who_has_not_logged_in_is_sent_to_a_page_and_then_has_a_token(tmp_path: Path) -> None:
    async with world() as w, bench(tmp_path / "s", server_of(w)) as made:
        with pytest.raises(ConsentNeeded) as needed:
            await again(made)
        assert "alice" not in needed.value.url
        assert (await log_in(needed.value.url, "alice")).status_code == 200
        credential = await again(made)
        assert w.access[token_in(credential)].person == "alice"
        assert w.access[token_in(credential)].resource == w.url
        assert made.noted == ["crm: person:https://idp.example alice logged in, scopes: none named"]


async def test_each_caller_gets_their_own_token_and_nobody_elses(tmp_path: Path) -> None:
    people = ["alice", "bob"]
    async with world() as w, world() as v, bench(tmp_path / "s", server_of(w), server_of(v, "erp")) as made:
        for person in people:
            await made.person(person, "crm")
            await made.person(person, "erp")

        async def ask(n: int) -> None:
            person, (name, its) = people[n % 2], (("crm", w), ("erp", v))[n // 2 % 2]
            caller = Caller(f"agent{n % 3}", None, person, claims={"iss": "https://idp.example"})
            token = token_in(await made.broker.credential_for(caller, name))
            assert its.access[token].person == person

        await asyncio.gather(*(ask(n) for n in range(400)))


async def test_the_same_name_from_another_issuer_is_another_person(tmp_path: Path) -> None:
    async with world() as w, bench(tmp_path / "s", server_of(w)) as made:
        await made.person("alice")
        for stranger in (
            Caller("bot", "work", "alice", claims={"iss": "https://other.example"}),
            Caller("bot", "work", "alice"),
            Caller("bot", "work"),
            Caller("alice", "work"),
        ):
            with pytest.raises(ConsentNeeded):
                await made.broker.credential_for(stranger, "crm")


async def test_a_hundred_calls_at_the_moment_of_expiry_are_one_refresh(tmp_path: Path) -> None:
    async with world() as w, bench(tmp_path / "s", server_of(w)) as made:
        first = await made.person("alice")
        made.clock.ahead_s = EXPIRED
        found = await asyncio.gather(*(again(made) for _ in range(100)))
        assert w.refreshes == 1
        assert {token_in(credential) for credential in found} == {token_in(await again(made))}
        assert token_in(found[0]) != token_in(first)


async def test_a_token_is_renewed_ahead_of_its_end_and_used_meanwhile(tmp_path: Path) -> None:
    async with world() as w, bench(tmp_path / "s", server_of(w)) as made:
        first = await made.person("alice")
        w.may_answer.clear()
        made.clock.ahead_s = EXPIRED - 20
        assert token_in(await again(made)) == token_in(first), "nobody waits for a slow authorization server"
        w.may_answer.set()
        await until(lambda: w.refreshes == 1)

        async def is_new() -> bool:
            return token_in(await again(made)) != token_in(first)

        await until(is_new)
        assert w.refreshes == 1


@pytest.mark.parametrize("fault", ["status", "invalid_client", "temporarily_unavailable"])
async def test_a_passing_fault_is_not_taken_for_revocation(tmp_path: Path, fault: str) -> None:
    async with world() as w, bench(tmp_path / "s", server_of(w)) as made:
        await made.person("alice")
        made.clock.ahead_s = EXPIRED
        w.token_status, w.token_error = (503, "") if fault == "status" else (0, fault)
        with pytest.raises(Unreachable) as failed:
            await again(made)
        assert "canary" not in str(failed.value)
        [row] = await made.broker.vault.rows()
        assert row.sealed and row.last_error
        w.token_status, w.token_error = 0, ""
        assert w.access[token_in(await again(made))].person == "alice"
        [row] = await made.broker.vault.rows()
        assert not row.last_error


async def test_revocation_wipes_the_tokens_says_so_and_asks_to_log_in_again(tmp_path: Path) -> None:
    async with world() as w, bench(tmp_path / "s", server_of(w)) as made:
        await made.person("alice")
        await made.person("bob")
        w.refresh = {token: given for token, given in w.refresh.items() if given.person != "alice"}
        made.clock.ahead_s = EXPIRED
        with pytest.raises(ConsentNeeded, match="has ended it"):
            await again(made)
        [row] = [row for row in await made.broker.vault.rows() if row.owner.endswith("alice")]
        assert row.sealed == b""
        assert "invalid_grant" in row.last_error
        assert any("has to log in again" in noted for noted in made.noted)
        assert w.access[token_in(await again(made, "bob"))].person == "bob"
        made.clock.ahead_s = 0.0
        assert w.access[token_in(await made.person("alice"))].person == "alice"


async def test_a_refused_token_is_renewed_once_and_a_fresh_one_not_again(tmp_path: Path) -> None:
    async with world() as w, bench(tmp_path / "s", server_of(w)) as made:
        used = await made.person("alice")
        made.clock.ahead_s = 60
        why = Challenge(401, 'Bearer error="invalid_token"')
        better = await made.broker.after_refusal(caller_of("alice"), "crm", used, why)
        assert better is not None and better.headers != used.headers
        assert await made.broker.after_refusal(caller_of("alice"), "crm", used, why) == better, "others have it already"
        with pytest.raises(ConsentNeeded):
            await made.broker.after_refusal(caller_of("alice"), "crm", better, why)
        assert w.refreshes == 1


async def test_more_scopes_are_asked_for_once_together_with_those_there_were(tmp_path: Path) -> None:
    async with world(scope_of_challenge="read") as w, bench(tmp_path / "s", server_of(w)) as made:
        used = await made.person("alice")
        assert w.access[token_in(used)].scopes == "read"
        why = Challenge(403, 'Bearer error="insufficient_scope", scope="write"')
        with pytest.raises(ConsentNeeded, match="more permissions") as needed:
            await made.broker.after_refusal(caller_of("alice"), "crm", used, why)
        await log_in(needed.value.url, "alice")
        both = await again(made)
        assert set(w.access[token_in(both)].scopes.split()) == {"read", "write"}
        assert await made.broker.after_refusal(caller_of("alice"), "crm", both, why) is None
        assert await made.broker.after_refusal(caller_of("alice"), "crm", both, Challenge(403, "")) is None


async def test_a_login_at_one_authorization_server_is_never_shown_to_another(tmp_path: Path) -> None:
    async with world() as w, world() as other, bench(tmp_path / "s", server_of(w)) as made:
        used = await made.person("alice")
        made.clock.ahead_s = 60
        w.resource_metadata = {"authorization_servers": [other.origin]}
        with pytest.raises(ConsentNeeded, match="another authorization server"):
            await made.broker.after_refusal(caller_of("alice"), "crm", used, Challenge(401, "Bearer"))
        assert w.refreshes == 0
        assert other.token_requests == []


async def test_a_configured_client_is_only_used_with_the_issuer_it_was_first_used_with(tmp_path: Path) -> None:
    client = ClientAuth("gw", secret="s3cret")
    auth = AuthConfig(AuthKind.CLIENT_CREDENTIALS, client)
    async with world(clients={"gw": "s3cret"}) as w, world() as other:
        async with bench(tmp_path / "s", server_of(w, auth=auth)) as made:
            assert w.access[token_in(await again(made))].person == "gw"
        w.resource_metadata = {"authorization_servers": [other.origin]}
        async with bench(tmp_path / "s", server_of(w, auth=auth)) as made:
            with pytest.raises(Misbehaved, match="another authorization server"):
                await again(made)
        assert other.token_requests == []


async def test_the_gateways_own_account_has_one_token_for_everybody(tmp_path: Path) -> None:
    auth = AuthConfig(AuthKind.CLIENT_CREDENTIALS, ClientAuth("gw", secret="s3cret"), scopes=("read",))
    async with world(clients={"gw": "s3cret"}) as w, bench(tmp_path / "s", server_of(w, auth=auth)) as made:
        found = await asyncio.gather(*(again(made, person) for person in ("alice", "bob") * 20))
        assert len({token_in(credential) for credential in found}) == 1
        [form] = w.token_requests
        assert (form["grant_type"], form["resource"], form["scope"]) == ("client_credentials", w.url, "read")
        made.clock.ahead_s = EXPIRED
        assert token_in(await again(made)) != token_in(found[0])


async def test_an_exchange_sends_each_persons_own_token_and_only_to_its_issuer(tmp_path: Path) -> None:
    async with world(clients={"gw": "s3cret"}) as w:
        client = ClientAuth("gw", secret="s3cret", issuer=w.origin)
        async with bench(tmp_path / "s", server_of(w, auth=AuthConfig(AuthKind.EXCHANGE, client))) as made:
            for person in ("alice", "bob"):
                caller = Caller("bot", None, person, claims={"iss": w.origin}, token=f"login-of-{person}")
                token = token_in(await made.broker.credential_for(caller, "crm"))
                assert w.access[token].person == f"login-of-{person}"
            asked = len(w.token_requests)
            for stranger in (caller_of("alice", token="of-another-issuer"), Caller("bot", None)):
                with pytest.raises(LoginNeeded):
                    await made.broker.credential_for(stranger, "crm")
            assert len(w.token_requests) == asked


async def test_our_own_requests_go_as_whoever_logged_in_last_or_as_configured(tmp_path: Path) -> None:
    async with world() as w, bench(tmp_path / "s", server_of(w)) as made:
        assert (await made.broker.own("crm")).headers == {}
        with pytest.raises(LoginNeeded):
            await made.broker.own_after_refusal("crm", Credential(), Challenge(401, "Bearer"))
        await made.person("alice")
        await made.person("bob")
        assert w.access[token_in(await made.broker.own("crm"))].person == "bob"
        made.broker.apply([server_of(w, auth=AuthConfig(AuthKind.OAUTH, list_as="alice"))], ())
        assert w.access[token_in(await made.broker.own("crm"))].person == "alice"


async def test_what_another_process_changes_is_noticed(tmp_path: Path) -> None:
    async with world() as w, bench(tmp_path / "s", server_of(w)) as here, bench(tmp_path / "s", server_of(w)) as there:
        watching = asyncio.create_task(here.broker.keep_watch())
        woken: list[str] = []
        here.broker.on_login = woken.append
        await there.person("alice")
        await until(lambda: "crm" in woken)
        assert w.access[token_in(await again(here))].person == "alice"
        assert await there.broker.log_out("person:https://idp.example alice", "crm")

        async def is_gone() -> bool:
            try:
                await again(here)
            except ConsentNeeded:
                return True
            return False

        await until(is_gone)
        assert [token.partition("-")[0] for token in w.revoked] == ["rt"]
        watching.cancel()


async def test_a_stored_login_is_used_after_a_restart(tmp_path: Path) -> None:
    async with world() as w:
        async with bench(tmp_path / "s", server_of(w)) as made:
            first = await made.person("alice")
        async with bench(tmp_path / "s", server_of(w)) as made:
            assert await again(made) == first
            made.clock.ahead_s = EXPIRED
            assert w.access[token_in(await again(made))].person == "alice"


async def test_a_cancelled_call_does_not_cancel_the_renewal_others_wait_for(tmp_path: Path) -> None:
    async with world() as w, bench(tmp_path / "s", server_of(w)) as made:
        await made.person("alice")
        made.clock.ahead_s = EXPIRED
        w.may_answer.clear()
        first, second = (asyncio.create_task(again(made)) for _ in range(2))
        await until(lambda: w.refreshes == 1)
        first.cancel()
        w.may_answer.set()
        assert w.access[token_in(await second)].person == "alice"
        assert w.refreshes == 1


async def test_a_vault_that_cannot_be_read_fails_closed(tmp_path: Path) -> None:
    async with world() as w:
        async with bench(tmp_path / "s", server_of(w)) as made:
            await made.person("alice")
        (tmp_path / "s" / "vault.db").chmod(0o644)
        async with bench(tmp_path / "s", server_of(w)) as made:
            with pytest.raises(Unreachable, match="vault cannot be used"):
                await again(made)


def test_worlds_are_apart() -> None:
    assert World().access is not World().access
