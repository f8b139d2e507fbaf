"""What a body asks for is seen whole, and what cannot be judged is refused."""

import base64
from typing import Any

import orjson
import pytest

from mcp_gateway.errors import BadRequest
from mcp_gateway.models.asked import USUAL_OUTPUT_TOKENS, Asked, provider_tools, read
from mcp_gateway.models.wires import BY_OP, Op

HELLO = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


def asked(op: Op = Op.CHAT, **members: Any) -> Asked:
    value = {**HELLO, **members}
    return read(BY_OP[op], orjson.dumps(value), value)


def test_the_facts_hold_no_prompt() -> None:
    found = asked(messages=[{"role": "user", "content": "a secret"}], max_tokens=7, stream=True)
    assert b"secret" not in orjson.dumps(found.facts)
    assert found.facts["max_output"] == 7
    assert (found.model, found.is_stream) == ("m", True)
    assert len(found.facts["sha256"]) == 64


def test_functions_of_the_agent_s_own_are_facts_and_need_nothing() -> None:
    tools = [{"type": "function", "function": {"name": "weather"}}, {"type": "custom", "custom": {"name": "shell"}}]
    found = asked(tools=tools)
    assert found.needs == ()
    assert found.facts["tools"] == ["weather", "shell"]
    mine = [{"name": "weather", "input_schema": {}}, {"type": "bash_20250124", "name": "bash"}]
    assert asked(Op.MESSAGES, tools=mine).needs == ()


@pytest.mark.parametrize(
    ("op", "members", "expected"),
    [
        (Op.RESPONSES, {"tools": [{"type": "web_search_preview"}, {"type": "mcp"}]}, ("web_search_preview", "mcp")),
        (Op.MESSAGES, {"mcp_servers": [{}]}, ("mcp",)),
        (Op.MESSAGES, {"mcp_servers": []}, ()),
        (Op.MESSAGES, {"tools": [{"type": "mcp_toolset", "name": "x"}], "mcp_servers": [{}]}, ("mcp",)),
        (Op.CHAT, {"plugins": [{"id": "web"}], "web_search_options": {"x": 1}}, ("web_search", "plugins")),
        (Op.CHAT, {"tools": [{"type": "bash_20250124"}]}, ("bash_20250124",)),
        (Op.EMBEDDINGS, {"tools": [{"type": "function"}]}, ("function",)),
    ],
)
def test_what_a_provider_does_by_itself_is_named(op: Op, members: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert provider_tools(op, members) == expected


def test_each_is_a_target_of_its_own() -> None:
    [needed] = asked(tools=[{"type": "web_search"}]).needs
    assert needed.key == "provider-tools/web_search"


@pytest.mark.parametrize(
    "members",
    [
        {"model": ""},
        {"model": ["m"]},
        {"stream": "yes"},
        {"tools": {}},
        {"tools": ["web_search"]},
        {"tools": [{"type": 1}]},
        {"tools": [{"type": "x" * 65}]},
        {"tools": [{"type": f"t{n}"} for n in range(40)]},
        {"max_tokens": "many"},
        {"max_tokens": True},
        {"max_tokens": -1},
        {"store": True},
    ],
)
def test_what_cannot_be_judged_is_refused(members: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        asked(**members)


@pytest.mark.parametrize("value", [[], "x", None, 1])
def test_a_body_is_an_object(value: Any) -> None:
    with pytest.raises(BadRequest):
        read(BY_OP[Op.CHAT], b"", value)


def test_state_is_found_however_deep_it_lies() -> None:
    block: Any = {"file_id": "f"}
    for _ in range(30):
        block = {"content": [block]}
    with pytest.raises(BadRequest, match="file_id"):
        asked(Op.RESPONSES, input=[block])


def test_what_a_call_may_take_is_guessed_on_the_high_side() -> None:
    assert asked().output_tokens == USUAL_OUTPUT_TOKENS
    assert asked(max_tokens=10, n=3).output_tokens == 30
    assert asked(Op.EMBEDDINGS).output_tokens == 0
    words = " ".join(["word"] * 1000)
    assert 1000 < asked(messages=[{"role": "user", "content": words}]).input_tokens < 3000


def test_a_picture_counts_as_a_picture_and_not_as_text() -> None:
    data = base64.b64encode(bytes(300_000)).decode()
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    assert 1000 < asked(messages=[{"role": "user", "content": [image]}]).input_tokens < 5000
