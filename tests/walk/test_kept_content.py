"""What calls carry, kept by choice on all three kinds of traffic: behind the guards, sealed, in the chain."""

import json
from pathlib import Path
from typing import Any

import pytest

from fakes.in_process import server_table
from fakes.model_gateway import ModelGateway, model_gateway
from fakes.plain_api import PlainApi
from fakes.replies import RecordingReply
from fakes.served import serving
from mcp_gateway.audit.verify import verify
from mcp_gateway.domain import Caller, Kind, Request, Verb
from mcp_gateway.wiring import audit_reader, kept_store, new_request_id

CARD = "4111 1111 1111 1111"
POLICY = """
[agents.alice]
tasks = ["work", "private"]
default_task = "work"
[tasks.work]
allow = ["one/*"]
[tasks.work.models]
allow = ["gpt-5-mini"]
[tasks.work.routes]
allow = ["api: POST /**"]
[tasks.private]
allow = ["one/*"]
[[keep]]
tasks = ["work"]
for = "30d"
[[guard]]
find = ["personal-data/card"]
then = "mask"
"""


async def call(gateway: ModelGateway, text: str, task: str = "work") -> None:
    params = {"name": "one__echo", "arguments": {"text": text}}
    request = Request(new_request_id(), Verb.CALL, "tools/call", Kind.TOOL, "one__echo", params)
    await gateway.parts.gateway.ask(Caller("alice", task), request, RecordingReply())


def kept(gateway: ModelGateway) -> list[tuple[str, str, str]]:
    """Target, part and content, the oldest first."""
    store = kept_store(gateway.parts.configuration)
    try:
        rows = sorted(store.table.newest(0), key=lambda row: (row.at, row.part))
        return [(row.target, row.part, store.content(row).decode()) for row in rows]
    finally:
        store.table.close()


@pytest.mark.parametrize("is_stream", [False, True])
async def test_what_goes_on_is_kept_of_all_three_and_the_chain_has_its_digests(tmp_path: Path, is_stream: bool) -> None:
    async with serving(PlainApi()) as origin:
        more = f'{server_table("one")}\n[servers.api]\nrest = "{origin}"\ninclude = ["* /v1/**"]\n'
        async with model_gateway(tmp_path, policy=POLICY, more=more) as gateway:
            await gateway.parts.settled(10)
            said = [{"role": "user", "content": f"my card {CARD}"}]
            answer = await gateway.chat(messages=said, stream=is_stream)
            assert "stranger" in answer.text
            await call(gateway, f"card {CARD}")
            await gateway.post("/rest/api/v1/notes", {"text": CARD})
            await call(gateway, "not to be kept", "private")
            found = kept(gateway)
            settings = gateway.parts.configuration.settings
            with audit_reader(gateway.parts.configuration) as audit:
                rows: list[dict[str, Any]] = [audit.entry(each["request_id"]) or {} for each in audit.calls()]
    assert [(target, part) for target, part, _ in found] == [
        ("models/gpt-5-mini", "arguments"),
        ("models/gpt-5-mini", "results"),
        ("one/echo", "arguments"),
        ("one/echo", "results"),
        ("api/POST /v1/notes", "arguments"),
        ("api/POST /v1/notes", "results"),
    ]
    texts = [content for _, _, content in found]
    assert not any("4111" in text for text in texts)
    assert sum("[masked:personal-data/card]" in text for text in texts) == 4
    assert texts[1] == answer.text
    digests = [json.loads(row["finished"]["kept"] or "{}") for row in rows]
    assert [sorted(each) for each in digests] == [["arguments", "results"]] * 3 + [[]]
    assert verify(settings.audit, settings.state).ok


async def test_where_no_policy_says_so_there_is_not_even_a_store(tmp_path: Path) -> None:
    policy = POLICY.replace('[[keep]]\ntasks = ["work"]\nfor = "30d"\n', "")
    async with model_gateway(tmp_path, policy=policy, more=server_table("one")) as gateway:
        await gateway.parts.settled(10)
        await call(gateway, "hello")
        state = gateway.parts.configuration.settings.state
        assert not any(path.name.startswith("kept.db") for path in state.iterdir())
