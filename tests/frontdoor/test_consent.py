"""Each agent is told in its own way that its person has to log in."""

from __future__ import annotations

from typing import Any

import pytest

from mcp_gateway.domain import Era, Transport
from mcp_gateway.errors import ConsentNeeded
from mcp_gateway.frontdoor.consent import consent_answer
from mcp_gateway.frontdoor.protocol import Asked
from mcp_gateway.frontdoor.replies import AgentReply

URL = "https://gw.example/connect/ticket"
NEEDED = ConsentNeeded("crm", "upstream 'crm' needs you to log in", URL)
CAN_OPEN = {"elicitation": {"url": {}}}


def told(era: Era, capabilities: Any, needed: ConsentNeeded = NEEDED, method: str = "tools/call") -> Any:
    is_modern = era is Era.MODERN
    reply = AgentReply(lambda message: None, {}, capabilities=capabilities, takes_input_required=is_modern)
    return consent_answer(needed, Asked(method, {}, era, "", Transport.HTTP), reply)


def test_a_modern_agent_that_can_open_pages_is_asked_to() -> None:
    result = told(Era.MODERN, CAN_OPEN)["result"]
    [question] = result["inputRequests"].values()
    assert result["resultType"] == "input_required"
    assert question["method"] == "elicitation/create"
    assert (question["params"]["mode"], question["params"]["url"]) == ("url", URL)


def test_a_legacy_agent_that_can_open_pages_gets_the_error_for_it() -> None:
    error = told(Era.LEGACY, CAN_OPEN)["error"]
    assert error["code"] == -32042
    [elicitation] = error["data"]["elicitations"]
    assert (elicitation["mode"], elicitation["url"]) == ("url", URL)
    assert elicitation["elicitationId"] and elicitation["elicitationId"] not in URL


@pytest.mark.parametrize("era", list(Era))
@pytest.mark.parametrize("capabilities", [{}, {"elicitation": {}}, {"elicitation": {"form": {}}}])
def test_any_other_agent_is_told_what_to_open(era: Era, capabilities: Any) -> None:
    result = told(era, capabilities)["result"]
    assert result["isError"] is True
    assert URL in result["content"][0]["text"]
    assert URL in told(era, capabilities, method="resources/read")["error"]["message"]


def test_where_there_is_no_page_the_words_are_all_there_is() -> None:
    needed = ConsentNeeded("crm", "have the operator run `mcp-gateway login crm`")
    result = told(Era.MODERN, CAN_OPEN, needed)["result"]
    assert result["content"][0]["text"] == "have the operator run `mcp-gateway login crm`"
