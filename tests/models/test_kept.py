"""What providers keep for agents is found by its owner only, while the provider knows us by the same key."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mcp_gateway.config.models import Models, ProviderConfig
from mcp_gateway.domain import Caller, Kept
from mcp_gateway.errors import Misbehaved
from mcp_gateway.models.asked import Reference
from mcp_gateway.models.kept import KeptThings

PROVIDER = ProviderConfig("p", "openai", "https://p.example/v1", {"Authorization": "Bearer sk-1"}, stateful=True)
ALICE = Caller("alice", "work", person="ann")
REFERENCE = Reference("response", "resp_1")


@pytest.fixture
def things(tmp_path: Path) -> Iterator[KeptThings]:
    made = KeptThings(tmp_path, b"k" * 32, lambda: 1000.0)
    yield made
    made.close()


def kept(things: KeptThings) -> Kept:
    return Kept("p", "resp_1", "response", things.credential_of(PROVIDER), "m", "real-m", is_open=True)


def models(**changes: object) -> Models:
    return Models({"p": replace(PROVIDER, **changes)})  # type: ignore[arg-type]


async def test_an_owner_gets_back_what_was_noted(things: KeptThings) -> None:
    await things.note(ALICE, PROVIDER, [kept(things)])
    assert await things.find(ALICE, [REFERENCE, REFERENCE], models()) == [kept(things)] * 2


@pytest.mark.parametrize(
    "caller",
    [
        replace(ALICE, agent="bob"),
        replace(ALICE, task="rest"),
        replace(ALICE, person="ben"),
        replace(ALICE, person=None),
        Caller("alice", None, person="ann"),
    ],
)
async def test_it_is_nobody_else_s(things: KeptThings, caller: Caller) -> None:
    await things.note(ALICE, PROVIDER, [kept(things)])
    assert await things.find(caller, [REFERENCE], models()) == REFERENCE
    with pytest.raises(Misbehaved, match="one id to two agents"):
        await things.note(caller, PROVIDER, [kept(things)])


@pytest.mark.parametrize(
    "changes",
    [
        {"headers": {"Authorization": "Bearer sk-2"}},
        {"url": "https://q.example/v1"},
        {"stateful": False},
        {"enabled": False},
    ],
)
async def test_it_is_unknown_at_a_provider_that_is_another_one_by_now(
    things: KeptThings, changes: dict[str, object]
) -> None:
    await things.note(ALICE, PROVIDER, [kept(things)])
    assert await things.find(ALICE, [REFERENCE], models(**changes)) == REFERENCE
    assert await things.find(ALICE, [REFERENCE], Models()) == REFERENCE


async def test_a_key_is_not_told_by_what_is_kept(things: KeptThings, tmp_path: Path) -> None:
    other = KeptThings(tmp_path / "other", b"o" * 32, lambda: 0.0)
    assert other.credential_of(PROVIDER) != things.credential_of(PROVIDER)
    other.close()


async def test_its_end_is_told_once_and_then_it_may_be_forgotten(things: KeptThings) -> None:
    await things.note(ALICE, PROVIDER, [kept(things)])
    assert [await things.finish(kept(things)) for _ in range(2)] == [True, False]
    things.reopen("p", "resp_1")
    things.grow("p", ["resp_1"], 12)
    assert await things.find(ALICE, [REFERENCE], models()) == [replace(kept(things), tokens=12)]
    await things.forget(kept(things))
    assert await things.find(ALICE, [REFERENCE], models()) == REFERENCE
