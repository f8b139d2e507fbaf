"""What start-up waits for, and what is left when it fails or a gateway ends."""

import os
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from time import perf_counter

import pytest

from fakes.gateway_process import write_files
from fakes.in_process import FILES, caller, configured, running_in
from fakes.leftovers import child_processes
from mcp_gateway.config.servers import load
from mcp_gateway.domain import Kind, Request, Verb
from mcp_gateway.errors import NotAuthenticated, PolicyInvalid, StoreUnavailable
from mcp_gateway.wiring import starting
from mcp_gateway.wiring.clock import utc_now
from mcp_gateway.wiring.starting import running, trusting
from mcp_gateway.wiring.stores import keys_of, started_tasks_of


async def test_nothing_is_left_running_or_locked(tmp_path: Path) -> None:
    before = child_processes()
    async with running_in(tmp_path):
        assert child_processes() > before
    assert child_processes() == before
    with closing(sqlite3.connect(tmp_path / "audit.db")) as db:
        db.execute("BEGIN EXCLUSIVE")


async def test_the_first_list_waits_for_upstreams_that_are_starting(tmp_path: Path) -> None:
    """An agent may list only once."""
    configuration = configured(tmp_path)
    async with running(lambda: configuration) as parts:
        request = Request("r", Verb.LIST, "tools/list", Kind.TOOL, "", {})
        assert parts.gateway.visible(caller("reader"), Kind.TOOL) == ()
        page = await parts.gateway.list(caller("reader"), request)
    assert [target.public_name for target in page.targets] == ["one__echo"]


async def test_an_upstream_that_hangs_delays_the_first_list_no_longer_than_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "FIRST_LIST_S", 0.5)
    hanging = '\n[servers.hangs]\ncommand = ["sh", "-c", "cat > /dev/null"]\n'
    configuration = configured(tmp_path, FILES["servers.toml"] + hanging)
    async with running(lambda: configuration) as parts:
        started_at = perf_counter()
        page = await parts.gateway.list(caller("reader"), Request("r", Verb.LIST, "tools/list", Kind.TOOL, "", {}))
        assert perf_counter() - started_at < 2
        assert [target.public_name for target in page.targets] == ["one__echo"]
        assert parts.health()["ready"] is False


async def test_a_configuration_that_cannot_be_used_starts_nothing(tmp_path: Path) -> None:
    write_files(tmp_path, {**FILES, "policies/agents.toml": "x"})
    before = child_processes()
    with pytest.raises(PolicyInvalid):
        async with running(lambda: load(tmp_path / "servers.toml", os.environ)):
            raise AssertionError
    assert child_processes() == before
    assert not (tmp_path / "audit.db").exists()


async def test_an_audit_that_cannot_be_opened_starts_nothing(tmp_path: Path) -> None:
    (tmp_path / "audit.db").mkdir()
    before = child_processes()
    with pytest.raises(StoreUnavailable):
        async with running_in(tmp_path):
            raise AssertionError
    assert child_processes() == before


async def test_an_agent_is_let_in_by_its_key_or_its_started_task_and_nobody_else_is(tmp_path: Path) -> None:
    async with running_in(tmp_path) as parts:
        with closing(keys_of(parts.configuration)) as keys, closing(started_tasks_of(parts.configuration)) as tasks:
            key, _ = keys.create("reader", None, utc_now())
            token, _ = tasks.start("writer", "write", timedelta(minutes=1), utc_now())
            async with trusting(parts, keys, tasks, "http://127.0.0.1:1") as trust:
                found = [trust.verifier.identify([f"Bearer {shown}"], utc_now()).agent for shown in (key, token)]
                with pytest.raises(NotAuthenticated):
                    trust.verifier.identify(["Bearer wrong"], utc_now())
    assert found == ["reader", "writer"]
    assert (trust.resource, trust.login, trust.origin) == (None, None, "http://127.0.0.1:1")


async def test_the_gateways_own_logins_are_there_where_they_are_configured(tmp_path: Path) -> None:
    files = {**FILES, "servers.toml": FILES["servers.toml"] + "[identity.login]\n"}
    async with running_in(tmp_path, files) as parts:
        with closing(keys_of(parts.configuration)) as keys, closing(started_tasks_of(parts.configuration)) as tasks:
            async with trusting(parts, keys, tasks, "http://127.0.0.1:1") as trust:
                assert trust.login is not None
                assert trust.login.issuer == "http://127.0.0.1:1"
                assert trust.resource is not None
    assert (parts.configuration.settings.state / starting.LOGIN_KEY_FILE).stat().st_mode & 0o777 == 0o600
