"""What an upstream is sent of an agent's params."""

from dataclasses import replace
from typing import Any

import pytest

from mcp_gateway.catalog.rewrite import upstream_params
from mcp_gateway.domain import Era, Kind, Request, Target, Verb
from mcp_gateway.errors import BadRequest

TOOL = Target(Kind.TOOL, "git", "git_log", "git__git_log", {}, "")
PROMPT = Target(Kind.PROMPT, "git", "review", "git__review", {}, "")
TEMPLATE = Target(Kind.TEMPLATE, "git", "file:///{name}", "file:///{name}", {}, "")
RESOURCE = Target(Kind.RESOURCE, "git", "file:///a", "file:///a", {}, "")


def asked(method: str, target: Target, **params: Any) -> Request:
    return Request("r", Verb.CALL, method, target.kind, target.public_name, params)


def test_a_tool_is_called_by_its_own_name_with_nothing_but_its_arguments() -> None:
    request = asked(
        "tools/call",
        TOOL,
        name="git__git_log",
        arguments={"n": 1},
        Name="evil",
        Arguments={},
        task={},
        inputResponses={},
        requestState="s",
    )
    assert upstream_params(TOOL, request) == {"name": "git_log", "arguments": {"n": 1}}


def test_answers_that_come_before_any_question_are_the_upstreams_to_judge_where_its_era_knows_them() -> None:
    request = asked("tools/call", TOOL, inputResponses={"k": {}})
    assert upstream_params(TOOL, request) == {"name": "git_log", "inputResponses": {"k": {}}}
    assert "inputResponses" not in upstream_params(TOOL, replace(request, era=Era.LEGACY))
    given = replace(request, inputs={"mine": {}}, state="s")
    assert upstream_params(TOOL, given)["inputResponses"] == {"mine": {}}
    with pytest.raises(BadRequest, match="inputResponses"):
        upstream_params(TOOL, asked("tools/call", TOOL, inputResponses=[1]))


def test_the_arguments_sent_are_the_arguments_judged() -> None:
    arguments = {"a": None, "b": {"c": [1, 2.0]}}
    assert upstream_params(TOOL, asked("tools/call", TOOL, arguments=arguments))["arguments"] is arguments


def test_the_protocols_own_meta_stays_on_its_hop() -> None:
    meta = {
        "progressToken": 7,
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/anything": 1,
        "traceparent": "00-1-2-01",
        "com.example/kept": None,
    }
    sent = upstream_params(TOOL, asked("tools/call", TOOL, _meta=meta))
    assert sent == {"name": "git_log", "_meta": {"traceparent": "00-1-2-01", "com.example/kept": None}}


def test_a_meta_with_nothing_left_is_not_sent() -> None:
    assert "_meta" not in upstream_params(TOOL, asked("tools/call", TOOL, _meta={"progressToken": 1}))


def test_a_prompt_is_asked_for_by_its_own_name() -> None:
    request = asked("prompts/get", PROMPT, name="git__review", arguments={"a": "b"})
    assert upstream_params(PROMPT, request) == {"name": "review", "arguments": {"a": "b"}}


def test_a_resource_is_read_by_its_uri() -> None:
    assert upstream_params(RESOURCE, asked("resources/read", RESOURCE, uri="file:///a", extra=1)) == {
        "uri": "file:///a"
    }


def test_completions_refer_to_the_upstreams_own_names() -> None:
    argument, context = {"name": "a", "value": "p"}, {"arguments": {"b": "c"}}
    of_prompt = asked("completion/complete", PROMPT, ref={"type": "ref/prompt"}, argument=argument, context=context)
    assert upstream_params(PROMPT, of_prompt) == {
        "ref": {"type": "ref/prompt", "name": "review"},
        "argument": argument,
        "context": context,
    }
    of_template = asked("completion/complete", TEMPLATE, ref={"type": "ref/resource"}, argument=argument)
    assert upstream_params(TEMPLATE, of_template)["ref"] == {"type": "ref/resource", "uri": "file:///{name}"}


@pytest.mark.parametrize("arguments", [[1], "x", 1, True])
def test_arguments_that_no_condition_could_see_are_refused(arguments: Any) -> None:
    with pytest.raises(BadRequest, match="arguments must be an object"):
        upstream_params(TOOL, asked("tools/call", TOOL, arguments=arguments))


def test_null_arguments_count_as_none() -> None:
    assert upstream_params(TOOL, asked("tools/call", TOOL, arguments=None)) == {"name": "git_log"}


def test_a_wire_task_is_asked_about_by_its_id_and_nothing_else() -> None:
    assert upstream_params(TOOL, asked("tasks/get", TOOL, taskId="t", name="x", extra=1)) == {"taskId": "t"}
    answers = {"q": {"action": "decline"}}
    updated = asked("tasks/update", TOOL, taskId="t", inputResponses=answers)
    assert upstream_params(TOOL, updated) == {"taskId": "t", "inputResponses": answers}
    with pytest.raises(BadRequest):
        upstream_params(TOOL, asked("tasks/update", TOOL, taskId="t", inputResponses=["x"]))
