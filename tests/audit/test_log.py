"""The promise: decided before it leaves, finished before it is answered."""

import asyncio
from pathlib import Path

import anyio
import pytest
from evidence import (
    ALLOWED,
    CALLER,
    DENIED,
    OK,
    REFUSED,
    TARGET,
    database,
    judged,
    one_call,
    opened,
    request,
    rows,
    state,
)

from fakes.waiting import until
from mcp_gateway.audit.log import AuditLog, Durability, Record
from mcp_gateway.domain import Outcome, OutcomeStatus, RpcError
from mcp_gateway.errors import StoreUnavailable


async def test_a_decision_is_on_disk_when_open_returns(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        entry = await log.open(CALLER, request(), TARGET, ALLOWED)
        (row,) = rows(tmp_path, "SELECT * FROM entries WHERE phase = 'decided'")
        assert (row["seq"], row["agent"], row["task"], row["decision"]) == (entry.seq, "helper", "triage", "allowed")
        assert (row["upstream"], row["name"], row["grant_at"]) == ("github", "search", "policies/dev.toml:12")
        await log.close(entry, OK)


async def test_an_outcome_is_on_disk_when_close_returns(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        seq = await one_call(log)
        (row,) = rows(tmp_path, "SELECT * FROM entries WHERE phase = 'finished' AND decided_seq = ?", seq)
        assert (row["outcome"], row["upstream_ms"], row["gateway_ms"]) == ("ok", 1.5, 0.3)
        assert row["result_preview"] == '{"content":[{"text":"12 issues","type":"text"}]}'
        assert row["request_id"] == "r1"


async def test_an_error_of_the_upstream_is_kept(tmp_path: Path) -> None:
    outcome = Outcome(OutcomeStatus.RPC_ERROR, error=RpcError(-32000, "no such repo, token=CANARYcanary"))
    async with opened(tmp_path) as log:
        await one_call(log, outcome=outcome)
    (row,) = rows(tmp_path, "SELECT * FROM calls")
    assert row["outcome"] == "rpc_error"
    assert row["error"] == "-32000: no such repo, [redacted:assignment]"


async def test_a_refusal_is_two_rows_and_one_commit(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await one_call(log)
        before = log.commits
        await log.record(CALLER, request("r2"), TARGET, DENIED, REFUSED)
        assert log.commits == before + 1
    (call,) = rows(tmp_path, "SELECT * FROM calls WHERE request_id = 'r2'")
    assert (call["decision"], call["reason"], call["outcome"]) == ("denied", "no_grant", "refused")
    assert rows(tmp_path, "SELECT * FROM denied_today")[0]["request_id"] == "r2"


async def test_an_unknown_target_is_kept_under_the_name_the_agent_wrote(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await log.record(CALLER, request(name="no_such_tool"), None, DENIED, REFUSED)
    (call,) = rows(tmp_path, "SELECT * FROM calls")
    assert (call["upstream"], call["name"]) == (None, "no_such_tool")


async def test_calls_that_meet_share_commits(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await one_call(log, "warm")
        before = log.commits
        async with anyio.create_task_group() as calls:
            for number in range(64):
                calls.start_soon(one_call, log, f"r{number}")
        assert log.commits - before <= 40  # 128 rows
    assert judged(tmp_path).ok
    assert len(rows(tmp_path, "SELECT * FROM calls WHERE outcome = 'ok'")) == 65


async def test_a_call_alone_is_not_kept_waiting_for_others(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        with anyio.fail_after(5):  # a fixed wait of 50 ms would need twice that
            for number in range(50):
                await one_call(log, f"r{number}")
        assert log.commits >= 100


async def test_a_call_cancelled_before_its_decision_returned_still_gets_its_end(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        opening = asyncio.ensure_future(log.open(CALLER, request(), TARGET, ALLOWED))
        await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await until(lambda: rows(tmp_path, "SELECT * FROM calls WHERE outcome = 'cancelled'"))
    assert judged(tmp_path).ok


async def test_a_close_is_written_though_whoever_waits_is_cancelled(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        entry = await log.open(CALLER, request(), TARGET, ALLOWED)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await log.close(entry, Outcome(OutcomeStatus.CANCELLED))
        await until(lambda: rows(tmp_path, "SELECT * FROM calls WHERE outcome = 'cancelled'"))


async def test_closing_twice_is_closing_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        entry = await log.open(CALLER, request(), TARGET, ALLOWED)
        await log.close(entry, OK)
        await log.close(entry, Outcome(OutcomeStatus.FAILED))
    assert [row["outcome"] for row in rows(tmp_path, "SELECT outcome FROM calls")] == ["ok"]


async def test_what_is_still_open_at_the_end_is_unknown(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await log.open(CALLER, request("left"), TARGET, ALLOWED)
        await one_call(log, "done")
    outcomes = {row["request_id"]: row["outcome"] for row in rows(tmp_path, "SELECT * FROM calls")}
    assert outcomes == {"left": "unknown", "done": "ok"}
    assert judged(tmp_path).ok


async def test_an_event_is_a_row_of_the_same_chain(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await log.note("policy", "9f2c -> 41d0", agent="admin", reason="edited", detail={"files": 2, "token": "CANARY"})
    row = rows(tmp_path)[-1]
    assert (row["kind"], row["name"], row["agent"], row["reason"]) == ("policy", "9f2c -> 41d0", "admin", "edited")
    assert row["args"] == '{"files":2,"token":"[redacted:member]"}'
    assert judged(tmp_path).ok


async def test_refusals_before_identity_are_counted_in_one_row_a_reason(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        for reason in ("401", "401", "origin", "401"):
            log.count_refusal(reason)
    found = rows(tmp_path, "SELECT name, args ->> 'count' AS count FROM entries WHERE kind = 'refused' ORDER BY name")
    assert [(row["name"], row["count"]) for row in found] == [("401", 3), ("origin", 1)]


async def test_reasons_an_attacker_invents_do_not_fill_memory(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        for number in range(1000):
            log.count_refusal(f"reason {number}")
    found = rows(
        tmp_path, "SELECT sum(args ->> 'count') AS total, count(*) AS rows FROM entries WHERE kind = 'refused'"
    )
    assert (found[0]["total"], found[0]["rows"]) == (1000, 101)


async def test_more_than_the_bound_may_not_wait(tmp_path: Path) -> None:
    async with opened(tmp_path, max_waiting=3) as log:
        results = await asyncio.gather(*(one_call(log, f"r{number}") for number in range(50)), return_exceptions=True)
    refused = [result for result in results if isinstance(result, StoreUnavailable)]
    assert 0 < len(refused) < 50
    calls = rows(tmp_path, "SELECT * FROM calls")
    assert len(calls) == 50 - len(refused)
    assert {row["outcome"] for row in calls} == {"ok"}  # the bound never costs a call its end


async def test_nothing_is_promised_after_the_end(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        pass
    with pytest.raises(StoreUnavailable):
        await one_call(log)
    await log.aclose()


async def test_power_durability_syncs_every_commit(tmp_path: Path) -> None:
    async with opened(tmp_path, durability=Durability.POWER) as log:
        await one_call(log)
    assert judged(tmp_path).ok


async def test_a_row_that_cannot_be_made_fails_alone(tmp_path: Path) -> None:
    class Odd:
        value = property(lambda self: 1 / 0)

    async with opened(tmp_path) as log:
        bad = log.open(CALLER, request("bad", verb=Odd()), TARGET, ALLOWED)
        good = one_call(log, "good")
        results = await asyncio.gather(bad, good, return_exceptions=True)
        assert isinstance(results[0], ZeroDivisionError)
        assert log.healthy
    assert [row["request_id"] for row in rows(tmp_path, "SELECT * FROM calls")] == ["good"]


async def test_a_damaged_or_foreign_file_is_refused_at_the_start(tmp_path: Path) -> None:
    database(tmp_path).write_bytes(b"this is no database" * 100)
    database(tmp_path).chmod(0o600)
    with pytest.raises(StoreUnavailable):
        async with opened(tmp_path):
            pass
    assert not list((state(tmp_path) / "audit" / "audit.db" / "runs").glob("*"))


async def test_the_log_knows_how_it_is(tmp_path: Path) -> None:
    log = AuditLog.opened(database(tmp_path), state(tmp_path), record=Record.DIGEST)
    async with log as opened_log:
        assert opened_log.healthy
        assert opened_log.last_error == ""
