"""Who may be let in, and how people prove who they are."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from fakes.in_process import configured
from mcp_gateway.config.identity import LoginConfig
from mcp_gateway.config.upstream_auth import ClientAuth
from mcp_gateway.identity.login import MOST_FAILURES, AuthorizationServer, signing_key
from mcp_gateway.identity.passwords import hashed
from mcp_gateway.identity.verify import Verifier
from mcp_gateway.netguard import Allowed, Fetcher
from mcp_gateway.storage.logins import Person
from mcp_gateway.wiring.stores import logins_of
from mcp_gateway.wiring.trust import Trust, password_check, sign_in_of


def test_only_the_gateways_own_pages_may_send_forms_to_it() -> None:
    assert Trust(Verifier([])).origins == ()
    assert Trust(Verifier([]), origin="https://gw.example").origins == ("https://gw.example",)


def test_people_sign_in_where_it_is_configured_and_nowhere_else(tmp_path: Path) -> None:
    settings = configured(tmp_path).settings
    assert sign_in_of(settings) is None
    sign_in = sign_in_of(replace(settings, sign_in=ClientAuth("gw", issuer="https://idp.example")))
    assert sign_in is not None
    assert sign_in.issuer == "https://idp.example"


@pytest.mark.slow
async def test_after_many_wrong_passwords_the_right_one_is_wrong_too_for_a_while(tmp_path: Path) -> None:
    store, fetcher = logins_of(configured(tmp_path)), Fetcher(Allowed())
    store.add_person(Person("ann", 0, hashed("right")))
    login = AuthorizationServer("https://gw", LoginConfig(), store, signing_key(b"k" * 32), fetcher, time.time)
    is_right = password_check(login)
    assert await is_right("ann", "right", "127.0.0.1")
    assert not await is_right("bob", "right", "127.0.0.1")
    for _ in range(MOST_FAILURES):
        assert not await is_right("ann", "wrong", "127.0.0.1")
    assert not await is_right("ann", "right", "127.0.0.1")
    store.close()
    await fetcher.aclose()
