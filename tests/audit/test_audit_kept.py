"""What is kept of one call: what went on, without secrets, sealed, and no more than may be."""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from anyio import CancelScope

from fakes.waiting import until
from mcp_gateway.audit.kept import MAX_PART_BYTES, Keeper, KeptRelay, Store
from mcp_gateway.config.secrets import Secrets
from mcp_gateway.credentials.vault_keys import CannotOpen, keys_of, new_key_text
from mcp_gateway.domain import (
    Caller,
    HttpPart,
    Keeping,
    Kind,
    Outcome,
    OutcomeStatus,
    Request,
    RpcError,
    Stage,
    Target,
    Verb,
)
from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.jsonrpc import canonical
from mcp_gateway.storage.kept import KeptStore

NOW = 1_800_000_000.0
TOOL = Target(Kind.TOOL, "crm", "get", "crm__get", {}, "")
BOTH = Keeping({Stage.ARGUMENTS: 60, Stage.RESULTS: 30})
ARGUMENTS = {"id": 7, "note": "hello"}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = Store(KeptStore(tmp_path / "state"), keys_of([], Secrets({}, tmp_path), tmp_path / "state"))
    yield opened


@pytest.fixture
async def keeper(store: Store) -> AsyncIterator[Keeper]:
    keeper = Keeper(lambda: store, lambda: NOW)
    yield keeper
    keeper.close()


def request(**params: Any) -> Request:
    return Request("r1", Verb.CALL, "tools/call", Kind.TOOL, "crm__get", {"arguments": params or ARGUMENTS})


def contents(store: Store) -> dict[str, bytes]:
    return {row.part: store.content(row) for row in store.table.of("r1", NOW)}


async def kept(keeper: Keeper, outcome: Outcome, keeping: Keeping = BOTH, *, is_sent: bool = True) -> Outcome:
    record = keeper.record(keeping, Caller("bot", "work"), request(), TOOL)
    assert record.listening(request()) == request()
    if is_sent:
        record.sent(request())
    return await record.closed(outcome)


async def test_both_halves_are_kept_and_their_digests_told(keeper: Keeper, store: Store) -> None:
    outcome = await kept(keeper, Outcome(OutcomeStatus.OK, {"a": 1}))
    found = contents(store)
    assert found == {"arguments": canonical(ARGUMENTS), "results": b'{"a":1}'}
    assert dict(outcome.kept) == {part: hashlib.sha256(content).hexdigest() for part, content in found.items()}
    arguments, results = store.table.of("r1", NOW)
    assert (arguments.expires_at, results.expires_at) == (NOW + 60, NOW + 30)
    assert (arguments.agent, arguments.task, arguments.target) == ("bot", "work", "crm/get")


async def test_the_digest_of_arguments_is_the_one_that_the_audit_always_has(keeper: Keeper) -> None:
    outcome = await kept(keeper, Outcome(OutcomeStatus.OK, {}))
    assert outcome.kept["arguments"] == hashlib.sha256(canonical(ARGUMENTS)).hexdigest()


async def test_only_what_the_policy_names_is_kept(keeper: Keeper, store: Store) -> None:
    outcome = await kept(keeper, Outcome(OutcomeStatus.OK, {"a": 1}), Keeping({Stage.RESULTS: 60}))
    assert set(outcome.kept) == set(contents(store)) == {"results"}


async def test_what_never_left_is_not_kept(keeper: Keeper, store: Store) -> None:
    outcome = await kept(keeper, Outcome(OutcomeStatus.BLOCKED, {"message": "no"}), is_sent=False)
    assert (dict(outcome.kept), contents(store)) == ({}, {})


async def test_an_error_of_an_upstream_is_an_answer(keeper: Keeper, store: Store) -> None:
    await kept(keeper, Outcome(OutcomeStatus.RPC_ERROR, error=RpcError(-1, "no such thing")))
    assert contents(store)["results"] == b'{"error":{"code":-1,"message":"no such thing"}}'


async def test_secrets_are_not_kept_and_what_is_long_is_cut(keeper: Keeper, store: Store) -> None:
    text = "key AKIAIOSFODNN7EXAMPLE " + "x" * MAX_PART_BYTES
    await kept(keeper, Outcome(OutcomeStatus.OK, {"text": text}))
    arguments, results = store.table.of("r1", NOW)
    content = store.content(results)
    assert b"AKIA" not in content
    assert (len(content), results.is_cut, arguments.is_cut) == (MAX_PART_BYTES, True, False)


