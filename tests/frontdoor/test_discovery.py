"""Three tools instead of a long list: the same policy, the same audit, nothing found that may not be seen."""

import json
from pathlib import Path
from typing import Any

import pytest

from fakes.front import Front, answer_of, front
from mcp_gateway.domain import Json
from mcp_gateway.frontdoor.discovery import TOOLS

NAMES = [tool["name"] for tool in TOOLS]


async def called(door: Front, name: str, arguments: Json, **more: Any) -> Json:
    return dict(answer_of(await door.call(name, arguments, **more)))


async def result(door: Front, name: str, arguments: Json, **more: Any) -> Any:
    answer = (await called(door, name, arguments, **more))["result"]
    assert json.loads(answer["content"][0]["text"]) == answer["structuredContent"]
    return answer["structuredContent"]


async def found(door: Front, query: str, **more: Any) -> list[str]:
    return [tool["name"] for tool in (await result(door, "search_tools", {"query": query}, **more))["tools"]]


async def listed(door: Front, agent: str = "alice") -> list[str]:
    return [tool["name"] for tool in answer_of(await door.modern("tools/list", agent=agent))["result"]["tools"]]


async def test_it_is_off_until_a_list_is_longer_than_configured(tmp_path: Path) -> None:
    async with front(tmp_path / "off") as door:
        assert "u__echo" in await listed(door)
        assert "error" in await called(door, "search_tools", {"query": "echo"})
    async with front(tmp_path / "on", search_above=3) as door:
        assert await listed(door) == NAMES
        assert await listed(door, "bob") == ["u__echo"]  # one tool is no long list


async def test_a_search_finds_what_this_caller_may_see_and_nothing_else(tmp_path: Path) -> None:
    async with front(tmp_path, search_above=3) as door:
        assert (await found(door, "echo"))[0] == "u__echo"
        assert await found(door, "secret") == []
        assert await found(door, "careful") == ["u__careful"]  # it depends on the arguments
        assert await found(door, "second", agent="bob") == []


async def test_a_description_is_whole_and_what_may_not_be_seen_is_unknown(tmp_path: Path) -> None:
    async with front(tmp_path, search_above=3) as door:
        assert (await result(door, "describe_tool", {"name": "u__echo"}))["inputSchema"] == {"type": "object"}
        denied, unknown = [await called(door, "describe_tool", {"name": name}) for name in ("u__secret", "u__absent")]
        assert str(denied).replace("u__secret", "X") == str(unknown).replace("u__absent", "X")
        assert denied["error"]["code"] == -32602


async def test_a_call_through_it_is_decided_sent_and_written_down_as_the_real_one(tmp_path: Path) -> None:
    async with front(tmp_path, search_above=3) as door:
        direct = await called(door, "u__careful", {"path": "safe"})
        through = await called(door, "call_tool", {"name": "u__careful", "arguments": {"path": "safe"}})
        assert direct["result"] == through["result"]
        for name, arguments in [("u__careful", {"path": "other"}), ("u__secret", {}), ("u__absent", {})]:
            refused = await called(door, "call_tool", {"name": name, "arguments": arguments})
            assert refused["error"] == (await called(door, name, arguments))["error"]
        rows = door.rows("kind, upstream, name, decision, args")
        assert rows[0] == rows[1] == ("call", "u", "careful", "allowed", '{"path":"safe"}')
        assert rows[2] == rows[3]
        assert not any(row[2] == "call_tool" for row in rows)


async def test_a_search_and_a_description_are_in_the_audit(tmp_path: Path) -> None:
    async with front(tmp_path, search_above=3) as door:
        await found(door, "echo")
        await called(door, "describe_tool", {"name": "u__echo"})
        await called(door, "describe_tool", {"name": "u__secret"})
        rows = door.rows("kind, name, decision, outcome, args")
        assert rows == [
            ("search", "search_tools", "allowed", "ok", '{"query":"echo"}'),
            ("search", "echo", "allowed", "ok", '{"name":"u__echo"}'),
            ("search", "secret", "denied", "refused", '{"name":"u__secret"}'),
        ]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("search_tools", {}),
        ("search_tools", {"query": 5}),
        ("search_tools", {"query": "x" * 1001}),
        ("search_tools", {"query": "x", "limit": 0}),
        ("search_tools", {"query": "x", "limit": "5"}),
        ("describe_tool", {}),
        ("call_tool", {}),
        ("call_tool", {"name": "call_tool", "arguments": {}}),
        ("call_tool", {"name": "u__echo", "arguments": 5}),
    ],
)
async def test_arguments_that_make_no_sense_are_refused_in_words(tmp_path: Path, name: str, arguments: Json) -> None:
    async with front(tmp_path, search_above=3) as door:
        answer = await called(door, name, arguments)
        assert answer.get("error") or answer["result"]["isError"]
        assert await found(door, "echo")  # and it goes on


async def test_it_works_in_the_handshake_era_too(tmp_path: Path) -> None:
    async with front(tmp_path, search_above=3) as door:
        session = await door.handshake()
        tools = answer_of(await door.old(session, "tools/list"))["result"]["tools"]
        assert [tool["name"] for tool in tools] == NAMES
        params = {"name": "call_tool", "arguments": {"name": "u__echo", "arguments": {"a": 1}}}
        assert "result" in answer_of(await door.old(session, "tools/call", params))


async def test_tools_that_come_later_are_found_without_a_restart(tmp_path: Path) -> None:
    async with front(tmp_path, search_above=3) as door:
        assert await found(door, "zebra") == []
        door.offer("zebra", policy=door_policy())
        assert await found(door, "zebra") == ["u__zebra"]


def door_policy() -> str:
    return '[agents.alice]\ntasks = ["t"]\ndefault_task = "t"\n[tasks.t]\nallow = ["u/*"]\n'
