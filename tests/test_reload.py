"""Edits while it runs: in force at once and whole, told to whom they concern; broken ones change nothing."""

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anyio
import pytest

from fakes.in_process import FILES, POLICY, caller, running_in, server_table, tools_of
from fakes.replies import RecordingReply
from fakes.waiting import until
from mcp_gateway.audit.query import AuditReader
from mcp_gateway.domain import Era, Kind, Request, Transport, UpstreamRequest, Verb
from mcp_gateway.errors import PolicyInvalid, StoreUnavailable, Unreachable
from mcp_gateway.frontdoor.listen import Subscriber
from mcp_gateway.reload import reload
from mcp_gateway.wiring import Running

WIDER = POLICY.replace('"one/echo"', '"one/echo", "two/echo"')
BROKEN = POLICY.replace("allow = [", "alow = [", 1)

Watched = AbstractAsyncContextManager[Running]


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return running_in(tmp_path, watched=True)


def edit(parts: Running, text: str, name: str = "policies/agents.toml") -> None:
    """As editors do: a new file takes the place of the old one."""
    path = parts.configuration.path.parent / name
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def listener(parts: Running, agent: str) -> list[str]:
    """What an agent that listens is told from now on."""
    told: list[str] = []
    subscriber = Subscriber(lambda: caller(agent), Era.MODERN, Transport.HTTP, tuple(Kind), told.append)
    parts.bulletin.subscribe(subscriber)
    return told


def reloads(parts: Running) -> list[tuple[str, str]]:
    with AuditReader(parts.configuration.settings.audit) as audit:
        return [(row["kind"], row["reason"]) for row in audit.events() if row["name"] == "reload"]


async def pid_of(parts: Running, upstream: str) -> int:
    answer = await parts.pool.upstreams[upstream].send(
        UpstreamRequest("tools/call", {"name": "pids", "arguments": {}}), RecordingReply()
    )
    assert answer.result is not None
    return int(json.loads(answer.result["content"][0]["text"])[0])


async def test_a_policy_edit_is_in_force_without_a_restart(watched: Watched) -> None:
    async with watched as parts:
        assert tools_of(parts, "reader") == {"one__echo"}
        before = parts.policy.version
        edit(parts, WIDER)
        await until(lambda: tools_of(parts, "reader") == {"one__echo", "two__echo"})
        noted = ("policy", f"{before[:8]} -> {parts.policy.version[:8]}")
        await until(lambda: noted in reloads(parts))


async def test_exactly_those_whose_lists_changed_are_told(watched: Watched) -> None:
    async with watched as parts:
        reader, writer = listener(parts, "reader"), listener(parts, "writer")
        edit(parts, WIDER)
        await until(lambda: reader)
        assert reader == ["notifications/tools/list_changed"]
        assert writer == []


async def test_an_edit_that_changes_no_list_is_told_to_nobody(watched: Watched) -> None:
    async with watched as parts:
        reader = listener(parts, "reader")
        edit(parts, POLICY + "# a remark\n")
        await until(lambda: reloads(parts))
        assert reader == []


async def test_two_files_edited_together_are_never_seen_by_halves(tmp_path: Path) -> None:
    """A grant moves from one file to the other: at no moment does the agent have both, or none."""
    agents = '[agents.reader]\ntasks = ["read"]\ndefault_task = "read"\n'
    first = {"policies/a.toml": f'{agents}[tasks.read]\nallow = ["one/echo"]\n', "policies/b.toml": ""}
    seen = set()
    async with running_in(tmp_path, {**FILES, "policies/agents.toml": "", **first}, watched=True) as parts:
        edit(parts, "", "policies/a.toml")
        edit(parts, f'{agents}[tasks.read]\nallow = ["two/echo"]\n', "policies/b.toml")

        def sees_the_new_one() -> bool:
            seen.add(frozenset(tools_of(parts, "reader")))
            return {"two__echo"} in seen

        await until(sees_the_new_one, every_s=0.001)
    assert seen == {frozenset({"one__echo"}), frozenset({"two__echo"})}


