"""From the Authorization header to an identity: exactly one good bearer token, or the same refusal for everything."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.domain import StartedTask, Strength
from mcp_gateway.errors import NotAuthenticated, StoreUnavailable
from mcp_gateway.identity.keys import Keys
from mcp_gateway.identity.verify import ApiKeyCheck, Identity, Verifier

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[Keys]:
    keys = Keys(tmp_path / "state")
    yield keys
    keys.close()


@pytest.fixture
def verifier(keys: Keys) -> Verifier:
    return Verifier([ApiKeyCheck(keys)])


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR", "Bearer  "])
def test_a_good_key_is_its_agent_however_bearer_is_written(keys: Keys, verifier: Verifier, scheme: str) -> None:
    token, record = keys.create("bot", None, NOW)
    identity = verifier.identify([f"{scheme} {token}"], NOW)
    assert identity == Identity("bot", Strength.API_KEY, record.public_id)
    assert identity.claims == {}


def test_every_refusal_says_the_same_and_nothing_of_the_credential(keys: Keys, verifier: Verifier) -> None:
    token, _ = keys.create("bot", None, NOW)
    expired, _ = keys.create("bot", timedelta(seconds=1), NOW - timedelta(hours=1))
    revoked, record = keys.create("bot", None, NOW)
    keys.revoke(record.public_id, NOW)
    unknown = f"mgw_{'0' * 12}_{'0' * 38}"
    good = f"Bearer {token}"
    attempts = [
        [""],
        ["Bearer"],
        ["Bearer "],
        [token],
        [f"Basic {token}"],
        [f"Token {token}"],
        [f"Bearer {token} "],
        [f" {good}"],
        [f"Bearer\t{token}"],
        [f"Bearer {token},"],
        [f"{good}, {good}"],
        [good, good],
        [good, "Basic x"],
        [f"Bearer {token[:-1]}"],
        [f"Bearer {token}\n"],
        ["Bearer " + "x" * 100_000],
        [f"Bearer {unknown}"],
        [f"Bearer {expired}"],
        [f"Bearer {revoked}"],
        ["bearer café"],
    ]
    said = set()
    for authorization in attempts:
        with pytest.raises(NotAuthenticated) as caught:
            verifier.identify(authorization, NOW)
        said.add(str(caught.value))
    assert said == {"the bearer token is not valid"}


def test_nothing_at_all_is_refused_unless_an_anonymous_agent_is_written_down(keys: Keys, verifier: Verifier) -> None:
    with pytest.raises(NotAuthenticated):
        verifier.identify([], NOW)
    guest = Verifier([ApiKeyCheck(keys)], anonymous="guest").identify([], NOW)
    assert guest == Identity("guest", Strength.ANONYMOUS)


@pytest.mark.parametrize("authorization", [[""], ["Bearer x"], ["Basic x"], ["", ""]])
def test_a_bad_credential_never_falls_back_to_the_anonymous_agent(keys: Keys, authorization: list[str]) -> None:
    with pytest.raises(NotAuthenticated):
        Verifier([ApiKeyCheck(keys)], anonymous="guest").identify(authorization, NOW)


@given(st.lists(st.text(max_size=80), max_size=3))
def test_no_header_but_a_good_one_is_ever_an_identity(headers: list[str]) -> None:
    with pytest.raises(NotAuthenticated):
        Verifier([]).identify(headers, NOW)


def test_a_store_that_cannot_be_read_is_an_error_and_never_an_identity(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "state")
    token, _ = keys.create("bot", None, NOW)
    verifier = Verifier([ApiKeyCheck(keys)], anonymous="guest")
    verifier.identify([f"Bearer {token}"], NOW)
    (tmp_path / "state/gateway.db").unlink()
    with pytest.raises(StoreUnavailable):
        verifier.identify([f"Bearer {token}"], NOW)
    keys.close()


def test_an_identity_stops_holding_when_its_key_is_revoked_or_expires(keys: Keys, verifier: Verifier) -> None:
    token, record = keys.create("bot", timedelta(hours=1), NOW)
    identity = verifier.identify([f"Bearer {token}"], NOW)
    assert verifier.still_holds(identity, NOW)
    assert not verifier.still_holds(identity, NOW + timedelta(hours=1))
    keys.revoke(record.public_id, NOW)
    assert not verifier.still_holds(identity, NOW)


def test_an_anonymous_identity_holds_as_long_as_that_agent_is_the_anonymous_one(verifier: Verifier) -> None:
    guest = Identity("guest", Strength.ANONYMOUS)
    assert Verifier([], anonymous="guest").still_holds(guest, NOW)
    assert not Verifier([], anonymous="other").still_holds(guest, NOW)
    assert not verifier.still_holds(guest, NOW)


def test_another_kind_of_token_slots_in_beside_the_keys(keys: Keys) -> None:
    class OneToken:
        def identity_of(self, token: str, now: datetime) -> Identity | None:
            return Identity("svc", Strength.API_KEY, "x", {"team": "ops"}) if token == "a.b.c" else None

        def still_holds(self, identity: Identity, now: datetime) -> bool:
            return identity.credential_id == "x"

    verifier = Verifier([ApiKeyCheck(keys), OneToken()])
    identity = verifier.identify(["Bearer a.b.c"], NOW)
    assert identity.claims == {"team": "ops"}
    assert verifier.still_holds(identity, NOW)


class OneTask:
    """Every token is that of one task, which is done for somebody."""

    def __init__(self, person: str | None) -> None:
        self.task = StartedTask("t1", "bot", "work", NOW + timedelta(hours=1), {}, person=person)

    def verify(self, token: str, now: datetime) -> StartedTask | None:
        return self.task

    def holds(self, task_id: str, now: datetime) -> bool:
        return True


@pytest.mark.parametrize(
    ("of_the_token", "of_the_task", "is_good"),
    [("corp:ann", "corp:ann", True), ("corp:ann", None, True), (None, "corp:ann", True), ("corp:ann", "ben", False)],
)
def test_a_task_that_is_done_for_somebody_else_is_not_this_persons(
    of_the_token: str | None, of_the_task: str | None, is_good: bool
) -> None:
    verifier = Verifier([], tasks=OneTask(of_the_task))
    who = Identity("bot", Strength.TOKEN, "p", person=of_the_token)
    if is_good:
        assert verifier.started_task(who, ["mgt_x"], NOW) is not None
    else:
        with pytest.raises(NotAuthenticated):
            verifier.started_task(who, ["mgt_x"], NOW)
