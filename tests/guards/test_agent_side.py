"""Approval at the agent's side: only where the policy says so, and never for what a person decides."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from fakes.front import Front, listing, parts
from fakes.replies import RecordingReply
from mcp_gateway.catalog.catalog import build
from mcp_gateway.catalog.naming import NamingRule
from mcp_gateway.domain import Json, Kind, Outcome, Request, Verb
from mcp_gateway.errors import AgentRefused, NotNow
from mcp_gateway.guards.agent_side import MAX_ASKED_CHARS

HEAD = "[agents.alice]\ntasks = ['work']\ndefault_task = 'work'\n[tasks.work]\n"
GRANT = "[[tasks.work.grant]]\ntools = ['u/echo']\napproval = 'agent-side'\n"
ACCEPTED: Json = {"action": "accept", "content": {"approve": True}}


@dataclass
class Dialog(RecordingReply):
    """An agent's program that shows questions, and somebody who answers."""

    says: Any = field(default_factory=dict)
    can: bool = True
    asked: list[Json] = field(default_factory=list)

    def can_be_asked(self, method: str, params: Json) -> bool:
        return self.can

    async def ask(self, method: str, params: Json) -> Json:
        self.asked.append(params)
        if isinstance(self.says, Exception):
            raise self.says
        return dict(self.says)


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Front]:
    async with parts(tmp_path) as opened:
        opened.offer(policy=HEAD + GRANT)
        yield opened


async def ask(made: Front, reply: RecordingReply, **arguments: Any) -> Outcome:
    params = {"name": "u__echo", "arguments": arguments}
    request = Request("r-1", Verb.CALL, "tools/call", Kind.TOOL, "u__echo", params)
    return await made.gateway.ask(made.caller(), request, reply)


async def test_who_sees_the_call_as_it_would_be_sent_may_let_it_through_once(made: Front) -> None:
    dialog = Dialog(says=ACCEPTED)
    await ask(made, dialog, amount=5)
    assert 'u/echo with {"amount":5}' in dialog.asked[0]["message"]
    await ask(made, dialog, amount=5)
    assert len(dialog.asked) == 2
    assert len(made.u.asked) == 2


@pytest.mark.parametrize(
    "says", [{"action": "decline"}, {"action": "accept", "content": {"approve": False}}], ids=["decline", "no"]
)
async def test_a_no_stands(made: Front, says: Json) -> None:
    with pytest.raises(NotNow, match="declined"):
        await ask(made, Dialog(says=says))
    with pytest.raises(NotNow, match="declined"):
        await ask(made, Dialog(says=ACCEPTED))
    assert made.u.asked == []


@pytest.mark.parametrize(
    "dialog",
    [
        Dialog(says={"action": "cancel"}),
        Dialog(says={"action": "accept"}),
        Dialog(says={"action": "accept", "content": {"approve": "yes"}}),
        Dialog(says={"action": "accept", "content": {"approve": 1}}),
        Dialog(says=LookupError("gone")),
        Dialog(says=AgentRefused(-1, "no")),
        Dialog(says=ACCEPTED, can=False),
        RecordingReply(),
    ],
)
async def test_no_answer_is_none_and_a_person_is_waited_for(made: Front, dialog: RecordingReply) -> None:
    with pytest.raises(NotNow, match="waiting for a person"):
        await ask(made, dialog)
    assert made.u.asked == []


async def test_what_fits_no_dialog_waits_for_a_person(made: Front) -> None:
    dialog = Dialog(says=ACCEPTED)
    with pytest.raises(NotNow, match="waiting"):
        await ask(made, dialog, text="x" * MAX_ASKED_CHARS)
    assert dialog.asked == []


@pytest.mark.parametrize(
    "policy",
    [
        HEAD + GRANT.replace("agent-side", "person"),
        HEAD + GRANT + "[[tasks.work.flow]]\nonce = ['t']\nno_more = ['t']\napproval = 'person'\n",
    ],
)
async def test_what_a_person_decides_is_never_asked_of_the_agents_side(made: Front, policy: str) -> None:
    made.offer(policy=policy)
    now = made.gateway.snapshot
    if "flow" in policy:
        tagged = build([listing()], {"u": NamingRule(tags=frozenset({"t"}))})
        made.gateway.swap(replace(now, catalog=tagged))
    dialog = Dialog(says=ACCEPTED)
    with pytest.raises(NotNow, match="waiting"):
        await ask(made, dialog)
    assert dialog.asked == []


async def test_a_yes_at_the_agents_side_is_good_for_no_grant_that_wants_a_person(made: Front) -> None:
    """Or the weaker grant's limit could be had again and again under the stronger one."""
    limited = GRANT + "limit = { calls = 1, per = '1h' }\n"
    made.offer(policy=HEAD + GRANT.replace("agent-side", "person") + limited)
    dialog = Dialog(says=ACCEPTED)
    await ask(made, dialog)
    with pytest.raises(NotNow, match="waiting"):
        await ask(made, dialog)
    assert len(dialog.asked) == 1
    assert len(made.u.asked) == 1
