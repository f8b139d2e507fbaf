"""Three wires tell usage in three ways; here it is told in one."""

import pytest

from mcp_gateway.domain import Usage
from mcp_gateway.models.usage import MAX_TOKENS, estimated, merged, streamed_characters, usage_in
from mcp_gateway.models.wires import Op


def test_every_wire_comes_to_the_same() -> None:
    chat = {
        "prompt_tokens": 100,
        "completion_tokens": 30,
        "prompt_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 10},
        "completion_tokens_details": {"reasoning_tokens": 5},
    }
    responses = {
        "input_tokens": 100,
        "output_tokens": 30,
        "input_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 10},
        "output_tokens_details": {"reasoning_tokens": 5},
    }
    messages = {
        "input_tokens": 50,
        "cache_read_input_tokens": 40,
        "cache_creation_input_tokens": 10,
        "output_tokens": 30,
    }
    same = Usage(input=100, output=30, cache_read=40, cache_write=10)
    assert usage_in(Op.CHAT, {"usage": chat}) == Usage(100, 30, 40, 10, 5)
    assert usage_in(Op.RESPONSES, {"usage": responses}) == Usage(100, 30, 40, 10, 5)
    assert usage_in(Op.MESSAGES, {"usage": messages}) == same


@pytest.mark.parametrize("raw", [None, 1, [], {"usage": None}, {"usage": "much"}, {}])
def test_what_is_no_usage_is_none(raw: object) -> None:
    assert usage_in(Op.CHAT, raw) is None


def test_numbers_that_cannot_be_are_not_believed() -> None:
    odd = {"prompt_tokens": -5, "completion_tokens": 10**30, "prompt_tokens_details": [1]}
    assert usage_in(Op.CHAT, {"usage": odd}) == Usage(0, MAX_TOKENS)
    assert usage_in(Op.CHAT, {"usage": {"prompt_tokens": True, "completion_tokens": 1.5}}) == Usage()


def test_counts_of_a_stream_are_cumulative() -> None:
    begun = Usage(input=20, output=1, cache_read=4)
    assert merged(merged(None, begun), Usage(output=7)) == Usage(input=20, output=7, cache_read=4)


def test_text_is_counted_in_every_wire_s_events() -> None:
    events = (
        b'data: {"choices":[{"delta":{"content":"four"}}]}',
        b'data: {"type":"content_block_delta","delta":{"type":"text_delta","text":"four"}}',
        b'data: {"type":"response.output_text.delta","delta":"four"}',
        b'data: {"delta":{"partial_json":"{\\"a\\"}"}}',
    )
    assert [streamed_characters(event) for event in events] == [4, 4, 4, 7]
    assert estimated(10, 30).output > 9
    assert estimated(10, 30).is_estimated
