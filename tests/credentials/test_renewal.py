"""One renewal at a time in all processes; nothing is lost that the authorization server did not take away."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fakes.renewing_run
from fakes.authorization import world
from fakes.broker import bench, caller_of, server_of
from fakes.waiting import until
from mcp_gateway.credentials import renewal
from mcp_gateway.errors import ConsentNeeded, StoreUnavailable

OWNER = "person:https://idp.example alice"


async def run(state: Path, url: str, *words: str) -> asyncio.subprocess.Process:
    command = [sys.executable, fakes.renewing_run.__file__, str(state), url, *words]
    paths = [str(Path(fakes.renewing_run.__file__).parents[n]) for n in (1, 2)]  # where pytest finds `fakes`, and us
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, env=environ)


async def said_by(process: asyncio.subprocess.Process) -> list[dict[str, str]]:
    out, _ = await process.communicate()
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.slow
async def test_processes_that_find_a_token_expired_at_once_renew_it_once(tmp_path: Path) -> None:
    async with world(lifetime_s=5) as w:
        async with bench(tmp_path / "s", server_of(w)) as made:
            await made.person("alice")
        w.lifetime_s = 3600
        w.may_answer.clear()
        runs = [await run(tmp_path / "s", w.url, "--ahead", "4") for _ in range(3)]
        await until(lambda: w.refreshes == 1, within_s=30)
        w.may_answer.set()
        said = [line for process in runs for line in await said_by(process)]
    assert len({line["token"] for line in said}) == 1, said
    assert w.refreshes == 1


@pytest.mark.slow
async def test_a_renewal_whose_process_was_killed_is_taken_up_by_the_next(tmp_path: Path) -> None:
    async with world(lifetime_s=5, rotates=False) as w:
        async with bench(tmp_path / "s", server_of(w)) as made:
            await made.person("alice")
        w.may_answer.clear()
        process = await run(tmp_path / "s", w.url, "--ahead", "4")
        await until(lambda: w.refreshes == 1, within_s=30)
        process.kill()
        await process.wait()
        w.may_answer.set()
        async with bench(tmp_path / "s", server_of(w)) as made:
            [row] = await made.broker.vault.rows()
            assert row.renewal_began is not None
            made.clock.ahead_s = 10
            assert await made.broker.credential_for(caller_of("alice"), "crm")
            [row] = await made.broker.vault.rows()
            assert row.renewal_began is None


async def test_a_rotated_token_whose_answer_was_lost_is_said_to_be_that(tmp_path: Path) -> None:
    async with world() as w, bench(tmp_path / "s", server_of(w)) as made:
        await made.person("alice")
        login = await made.broker.vault.login(OWNER, "crm")
        assert login is not None
        await made.broker.vault.begin_renewal(login, 1_000_000_000.0)  # and then the process ended
        w.refresh.clear()
        made.clock.ahead_s = 3600
        with pytest.raises(ConsentNeeded, match="cut off at 2001-09-09T01:46:40"):
            await made.broker.credential_for(caller_of("alice"), "crm")


async def test_an_answer_the_disk_will_not_take_at_once_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewal, "STORE_WAITS_S", (0.01, 0.01))
    async with world() as w, bench(tmp_path / "s", server_of(w)) as made:
        await made.person("alice")
        vault, keep, failures = made.broker.vault, made.broker.vault.keep_renewed, iter([1, 2])

        async def fails_twice(*given: object) -> object:
            if next(failures, None) is not None:
                raise StoreUnavailable("disk full")
            return await keep(*given)  # type: ignore[arg-type]

        vault.keep_renewed = fails_twice  # type: ignore[method-assign,assignment]
        made.clock.ahead_s = 3600
        assert await made.broker.credential_for(caller_of("alice"), "crm")
        kept = await vault.login(OWNER, "crm")
        assert kept is not None and kept.refresh_token in w.refresh


async def test_a_login_made_while_an_older_one_is_renewed_is_the_one_that_counts(tmp_path: Path) -> None:
    async with world() as w, bench(tmp_path / "s", server_of(w)) as made, bench(tmp_path / "s", server_of(w)) as other:
        await made.person("alice")
        made.clock.ahead_s = 3600
        w.may_answer.clear()
        renewing = asyncio.create_task(made.broker.credential_for(caller_of("alice"), "crm"))
        await until(lambda: w.refreshes == 1)
        await other.broker.vault.forget(OWNER, "crm")
        w.may_answer.set()
        with pytest.raises(ConsentNeeded, match="removed"):
            await renewing
        assert await made.broker.vault.rows() == ()
