"""MCP's sampling in two wires' words and back; what cannot be carried is refused."""

from typing import Any

import pytest

from mcp_gateway.errors import AgentRefused, Misbehaved
from mcp_gateway.models.translate import from_anthropic, from_openai, to_anthropic, to_openai

TEXT = {"type": "text", "text": "hello"}
IMAGE = {"type": "image", "data": "aGk=", "mimeType": "image/png"}
USE = {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Rome"}}
RESULT = {"type": "tool_result", "toolUseId": "t1", "content": [{"type": "text", "text": "sun"}]}
TOOL = {"name": "weather", "description": "tells", "inputSchema": {"type": "object"}, "annotations": {"x": 1}}


def params(*messages: tuple[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in messages], **more}


FULL = params(
    ("user", [TEXT, IMAGE]),
    ("assistant", [TEXT, USE]),
    ("user", [RESULT]),
    systemPrompt="be brief",
    temperature=0.5,
    stopSequences=["END"],
    tools=[TOOL],
    toolChoice={"mode": "required"},
    includeContext="allServers",
    metadata={"leak": 1},
)


def test_everything_there_is_in_openai_s_words() -> None:
    body = to_openai(FULL, "m", 50)
    assert body == {
        "model": "m",
        "max_completion_tokens": 50,
        "temperature": 0.5,
        "stop": ["END"],
        "tools": [
            {
                "type": "function",
                "function": {"name": "weather", "description": "tells", "parameters": {"type": "object"}},
            }
        ],
        "tool_choice": "required",
        "messages": [
            {"role": "system", "content": "be brief"},
            {
                "role": "user",
                "content": [TEXT, {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}],
            },
            {
                "role": "assistant",
                "content": [TEXT],
                "tool_calls": [
                    {
                        "id": "t1",
                        "type": "function",
                        "function": {"name": "weather", "arguments": '{"city":"Rome"}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "t1", "content": "sun"},
        ],
    }


def test_everything_there_is_in_anthropic_s_words() -> None:
    body = to_anthropic(FULL, "m", 50)
    assert body["system"] == "be brief"
    assert (body["max_tokens"], body["stop_sequences"]) == (50, ["END"])
    assert body["tools"] == [{"name": "weather", "description": "tells", "input_schema": {"type": "object"}}]
    assert body["tool_choice"] == {"type": "any"}
    assert body["messages"][0]["content"][1]["source"] == {"type": "base64", "media_type": "image/png", "data": "aGk="}
    assert body["messages"][2]["content"] == [
        {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "sun"}]}
    ]
    assert "metadata" not in body


@pytest.mark.parametrize("translate", [to_openai, to_anthropic])
@pytest.mark.parametrize(
    "bad",
    [
        params(),
        {"messages": "hello"},
        params(("system", TEXT)),
        params(("user", "text")),
        params(("user", {"type": "text", "text": 1})),
        params(("user", {"type": "hologram"})),
        params(("user", [RESULT])),
        params(("assistant", [USE]), ("user", [RESULT, TEXT])),
        params(("assistant", [USE]), ("user", TEXT)),
        params(("assistant", [USE])),
        params(("assistant", [USE]), ("user", [RESULT, RESULT])),
        params(("user", TEXT), tools=[{"name": "x"}]),
        params(("user", TEXT), tools=[TOOL], toolChoice={"mode": "whatever"}),
        params(("user", TEXT), stopSequences="END"),
        params(("user", TEXT), systemPrompt=["x"]),
    ],
    ids=lambda value: str(value)[:50] if isinstance(value, dict) else "",
)
def test_what_breaks_mcp_s_rules_is_refused(translate: Any, bad: dict[str, Any]) -> None:
    with pytest.raises(AgentRefused) as refused:
        translate(bad, "m", 5)
    assert refused.value.rpc_code == -32602


def test_sound_goes_only_where_it_is_understood() -> None:
    sound = params(("user", {"type": "audio", "data": "aGk=", "mimeType": "audio/wav"}))
    part = to_openai(sound, "m", 5)["messages"][0]["content"][0]
    assert part == {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}}
    with pytest.raises(AgentRefused):
        to_anthropic(sound, "m", 5)


def test_a_failed_tool_and_a_structured_result_are_told() -> None:
    result = {"type": "tool_result", "toolUseId": "t1", "content": [], "structuredContent": {"n": 1}, "isError": True}
    asked = params(("assistant", [USE]), ("user", [result]))
    assert to_openai(asked, "m", 5)["messages"][-1]["content"] == 'Error: {"n":1}'
    block = to_anthropic(asked, "m", 5)["messages"][-1]["content"][0]
    assert (block["is_error"], block["content"]) == (True, [{"type": "text", "text": '{"n":1}'}])


@pytest.mark.parametrize(
    ("finish", "expected"),
    [("stop", "endTurn"), ("length", "maxTokens"), ("tool_calls", "toolUse"), ("content_filter", "refusal")],
)
def test_openai_s_answer_in_mcp_s_words(finish: str, expected: str) -> None:
    answer = {"model": "real", "choices": [{"finish_reason": finish, "message": {"content": "hi"}}]}
    assert from_openai(answer, has_tools=False) == {
        "role": "assistant",
        "content": {"type": "text", "text": "hi"},
        "model": "real",
        "stopReason": expected,
    }
    assert from_openai(answer, has_tools=True)["content"] == [{"type": "text", "text": "hi"}]


def test_a_refusal_is_shown_and_not_hidden() -> None:
    answer = {"model": "real", "choices": [{"finish_reason": "stop", "message": {"refusal": "no"}}]}
    found = from_openai(answer, has_tools=False)
    assert (found["content"]["text"], found["stopReason"]) == ("no", "refusal")


def test_a_use_of_a_tool_comes_back_whole() -> None:
    call = {"id": "t1", "function": {"name": "weather", "arguments": '{"city":"Rome"}'}}
    answer = {"model": "r", "choices": [{"finish_reason": "tool_calls", "message": {"tool_calls": [call]}}]}
    assert from_openai(answer, has_tools=True)["content"] == [USE]
    claude = {"model": "r", "stop_reason": "tool_use", "content": [{"type": "thinking", "thinking": "hm"}, USE]}
    assert from_anthropic(claude, has_tools=True) == {
        "role": "assistant",
        "content": [USE],
        "model": "r",
        "stopReason": "toolUse",
    }


@pytest.mark.parametrize("arguments", ["{broken", "[1]", None])
def test_arguments_that_are_no_object_are_an_error(arguments: str | None) -> None:
    call = {"id": "t1", "function": {"name": "weather", "arguments": arguments}}
    if arguments is None:
        call = {"id": "t1"}
    with pytest.raises(Misbehaved):
        from_openai({"choices": [{"message": {"tool_calls": [call]}}]}, has_tools=True)


@pytest.mark.parametrize("answer", [{}, {"choices": []}, {"choices": ["x"]}, {"content": "x"}])
def test_an_answer_without_a_message_is_none(answer: dict[str, Any]) -> None:
    for read in (from_openai, from_anthropic):
        with pytest.raises(Misbehaved):
            read(answer, has_tools=False)
