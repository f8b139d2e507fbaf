"""Policies and targets that rows refer to."""

from dataclasses import replace
from pathlib import Path

from evidence import ALLOWED, CALLER, TARGET, judged, one_call, opened, request, rows, tamper

from fakes.waiting import until
from mcp_gateway.audit.verify import Fault


async def test_a_policy_is_there_no_later_than_the_first_row_under_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        log.remember_policy("v1", "[tasks.triage]\n")
        await log.open(CALLER, request(), TARGET, ALLOWED)
        (policy,) = rows(tmp_path, "SELECT * FROM policy_versions")
        assert (policy["hash"], policy["text"]) == ("v1", "[tasks.triage]\n")


async def test_a_policy_nothing_was_decided_under_is_kept_too(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        log.remember_policy("v2", "text")
        log.remember_policy("v2", "text")
    assert [row["hash"] for row in rows(tmp_path, "SELECT * FROM policy_versions")] == ["v2"]


async def test_a_policy_nobody_told_us_of_still_has_its_row(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await one_call(log)
        assert rows(tmp_path, "SELECT text FROM policy_versions") == [{"text": None}]
        log.remember_policy("v1", "late")
        await until(lambda: rows(tmp_path, "SELECT text FROM policy_versions") == [{"text": "late"}])
    assert rows(tmp_path, "PRAGMA foreign_key_check") == []
    assert judged(tmp_path).ok


async def test_a_target_is_kept_with_each_of_its_definitions(tmp_path: Path) -> None:
    changed = replace(TARGET, definition={"name": "github__search", "description": "new"}, definition_hash="e" * 64)
    async with opened(tmp_path) as log:
        await one_call(log)
        await log.open(CALLER, request("r2"), changed, ALLOWED)
        await log.open(CALLER, request("r3"), TARGET, ALLOWED)
    found = rows(tmp_path, "SELECT * FROM target_versions ORDER BY definition_sha256")
    assert [(row["upstream"], row["name"], row["definition_sha256"][0]) for row in found] == [
        ("github", "search", "d"),
        ("github", "search", "e"),
    ]
    assert rows(tmp_path, "PRAGMA foreign_key_check") == []


async def test_two_upstreams_may_offer_the_same_definition(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        log.remember_target(TARGET)
        log.remember_target(replace(TARGET, upstream="gitlab"))
    assert len(rows(tmp_path, "SELECT * FROM new_targets")) == 2


async def test_an_edited_policy_or_definition_shows(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        log.remember_policy("v1", "allow nothing")
        await one_call(log)
    tamper(
        tmp_path,
        "UPDATE policy_versions SET text = 'allow everything'",
        "UPDATE target_versions SET definition = '{}'",
    )
    assert [problem.fault for problem in judged(tmp_path).problems] == [Fault.VERSION, Fault.VERSION]
