"""The audit that counts what it writes down: each request once, whichever way it ends, and the evidence unchanged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from evidence import ALLOWED, CALLER, DENIED, OK, REFUSED, TARGET, database, judged, one_call, request, rows, state

from mcp_gateway import metrics as counted
from mcp_gateway.audit.log import AuditSettings
from mcp_gateway.audit.metered import MeteredAuditLog
from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.metrics import Family, Metrics, Names, Spread

CALL = ("call", "helper", "triage", "github")


@asynccontextmanager
async def metered(folder: Path) -> AsyncIterator[tuple[MeteredAuditLog, Metrics]]:
    metrics = Metrics()
    metrics.names = Names(frozenset({"helper"}), frozenset({"triage"}), frozenset({"github"}))
    settings = AuditSettings(database(folder), state(folder), busy_timeout_s=0.2, probe_every_s=0.05)
    async with MeteredAuditLog(settings, metrics).started() as log:
        yield log, metrics


def values(metrics: Metrics, family: Family) -> dict[tuple[str, ...], float | Spread]:
    return dict(next(taken.values for taken in metrics.taken() if taken.family is family))


async def test_a_call_is_written_down_as_ever_and_counted_once_it_is_over(tmp_path: Path) -> None:
    async with metered(tmp_path) as (log, metrics):
        entry = await log.open(CALLER, request(), TARGET, ALLOWED)
        assert values(metrics, counted.CALLS) == {}
        assert values(metrics, counted.UNDER_WAY) == {("call", "github"): 1}
        for _ in range(2):  # closing twice is closing once
            await log.close(entry, OK, gateway_ms=0.3)
        assert values(metrics, counted.CALLS) == {(*CALL, "allowed", "ok"): 1}
        assert values(metrics, counted.UNDER_WAY) == {("call", "github"): 0}
        waited = values(metrics, counted.COMMIT_TIME)[()]
        assert isinstance(waited, Spread)
        assert (sum(waited.counts), waited.total > 0) == (2, True)
    assert [row["phase"] for row in rows(tmp_path)] == ["decided", "finished"]
    assert judged(tmp_path).ok


async def test_what_is_answered_at_once_is_counted_and_never_under_way(tmp_path: Path) -> None:
    async with metered(tmp_path) as (log, metrics):
        await log.record(CALLER, request(), TARGET, DENIED, REFUSED)
        assert values(metrics, counted.CALLS) == {(*CALL, "denied", "refused"): 1}
        assert values(metrics, counted.DENIED) == {("helper", "no_grant"): 1}
        assert values(metrics, counted.UNDER_WAY) == {}


async def test_a_call_given_up_while_its_decision_is_written_is_counted_as_cancelled(tmp_path: Path) -> None:
    async with metered(tmp_path) as (log, metrics):
        opening = asyncio.ensure_future(log.open(CALLER, request(), TARGET, ALLOWED))
        await asyncio.sleep(0)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        assert values(metrics, counted.CALLS) == {(*CALL, "allowed", "cancelled"): 1}
        assert values(metrics, counted.UNDER_WAY) == {}


async def test_a_call_whose_end_cannot_be_written_is_not_under_way_for_ever(tmp_path: Path) -> None:
    async with metered(tmp_path) as (log, metrics):
        entry = await log.open(CALLER, request(), TARGET, ALLOWED)
        await log.aclose()
        with pytest.raises(StoreUnavailable):
            await log.close(entry, OK)
        assert values(metrics, counted.UNDER_WAY) == {("call", "github"): 0}


async def test_refusals_at_the_door_are_counted_and_written_down(tmp_path: Path) -> None:
    async with metered(tmp_path) as (log, metrics):
        log.count_refusal("http_401:expired")
        assert values(metrics, counted.REFUSED) == {("http_401:expired",): 1}
    assert [(row["kind"], row["name"]) for row in rows(tmp_path)] == [("refused", "http_401:expired")]


async def test_nobody_waits_for_rows_that_are_committed(tmp_path: Path) -> None:
    async with metered(tmp_path) as (log, _):
        opening = asyncio.ensure_future(log.open(CALLER, request(), TARGET, ALLOWED))
        await asyncio.sleep(0)
        assert log.waiting == 1
        await log.close(await opening, OK)
        await one_call(log, "r2")
        assert log.waiting == 0
