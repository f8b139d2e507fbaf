"""An operator's own detector on all three kinds of traffic: real HTTP all the way, the real audit."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fakes.in_process import server_table
from fakes.model_gateway import MODELS, ModelGateway, model_gateway
from fakes.moderator import WORD, Moderator
from fakes.plain_api import PlainApi
from fakes.replies import RecordingReply
from fakes.served import serving
from fakes.waiting import until
from mcp_gateway.domain import Caller, Kind, Request, Verb
from mcp_gateway.errors import Blocked, PolicyInvalid
from mcp_gateway.reload import reload
from mcp_gateway.wiring import audit_reader, new_request_id

TASK = """
[agents.alice]
tasks = ["work"]
default_task = "work"
[tasks.work]
allow = ["one/*"]
[tasks.work.models]
allow = ["gpt-5-mini"]
[tasks.work.routes]
allow = ["api: POST /**"]
"""
GUARD = '[[guard]]\nfind = ["ours/abuse"]\nthen = "{then}"\n'


@dataclass
class Gate:
    """A gateway with a detector of the operator's beside it."""

    gateway: ModelGateway
    moderator: Moderator
    api: PlainApi

    async def prompt(self, text: str, **more: Any) -> Any:
        return await self.gateway.chat(messages=[{"role": "user", "content": text}], **more)

    async def post(self, text: str) -> Any:
        return await self.gateway.post("/rest/api/v1/notes", {"text": text})

    async def call(self, text: str) -> str:
        params = {"name": "one__echo", "arguments": {"text": text}}
        request = Request(new_request_id(), Verb.CALL, "tools/call", Kind.TOOL, "one__echo", params)
        outcome = await self.gateway.parts.gateway.ask(Caller("alice", "work"), request, RecordingReply())
        assert outcome.result is not None
        return str(json.loads(outcome.result["content"][0]["text"])["text"])

    def findings(self) -> list[dict[str, Any]]:
        with audit_reader(self.gateway.parts.configuration) as audit:
            rows = audit.view("guard_findings")
        return [finding for row in reversed(rows) for finding in json.loads(row["findings"])]


@asynccontextmanager
async def gate(folder: Path, guard: str, **keys: Any) -> AsyncIterator[Gate]:
    moderator, api = Moderator(), PlainApi()
    async with serving(moderator) as judge, serving(api) as origin:
        written = "".join(f"{name} = {json.dumps(value)}\n" for name, value in keys.items())
        detector = f'[detectors.ours]\nurl = "{judge}/"\nkinds = ["abuse", "other"]\n{written}'
        more = f'{server_table("one")}\n[servers.api]\nrest = "{origin}"\ninclude = ["* /v1/**"]\n{detector}'
        models = '[gateway]\nallow_addresses = ["127.0.0.1"]\n' + MODELS
        async with model_gateway(folder, policy=TASK + guard, models=models, more=more) as gateway:
            await gateway.parts.settled(10)
            yield Gate(gateway, moderator, api)


async def test_one_detector_blocks_on_all_three_ways_and_nothing_leaves(tmp_path: Path) -> None:
    async with gate(tmp_path, GUARD.format(then="block")) as there:
        assert (await there.prompt("hello")).status_code == 200
        assert await there.call("hello") == "hello"
        assert (await there.post("hello")).status_code == 200
        reached = len(there.gateway.first.seen), len(there.api.seen)
        refused = await there.prompt(f"you {WORD}")
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "gateway_blocked")
        assert (await there.post(f"you {WORD}")).status_code == 403
        with pytest.raises(Blocked, match="ours: abuse"):
            await there.call(f"you {WORD}")
        assert (len(there.gateway.first.seen), len(there.api.seen)) == reached
        assert [(found["found"], found["score"]) for found in there.findings()] == [({"ours/abuse": 1}, 0.9)] * 3


async def test_it_masks_what_is_sent_and_what_comes_back(tmp_path: Path) -> None:
    async with gate(tmp_path, GUARD.format(then="mask")) as there:
        await there.prompt(f"you {WORD}!")
        assert there.gateway.first.seen[0].json["messages"][0]["content"] == "you [masked:ours/abuse]!"
        assert await there.call(f"you {WORD}!") == "you [masked:ours/abuse]!"
        there.moderator.answer = {"findings": []}
        assert (await there.prompt("hello")).json()["choices"][0]["message"]["content"] == "Hello there, stranger."
        assert "Hello there, stranger." in there.moderator.texts


@pytest.mark.parametrize(("word", "status"), [("block", 403), ("pass", 200)])
async def test_a_service_that_fails_closes_or_opens_the_gate_as_declared(
    tmp_path: Path, word: str, status: int
) -> None:
    async with gate(tmp_path, GUARD.format(then="block"), if_unavailable=word) as there:
        there.moderator.status = 500
        assert (await there.prompt("hello")).status_code == status
        assert there.findings()[0]["found"] == {"ours/unjudged": 1}


async def test_a_conversation_is_asked_about_once(tmp_path: Path) -> None:
    async with gate(tmp_path, GUARD.format(then="block")) as there:
        for _ in range(3):
            assert (await there.prompt("hello")).status_code == 200
        assert there.moderator.texts.count("hello") == 1


async def test_a_detector_comes_and_goes_with_servers_toml(tmp_path: Path) -> None:
    async with gate(tmp_path, GUARD.format(then="block")) as there:
        parts, path = there.gateway.parts, tmp_path / "servers.toml"
        before = path.read_text()
        path.write_text(before.replace("[detectors.ours]", "[detectors.others]"))
        await reload(parts, "config")
        with pytest.raises(PolicyInvalid, match="ours/abuse"):
            await parts.reload_policy()
        # The policy in force still wants it: a gate without its keeper is closed.
        assert (await there.prompt("hello")).status_code == 403
        path.write_text(before)
        await reload(parts, "config")
        assert (await there.prompt("hello")).status_code == 200
        await until(lambda: "hello" in there.moderator.texts)