async def test_no_file_holds_what_was_said(keeper: Keeper, tmp_path: Path) -> None:
    await kept(keeper, Outcome(OutcomeStatus.OK, {"text": "canary-canary"}))
    assert not any(b"canary" in path.read_bytes() for path in (tmp_path / "state").iterdir())


async def test_a_row_that_was_moved_or_altered_does_not_open(keeper: Keeper, store: Store) -> None:
    await kept(keeper, Outcome(OutcomeStatus.OK, {}))
    row = store.table.of("r1", NOW)[0]
    for column, value in {"agent": "other", "request_id": "r2", "sha256": "0", "expires_at": 9e9}.items():
        changed = type(row)(**{**{name: getattr(row, name) for name in row.__slots__}, column: value})
        with pytest.raises(CannotOpen):
            store.content(changed)


async def test_a_store_that_cannot_be_written_stops_no_call_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    def unusable() -> Store:
        raise StoreUnavailable("the disk is gone")

    keeper = Keeper(unusable, lambda: NOW)
    with caplog.at_level(logging.ERROR):
        outcome = await kept(keeper, Outcome(OutcomeStatus.OK, {"a": 1}))
    keeper.close()
    assert (outcome.status, dict(outcome.kept)) == (OutcomeStatus.OK, {})
    assert "r1 carried is not kept: the disk is gone" in caplog.text


async def test_what_an_older_key_sealed_is_sealed_anew(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for path in (old, new):
        path.write_text(new_key_text())
        path.chmod(0o600)
    table, secrets = KeptStore(tmp_path / "state"), Secrets({}, tmp_path)
    keeper = Keeper(lambda: Store(table, keys_of([f"file:{old}"], secrets, tmp_path)), lambda: NOW)
    await kept(keeper, Outcome(OutcomeStatus.OK, {"a": 1}))
    both = Store(table, keys_of([f"file:{new}", f"file:{old}"], secrets, tmp_path))
    assert (both.seal_anew(NOW), both.seal_anew(NOW)) == (2, 0)
    assert contents(Store(table, keys_of([f"file:{new}"], secrets, tmp_path)))["results"] == b'{"a":1}'
    keeper.close()


async def test_what_has_ended_goes_by_itself_also_what_was_kept_before(keeper: Keeper, store: Store) -> None:
    await kept(keeper, Outcome(OutcomeStatus.OK, {"a": 1}))
    later = Keeper(lambda: store, lambda: NOW + 45, lambda: True)
    purging = asyncio.ensure_future(later.purge_as_time_goes_by())
    await until(lambda: len(store.table.of("r1", NOW)) == 1)
    purging.cancel()
    assert contents(store).keys() == {"arguments"}


class Wire:
    """What an agent gets."""

    def __init__(self) -> None:
        self.scope = CancelScope()
        self.got: list[Any] = []

    async def begin(self, status: int, headers: Mapping[str, str]) -> None:
        self.got.append((status, headers))

    async def write(self, piece: bytes) -> None:
        self.got.append(piece)

    def hold(self, piece: bytes) -> None:
        self.got.append(piece)

    def hold_error(self, error: Exception) -> None:
        self.got.append(error)

    def afterwards(self, do: Callable[[], None]) -> None:
        self.got.append(do)


async def test_an_answer_over_http_is_overheard_and_passes_as_it_is(keeper: Keeper, store: Store) -> None:
    wire, fault = Wire(), OSError("gone")
    http = HttpPart("/v1/x", {"content-type": "text/plain"}, b"asked", None, wire)
    asked = Request("r1", Verb.ROUTE, "route", Kind.ROUTE, "GET /v1/x", {}, http=http)
    record = keeper.record(BOTH, Caller("bot", "work"), asked, TOOL)
    passed_on = record.listening(asked)
    record.sent(passed_on)
    assert passed_on.http is not None
    relay = passed_on.http.relay
    assert relay.scope is wire.scope
    await relay.begin(200, {"Content-Type": "text/event-stream"})
    await relay.write(b"one ")
    relay.hold(b"two")
    relay.hold_error(fault)
    relay.afterwards(print)
    assert wire.got == [(200, {"Content-Type": "text/event-stream"}), b"one ", b"two", fault, print]
    await record.closed(Outcome(OutcomeStatus.CANCELLED))
    assert contents(store) == {"arguments": b"asked", "results": b"one two"}
    assert [row.media_type for row in store.table.of("r1", NOW)] == ["text/plain", "text/event-stream"]


async def test_of_a_long_answer_no_more_is_remembered_than_is_kept() -> None:
    relay = KeptRelay(Wire())
    for _ in range(40):
        await relay.write(b"x" * 100_000)
    assert relay.part is not None
    assert len(relay.part.content) == MAX_PART_BYTES + 1
