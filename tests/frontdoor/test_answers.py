"""What each method is answered with, in the words of the agent's era."""

import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest

from fakes.front import Front, parts
from fakes.replies import RecordingReply
from fakes.upstream import Hanging, answering_with, raising
from fakes.waiting import until
from mcp_gateway.domain import Era, Json, Outcome, OutcomeStatus, RpcError, Transport
from mcp_gateway.errors import TimedOut
from mcp_gateway.frontdoor import answers as module
from mcp_gateway.frontdoor.answers import MAX_TTL_MS, speaks
from mcp_gateway.frontdoor.protocol import Asked

SERVER = "io.modelcontextprotocol/serverInfo"
MODERN_ONLY = {"resultType", "ttlMs", "cacheScope"}


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Front]:
    async with parts(tmp_path) as opened:
        yield opened


async def ask(
    made: Front, method: str, params: Any = None, era: Era = Era.MODERN, agent: str = "alice", task: str = "work"
) -> Json:
    asked = Asked(method, params or {}, era, "v", Transport.HTTP)
    answer = await made.answers.answer(made.caller(agent, task), asked, RecordingReply())
    told: Json = orjson.loads(orjson.dumps(answer))  # as it leaves
    return told


def names(answer: Json, member: str = "tools") -> list[str]:
    return [str(each.get("name") if member != "resources" else each["uri"]) for each in answer["result"][member]]


@pytest.mark.parametrize("era", list(Era))
async def test_lists_show_what_the_caller_may_use_and_nothing_else(made: Front, era: Era) -> None:
    seen = names(await ask(made, "tools/list", era=era))
    assert seen == ["u__careful", "u__echo", "u__hang", "u__routed", "u__second"]
    assert names(await ask(made, "tools/list", era=era, agent="bob", task="other")) == ["u__echo"]
    assert names(await ask(made, "prompts/list", era=era), "prompts") == ["u__greet"]
    assert names(await ask(made, "resources/list", era=era), "resources") == ["note:///open"]
    assert len((await ask(made, "resources/templates/list", era=era))["result"]["resourceTemplates"]) == 1


@pytest.mark.parametrize("method", ["tools/list", "prompts/list", "resources/list", "resources/templates/list"])
async def test_a_modern_list_is_private(made: Front, method: str) -> None:
    result = (await ask(made, method))["result"]
    assert (result["resultType"], result["cacheScope"], result["ttlMs"]) == ("complete", "private", 0)
    assert result["_meta"][SERVER]["name"] == "mcp_gateway"
    assert not MODERN_ONLY & (await ask(made, method, era=Era.LEGACY))["result"].keys()


async def test_pages_join_to_the_whole_list(tmp_path: Path) -> None:
    async with parts(tmp_path, page_size=2) as made:
        seen, cursor = [], ""
        while True:
            page = await ask(made, "tools/list", {"cursor": cursor})
            seen += names(page)
            if (cursor := page["result"].get("nextCursor", "")) == "":
                break
        assert seen == ["u__careful", "u__echo", "u__hang", "u__routed", "u__second"]


@pytest.mark.parametrize("cursor", ["x", 1, {}, "AAAA"])
async def test_a_cursor_that_is_not_ours_is_refused(made: Front, cursor: Any) -> None:
    assert (await ask(made, "tools/list", {"cursor": cursor}))["error"]["code"] == -32602


async def test_a_cursor_belongs_to_one_caller(tmp_path: Path) -> None:
    async with parts(tmp_path, page_size=1) as made:
        cursor = (await ask(made, "tools/list"))["result"]["nextCursor"]
        params = {"cursor": cursor}
        assert "error" in await ask(made, "tools/list", params, agent="bob", task="other")
        assert "error" in await ask(made, "prompts/list", params)
        made.offer("another")
        assert "error" in await ask(made, "tools/list", params)


async def test_a_modern_server_says_what_it_is(made: Front) -> None:
    result = (await ask(made, "server/discover"))["result"]
    assert result["supportedVersions"] == ["2026-07-28"]
    assert result["capabilities"]["tools"] == {"listChanged": True}
    assert "Use echo." in result["instructions"]


