"""`approvals`: a person sees what would be sent, and answers once."""

from __future__ import annotations

from typing import Any

import pytest

from mcp_gateway.domain import Offer, Terms
from mcp_gateway.storage.approvals import Binding
from mcp_gateway.storage.transactions import TransactionStore, Wanted
from mcp_gateway.wiring import utc_now

PERSON = Terms("scope", offers=(Offer("policies/agents.toml:9", needs_approval=True),))


@pytest.fixture
def waiting(operator: Any) -> str:
    """The id of a call that waits."""
    store = TransactionStore(operator.folder / ".mcp-gateway")
    binding = Binding("d", "reader", None, "read", "", "files/echo", '{"path":"\\u001b[31mx"}', "sha")
    found = store.reserve(Wanted(PERSON, int(utc_now().timestamp() * 1_000_000), "files/echo", binding))
    store.close()
    return found.approval


def test_nothing_waits(operator: Any) -> None:
    assert operator.run("approvals", "list").stdout == "nothing waits for an answer\n"
    for verb in ("show", "approve", "deny"):
        assert "no approval has the id 'x'" in operator.run("approvals", verb, "x", exits=1).stderr


@pytest.mark.parametrize(("verb", "state"), [("approve", "approved"), ("deny", "denied")])
def test_a_call_that_waits_is_listed_shown_and_answered_once(
    operator: Any, waiting: str, verb: str, state: str
) -> None:
    assert waiting in operator.run("approvals", "list").stdout
    shown = operator.run("approvals", "show", waiting).stdout
    assert '{"path":"' in shown
    assert "\x1b" not in shown
    assert operator.json("approvals", "show", waiting)["grant"] == "policies/agents.toml:9"
    assert operator.json("approvals", verb, waiting, "--by", "carol")["answered_by"] == "carol"
    again = operator.run("approvals", "approve", waiting, exits=1)
    assert f"does not wait any more ({state})" in again.stderr
    assert operator.run("approvals", "list").stdout == "nothing waits for an answer\n"
    [listed] = operator.json("approvals", "list", "--all")
    assert listed["state"] == state
    [event] = [row for row in operator.json_lines("log", "--events") if row["kind"] == "approval"]
    assert (event["reason"], event["name"], event["agent"]) == (state, waiting, "reader")
