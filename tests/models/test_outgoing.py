"""What a provider gets: its own name for the model, the headers on the list, its key, and nothing else."""

from types import MappingProxyType
from typing import Any

import orjson

from fakes.relays import RecordingRelay
from mcp_gateway.config.models import ModelTarget, ProviderConfig
from mcp_gateway.domain import HttpPart
from mcp_gateway.models.outgoing import PASSED_BACK, PASSED_ON, edits_for, headers_back, outgoing, secrets_of
from mcp_gateway.models.route import Way
from mcp_gateway.models.wires import BY_OP, Op


def way(wire: Any = "openai", **more: Any) -> Way:
    headers = MappingProxyType({"Authorization": "Bearer sk-0123456789", "X-Team": "ops"})
    return Way(ModelTarget("p", "real"), ProviderConfig("p", wire, "https://p.example/v1", headers, **more))


def part(headers: dict[str, str] | None = None, **members: Any) -> HttpPart:
    value = {"model": "alias", **members}
    return HttpPart("/v1/x", headers or {}, orjson.dumps(value), value, RecordingRelay())


async def test_headers_pass_by_a_list_and_the_key_comes_last() -> None:
    agents = dict.fromkeys(PASSED_ON, "kept") | {"cookie": "c", "authorization": "agent's", "x-team": "forged"}
    out = outgoing(BY_OP[Op.CHAT], way(), part(agents), is_stream=True)
    assert out.headers["authorization"] == "Bearer sk-0123456789"
    assert out.headers["x-team"] == "ops"
    assert "cookie" not in out.headers
    assert {out.headers[name] for name in PASSED_ON} == {"kept"}
    assert out.url == "https://p.example/v1/chat/completions"


async def test_a_header_that_could_end_another_stays_here() -> None:
    out = outgoing(BY_OP[Op.MESSAGES], way("anthropic"), part({"anthropic-beta": "a\r\nx: y"}), is_stream=False)
    assert "anthropic-beta" not in out.headers
    assert out.headers["anthropic-version"] == "2023-06-01"


def test_usage_is_asked_for_only_where_it_can_be() -> None:
    chat = BY_OP[Op.CHAT]
    same = {"model": "real", "stream": True}
    assert edits_for(chat, way(), same) == {"stream_options": {"include_usage": True}}
    kept = {**same, "stream_options": {"include_obfuscation": False}}
    assert edits_for(chat, way(), kept)["stream_options"] == {"include_obfuscation": False, "include_usage": True}
    for asked in (
        {"model": "real"},
        {**same, "stream_options": {"include_usage": True}},
        {**same, "stream_options": "odd"},
    ):
        assert edits_for(chat, way(), asked) == {}
    assert edits_for(chat, way(stream_usage=False), same) == {}


def test_responses_are_not_stored() -> None:
    assert edits_for(BY_OP[Op.RESPONSES], way(), {"model": "real"}) == {"store": False}
    assert edits_for(BY_OP[Op.RESPONSES], way(), {"model": "real", "store": False}) == {}


async def test_a_body_without_edits_is_the_same_bytes() -> None:
    http = part()
    same = HttpPart(http.path, {}, b'{ "model": "real" }', {"model": "real"}, http.relay)
    assert outgoing(BY_OP[Op.CHAT], way(), same, is_stream=False).body is same.body


def test_only_listed_headers_come_back() -> None:
    theirs = dict.fromkeys(PASSED_BACK, "kept") | {"set-cookie": "c", "x-ratelimit-limit": "1", "server": "s"}
    assert headers_back(theirs).keys() == set(PASSED_BACK)


def test_the_key_is_known_with_and_without_its_scheme() -> None:
    assert secrets_of(way()) == (b"Bearer sk-0123456789", b"sk-0123456789")
