"""The guards as one: what runs, and in which order."""

from typing import Any

import pytest

from mcp_gateway.domain import Caller, Kind, Outcome, OutcomeStatus, Request, Target, Verb
from mcp_gateway.errors import BadArguments, BadRequest, Misbehaved, OverLimit
from mcp_gateway.guards.limits import Limits
from mcp_gateway.guards.order import Guards

CALLER = Caller("agent", "task")
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
TOOL = Target(Kind.TOOL, "u", "t", "u__t", {}, "h", raw={"name": "t", "inputSchema": SCHEMA})
PROMPT = Target(Kind.PROMPT, "u", "p", "u__p", {}, "h2")
RESOURCE = Target(Kind.RESOURCE, "u", "x://a", "x://a", {}, "h3")


def asked(target: Target, method: str = "tools/call", **params: Any) -> Request:
    return Request("r", Verb.CALL, method, target.kind, target.public_name, params)


def test_arguments_that_fit_pass() -> None:
    Guards().check_request(CALLER, TOOL, asked(TOOL, arguments={"n": 1}))


@pytest.mark.parametrize("params", [{}, {"arguments": None}, {"arguments": {}}])
def test_no_arguments_are_judged_as_an_empty_object(params: dict[str, Any]) -> None:
    with pytest.raises(BadArguments, match="required"):
        Guards().check_request(CALLER, TOOL, asked(TOOL, **params))


@pytest.mark.parametrize("arguments", [[], "x", 0, False])
def test_arguments_that_are_no_object_are_refused_for_any_kind(arguments: Any) -> None:
    for target in (TOOL, PROMPT):
        with pytest.raises(BadRequest):
            Guards().check_request(CALLER, target, asked(target, arguments=arguments))


def test_size_is_checked_before_the_schema_sees_anything() -> None:
    with pytest.raises(OverLimit):
        Guards(Limits(max_request_bytes=10)).check_request(CALLER, TOOL, asked(TOOL, arguments={"n": "x" * 100}))


def test_size_is_checked_for_whatever_is_asked() -> None:
    guards = Guards(Limits(max_request_bytes=10))
    for target in (PROMPT, RESOURCE):
        with pytest.raises(OverLimit):
            guards.check_request(CALLER, target, asked(target, context={"arguments": {"a": "x" * 100}}))


def test_only_tools_have_an_input_schema() -> None:
    Guards().check_request(CALLER, PROMPT, asked(PROMPT, "prompts/get", arguments={"anything": "goes"}))
    Guards().check_request(CALLER, RESOURCE, asked(RESOURCE, "resources/read", uri="x://a"))


def test_an_outcome_within_bounds_comes_back_unchanged() -> None:
    outcome = Outcome(OutcomeStatus.OK, {"content": []})
    assert Guards().check_outcome(CALLER, TOOL, outcome) is outcome


def test_an_outcome_beyond_bounds_does_not() -> None:
    outcome = Outcome(OutcomeStatus.OK, {"content": ["x" * 100]})
    with pytest.raises(Misbehaved):
        Guards(Limits(max_result_bytes=50)).check_outcome(CALLER, TOOL, outcome)


def test_what_comes_after_a_call_has_no_arguments_to_judge_but_a_size() -> None:
    after = Request("r", Verb.TASK_UPDATE, "tasks/update", Kind.TOOL, "t", {"taskId": "t", "inputResponses": {}})
    Guards().check_request(CALLER, TOOL, after)
    large = Request("r", Verb.TASK_UPDATE, "tasks/update", Kind.TOOL, "t", {"inputResponses": {"q": "x" * 200}})
    with pytest.raises(OverLimit):
        Guards(Limits(100)).check_request(CALLER, TOOL, large)
