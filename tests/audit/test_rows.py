"""What is kept of a request, and what is not."""

import hashlib
from pathlib import Path
from typing import Any

import orjson
import pytest
from evidence import ALLOWED, CALLER, REFUSED, TARGET, database, judged, one_call, opened, request, rows

from mcp_gateway.audit.log import Record
from mcp_gateway.audit.rows import Contents, Entry, decided_row, finished_row, store, timestamp
from mcp_gateway.domain import Kind, Outcome, OutcomeStatus, Verb
from mcp_gateway.jsonrpc import canonical

CANARY = "CANARYcanary1234"


def decided(**fields: Any) -> dict[str, Any]:
    return decided_row(Entry(0.0, CALLER, request(**fields), TARGET, ALLOWED), Contents())


def test_the_digest_is_of_the_arguments_as_they_came() -> None:
    arguments = {"b": 1, "a": {"password": "hunter2"}}
    row = decided(arguments=arguments)
    assert row["args_sha256"] == hashlib.sha256(canonical(arguments)).hexdigest()
    assert row["args"] == '{"a":{"password":"[redacted:member]"},"b":1}'
    assert orjson.loads(row["redactions"]) == [{"path": "$.a.password", "rule": "member"}]


@pytest.mark.parametrize("record", list(Record))
def test_how_much_content_is_kept_is_a_choice_and_digests_are_not(record: Record) -> None:
    value = {"text": "x" * 100}
    stored = store(value, Contents(record, preview_bytes=20))
    assert stored.sha256 == hashlib.sha256(canonical(value)).hexdigest()
    assert stored.size == len(canonical(value))
    if record is Record.DIGEST:
        assert stored.text is None
    elif record is Record.FULL:
        assert stored.text == canonical(value).decode()
    else:
        assert stored.text is not None
        assert stored.redactions[0]["rule"] == "truncated"


def test_fifty_megabytes_of_arguments_are_a_digest_and_a_preview_that_is_json() -> None:
    arguments = {"path": "a.bin", "content": "A" * 50_000_000, "list": list(range(100_000))}
    row = decided(arguments=arguments)
    assert len(row["args"]) < 4096
    assert orjson.loads(row["args"])["path"] == "a.bin"
    assert row["args_sha256"] == hashlib.sha256(canonical(arguments)).hexdigest()


def test_values_that_are_not_json_do_not_cost_the_row() -> None:
    row = decided(arguments={"odd": {1, 2}, "big": 2**80, "surrogate": "\ud800"})
    assert orjson.loads(row["args"])
    assert row["args_sha256"]


def test_names_somebody_else_wrote_are_bounded_and_cannot_break_a_row() -> None:
    row = decided(client="x" * 100_000, name="a\ud800b")
    assert len(row["client"]) < 1100
    orjson.dumps(row)


def test_secrets_in_names_are_taken_out() -> None:
    entry = Entry(0.0, CALLER, request(name=f"https://u:{CANARY}@example.test/", kind=Kind.RESOURCE), None, ALLOWED)
    assert CANARY not in str(decided_row(entry, Contents()))


def test_a_time_that_is_no_number_does_not_break_the_chain() -> None:
    entry = Entry(0.0, CALLER, request(), TARGET, ALLOWED)
    decided_row(entry, Contents())
    row = finished_row(entry, Outcome(OutcomeStatus.OK, upstream_ms=float("nan")), float("inf"), 0.0, Contents())
    assert (row["upstream_ms"], row["gateway_ms"]) == (0.0, 0.0)


def test_completion_keeps_what_was_asked() -> None:
    params = {"ref": {"type": "ref/prompt", "name": "p"}, "argument": {"name": "a", "value": "b"}, "_meta": {"x": 1}}
    row = decided(verb=Verb.COMPLETE, params=params)
    assert orjson.loads(row["args"]) == {"ref": params["ref"], "argument": params["argument"]}


def test_a_trace_the_agent_is_in_is_kept() -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    assert decided(params={"_meta": {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}})["trace_id"] == trace
    assert "trace_id" not in decided(params={"_meta": {"traceparent": "'; DROP TABLE entries"}})


def test_time_is_utc_to_the_millisecond() -> None:
    assert timestamp(1_795_258_923.1239) == "2026-11-21T11:02:03.123Z"


async def test_no_secret_is_in_the_bytes_of_the_database(tmp_path: Path) -> None:
    secrets = {
        "password": CANARY,
        "header": f"Authorization: Bearer {CANARY}",
        "nested": orjson.dumps({"api_key": CANARY}).decode(),
        "list": [{"cookie": CANARY}, f"sk-{CANARY}", f"postgres://u:{CANARY}@h/db"],
    }
    async with opened(tmp_path, record=Record.FULL) as log:
        await one_call(log, arguments=secrets, outcome=Outcome(OutcomeStatus.OK, {"content": [secrets]}))
        await log.record(CALLER, request("r2", secrets), TARGET, ALLOWED, REFUSED)
        await log.note("config", "changed", reason=f"Bearer {CANARY}", detail=secrets)
        for file in (database(tmp_path), database(tmp_path).with_name("audit.db-wal")):
            assert CANARY.encode() not in file.read_bytes()
    assert CANARY.encode() not in database(tmp_path).read_bytes()
    assert judged(tmp_path).ok


SQL = "'; DROP TABLE entries; --"


async def test_text_that_looks_like_sql_is_only_text(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await one_call(log, request_id=SQL, name=SQL, client=SQL, session=SQL, arguments={SQL: SQL})
    (row,) = rows(tmp_path, "SELECT * FROM entries WHERE phase = 'decided'")
    assert (row["request_id"], row["client"], row["session"]) == (SQL, SQL, SQL)


def test_a_wire_task_is_kept_by_its_id_and_what_was_answered() -> None:
    params = {"taskId": "t", "inputResponses": {"q": {"action": "decline"}}, "_meta": {"x": 1}}
    row = decided(verb=Verb.TASK_UPDATE, params=params)
    assert row["kind"] == "task_update"
    assert orjson.loads(row["args"]) == {"taskId": "t", "inputResponses": {"q": {"action": "decline"}}}
    assert orjson.loads(decided(verb=Verb.TASK_GET, params=params)["args"]) == {"taskId": "t"}