async def test_a_broken_policy_changes_nothing_and_says_so_everywhere_once(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    async with watched as parts:
        policy, told = parts.policy, listener(parts, "reader")
        edit(parts, BROKEN)
        await until(lambda: parts.health()["complaints"] == ["policy"])
        assert parts.gateway.snapshot.policy is policy
        assert told == []
        await until(lambda: reloads(parts))
        await reload(parts, "policy")  # looked at again, still the same complaint
        [(what, said)] = reloads(parts)
        assert what == "policy"
        assert said.startswith("refused: ")
        assert "agents.toml:11: unknown key 'alow' (did you mean 'allow'?)" in said
        assert [record.message for record in caplog.records if "refused" in record.message] == [f"policy: {said}"]


async def test_a_mended_policy_is_in_force_and_the_complaint_is_gone(watched: Watched) -> None:
    async with watched as parts:
        edit(parts, BROKEN)
        await until(lambda: parts.health()["complaints"])
        edit(parts, WIDER)
        await until(lambda: tools_of(parts, "reader") == {"one__echo", "two__echo"})
        assert parts.health()["complaints"] == []


async def test_a_policy_put_back_as_it_was_is_noted_too(watched: Watched) -> None:
    async with watched as parts:
        edit(parts, BROKEN)
        await until(lambda: parts.health()["complaints"])
        edit(parts, POLICY)
        await until(lambda: not parts.health()["complaints"])
        await until(lambda: ("policy", "as it was again") in reloads(parts))


async def test_policies_that_are_gone_allow_nothing(watched: Watched) -> None:
    async with watched as parts:
        (parts.configuration.settings.policies / "agents.toml").unlink()
        await until(lambda: tools_of(parts, "reader") == set())


async def test_an_upstream_is_added_and_removed_while_another_runs_on(watched: Watched) -> None:
    async with watched as parts:
        kept = await pid_of(parts, "one")
        told = listener(parts, "writer")
        edit(parts, server_table("one") + server_table("three"), "servers.toml")
        await until(
            lambda: (
                {target.public_name for target in parts.gateway.snapshot.catalog.targets(Kind.TOOL)}
                == {
                    "one__echo",
                    "three__echo",
                }
            )
        )
        assert await pid_of(parts, "one") == kept
        assert set(parts.pool.upstreams) == {"one", "three"}
        assert told == ["notifications/tools/list_changed"]
        [(what, said)] = reloads(parts)
        assert (what, "->" in said, "restart" in said) == ("config", True, False)


async def test_a_changed_command_is_another_child_and_the_rest_is_left_alone(watched: Watched) -> None:
    async with watched as parts:
        kept, changed = await pid_of(parts, "one"), await pid_of(parts, "two")
        edit(parts, server_table("one") + server_table("two", "banner"), "servers.toml")

        async def is_another() -> bool:
            try:
                return await pid_of(parts, "two") != changed
            except Unreachable:
                return False

        await until(is_another)
        assert await pid_of(parts, "one") == kept


async def test_names_and_tags_change_without_a_restart_of_the_child(watched: Watched) -> None:
    async with watched as parts:
        kept = await pid_of(parts, "one")
        edit(parts, server_table("one", prefix='"uno"') + server_table("two"), "servers.toml")
        await until(lambda: tools_of(parts, "reader") == {"uno__echo"})
        assert await pid_of(parts, "one") == kept


async def test_a_broken_servers_toml_changes_nothing_and_says_so(watched: Watched) -> None:
    async with watched as parts:
        kept, upstreams = await pid_of(parts, "one"), dict(parts.pool.upstreams)
        edit(parts, FILES["servers.toml"] + "[servers.one]\n", "servers.toml")
        await until(lambda: parts.health()["complaints"] == ["config"])
        assert parts.gateway.snapshot.upstreams == upstreams
        assert await pid_of(parts, "one") == kept
        await until(lambda: reloads(parts))
        assert "there is already a server named 'one'" in reloads(parts)[0][1]
        parts.configuration.path.unlink()
        await until(lambda: len(reloads(parts)) == 2)
        edit(parts, FILES["servers.toml"], "servers.toml")
        await until(lambda: parts.health()["complaints"] == [])


async def test_an_edit_of_the_gateway_s_own_table_asks_for_a_restart(watched: Watched) -> None:
    async with watched as parts:
        settings = parts.configuration.settings
        edit(parts, '[gateway]\nmax_body_bytes = 2048\npolicies = "other"\n' + FILES["servers.toml"], "servers.toml")
        await until(lambda: reloads(parts))
        assert reloads(parts)[0][1].endswith(" ([gateway] or [identity] changed: restart to apply)")
        assert parts.configuration.settings == settings
        assert tools_of(parts, "reader") == {"one__echo"}
        edit(parts, WIDER)
        await until(lambda: tools_of(parts, "reader") == {"one__echo", "two__echo"})


async def test_an_edit_between_reading_and_watching_is_not_lost(tmp_path: Path) -> None:
    async with running_in(tmp_path) as parts:
        edit(parts, WIDER)
        await reload(parts, "policy")  # what following begins with
        assert tools_of(parts, "reader") == {"one__echo", "two__echo"}


class Deaf:
    """Parts whose audit cannot be written."""

    siblings = None

    def __init__(self, outcome: Callable[[], str]) -> None:
        self.audit = self
        self._outcome = outcome
        self.complaints: dict[str, str] = {}

    async def reload_policy(self) -> str:
        return self._outcome()

    def complain(self, about: str, text: str) -> bool:
        self.complaints[about] = text
        return True

    async def note(self, *what: Any, **more: Any) -> None:
        raise StoreUnavailable("the disk is full")


async def test_an_edit_that_cannot_be_written_down_is_still_in_force_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    parts: Any = Deaf(lambda: "one -> two")
    await reload(parts, "policy")
    assert [record.message for record in caplog.records] == [
        "policy: one -> two",
        "the reload is not in the audit: the disk is full",
    ]


async def test_a_complaint_without_end_is_cut_in_the_audit() -> None:
    noted: list[str] = []

    def refuse() -> str:
        raise PolicyInvalid([])

    class Hearing(Deaf):
        async def note(self, kind: str, name: str, *, reason: str) -> None:
            noted.append(reason)

    parts: Any = Hearing(refuse)
    await reload(parts, "policy")
    assert noted == ["refused: "]


async def test_requests_are_judged_by_the_new_policy_from_the_next_one_on(watched: Watched) -> None:
    async with watched as parts:
        request = Request("r", Verb.CALL, "tools/call", Kind.TOOL, "two__echo", {"name": "two__echo", "arguments": {}})
        assert parts.gateway.peek(caller("reader"), Kind.TOOL, "two__echo") is None
        edit(parts, WIDER)
        await until(lambda: parts.gateway.peek(caller("reader"), Kind.TOOL, "two__echo"))
        outcome = await parts.gateway.ask(caller("reader"), request, RecordingReply())
        assert outcome.status == "ok"


async def test_following_ends_with_the_gateway(tmp_path: Path) -> None:
    with anyio.fail_after(10):
        async with running_in(tmp_path, watched=True):
            pass