@pytest.mark.parametrize(
    ("version", "agreed"), [("2025-06-18", "2025-06-18"), ("1", "2025-11-25"), (None, "2025-11-25")]
)
async def test_a_handshake_agrees_on_a_version(made: Front, version: Any, agreed: str) -> None:
    result = (await ask(made, "initialize", {"protocolVersion": version}, Era.LEGACY))["result"]
    assert (result["protocolVersion"], result["serverInfo"]["name"]) == (agreed, "mcp_gateway")


@pytest.mark.parametrize(("method", "era"), [("server/discover", Era.MODERN), ("initialize", Era.LEGACY)])
async def test_instructions_of_an_upstream_reach_only_those_who_see_something_of_it(
    made: Front, method: str, era: Era
) -> None:
    assert "instructions" in (await ask(made, method, era=era))["result"]
    assert "instructions" not in (await ask(made, method, era=era, task="rest"))["result"]


@pytest.mark.parametrize("params", [
    {}, {"name": None}, {"name": 1}, {"name": ["u__echo"]}, {"name": "u__echo", "arguments": []},
    {"name": "u__echo", "arguments": "x"},
])  # fmt: skip
@pytest.mark.parametrize("era", list(Era))
async def test_params_of_the_wrong_shape_go_nowhere(made: Front, params: Json, era: Era) -> None:
    assert (await ask(made, "tools/call", params, era))["error"]["code"] == -32602
    assert made.u.asked == []


@pytest.mark.parametrize("params", [
    {}, {"ref": {}}, {"ref": [], "argument": {}}, {"ref": {"type": "ref/prompt"}, "argument": {}},
    {"ref": {"type": "ref/tool", "name": "u__echo"}, "argument": {}},
    {"ref": {"type": ["x"], "uri": 1}, "argument": {}},
    {"ref": {"type": "ref/prompt", "name": 1}, "argument": {}}, {"ref": {"type": "ref/prompt", "name": "u__greet"}},
])  # fmt: skip
async def test_a_reference_of_the_wrong_shape_goes_nowhere(made: Front, params: Json) -> None:
    assert (await ask(made, "completion/complete", params))["error"]["code"] == -32602
    assert made.u.asked == []


@pytest.mark.parametrize("ref", [
    {"type": "ref/prompt", "name": "u__greet"}, {"type": "ref/resource", "uri": "shelf:///open/{id}"},
])  # fmt: skip
async def test_completions_are_relayed_in_the_upstreams_names(made: Front, ref: Json) -> None:
    answer = await ask(made, "completion/complete", {"ref": ref, "argument": {"name": "a", "value": "b"}})
    assert answer["result"]["completion"]["values"] == ["one"]
    assert made.u.asked[0].params["ref"] == {**ref, **({"name": "greet"} if "name" in ref else {})}


@pytest.mark.parametrize(
    ("method", "modern", "legacy"),
    [
        ("tools/call", True, True),
        ("resources/templates/list", True, True),
        ("completion/complete", True, True),
        ("server/discover", True, False),
        ("initialize", False, True),
        ("ping", False, True),
        ("logging/setLevel", False, True),
        ("resources/subscribe", False, True),
        ("tasks/get", True, False),
        ("tasks/list", False, False),
        ("tasks/result", False, False),
        ("Tools/call", False, False),
        ("", False, False),
    ],
)
def test_each_era_has_its_methods(method: str, modern: bool, legacy: bool) -> None:
    assert (speaks(Era.MODERN, method), speaks(Era.LEGACY, method)) == (modern, legacy)


async def test_an_unknown_method_is_not_found(made: Front) -> None:
    assert (await ask(made, "tools/destroy"))["error"]["code"] == -32601


async def test_fields_nobody_knows_and_nulls_survive(made: Front) -> None:
    result = {"content": [{"type": "new", "x": None}], "structuredContent": None, "future": [1], "_meta": {"a/b": None}}
    made.u.script["echo"] = answering_with(Outcome(OutcomeStatus.OK, result))
    answer = await ask(made, "tools/call", {"name": "u__echo"}, Era.LEGACY)
    assert answer["result"] == result
    modern = (await ask(made, "tools/call", {"name": "u__echo"}))["result"]
    assert modern.pop("resultType") == "complete"
    assert modern.pop("_meta").keys() == {"a/b", SERVER}
    assert modern == {name: value for name, value in result.items() if name != "_meta"}


async def test_an_upstream_does_not_speak_for_the_gateway(made: Front) -> None:
    result = {"content": [], "_meta": {SERVER: {"name": "evil"}}, "cacheScope": "public", "resultType": "complete"}
    made.u.script["echo"] = answering_with(Outcome(OutcomeStatus.OK, result))
    assert (await ask(made, "tools/call", {"name": "u__echo"}))["result"]["_meta"][SERVER]["name"] == "mcp_gateway"
    assert (await ask(made, "tools/call", {"name": "u__echo"}, Era.LEGACY))["result"] == {"content": []}


@pytest.mark.parametrize(
    ("said", "kept"), [(5, 5), (-5, 0), (10**12, MAX_TTL_MS), ("5", 0), (None, 0), (True, 0), (1.5, 0)]
)
async def test_what_is_read_is_private_and_its_ttl_in_bounds(made: Front, said: Any, kept: int) -> None:
    result = {"contents": [], "ttlMs": said, "cacheScope": "public"}
    made.u.script["note:///open"] = answering_with(Outcome(OutcomeStatus.OK, result))
    read = (await ask(made, "resources/read", {"uri": "note:///open"}))["result"]
    assert (read["ttlMs"], read["cacheScope"]) == (kept, "private")


@pytest.mark.parametrize("kind", ["input_required", "task", None, 1])
async def test_a_question_the_gateway_had_ruled_out_is_not_relayed(made: Front, kind: Any) -> None:
    made.u.script["echo"] = answering_with(Outcome(OutcomeStatus.OK, {"resultType": kind, "inputRequests": {"a": 1}}))
    answer = await ask(made, "tools/call", {"name": "u__echo"})
    assert answer["result"]["isError"] is True
    assert "inputRequests" not in answer["result"]


async def test_an_upstreams_error_is_an_error_and_its_silence_a_tool_result(made: Front) -> None:
    made.u.script["echo"] = answering_with(Outcome(OutcomeStatus.RPC_ERROR, error=RpcError(-32602, "no", {"a": 1})))
    answer = await ask(made, "tools/call", {"name": "u__echo"})
    assert answer == {"error": {"code": -32602, "message": "no", "data": {"a": 1}}}
    made.u.script["echo"] = raising(TimedOut("u", "no answer in 30 s"))
    answer = await ask(made, "tools/call", {"name": "u__echo"})
    assert answer["result"]["isError"] is True


@pytest.mark.parametrize("era", list(Era))
async def test_a_bug_is_an_internal_error_without_detail(
    made: Front, era: Era, caplog: pytest.LogCaptureFixture
) -> None:
    made.u.script["echo"] = raising(ZeroDivisionError("secret detail"))
    with caplog.at_level(logging.ERROR, "mcp_gateway"):
        answer = await ask(made, "tools/call", {"name": "u__echo"}, era)
    assert answer == {"error": {"code": -32603, "message": "internal error"}}
    assert made.rows("outcome, request_id") == [("failed", "r-1")]
    [record] = caplog.records
    assert record.fields == {"request_id": "r-1", "agent": "alice", "method": "tools/call"}  # type: ignore[attr-defined]
    assert record.exc_info is not None


async def test_cancellation_goes_through(made: Front) -> None:
    made.u.script["hang"] = hanging = Hanging()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask, made, "tools/call", {"name": "u__hang"})
        await until(lambda: hanging.replies)
        tasks.cancel_scope.cancel()
    assert made.rows("outcome") == [("cancelled",)]


def test_the_capabilities_promise_only_what_is_kept() -> None:
    assert "tasks" not in str(module.CAPABILITIES)
