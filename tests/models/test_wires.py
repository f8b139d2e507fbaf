"""The table of operations holds together."""

from mcp_gateway.models.wires import BY_OP, BY_PATH, Op


def test_every_operation_has_its_path() -> None:
    assert {operation.op for operation in BY_PATH.values()} == set(Op)
    assert set(BY_PATH) == {
        "/v1/chat/completions",
        "/v1/responses",
        "/v1/embeddings",
        "/v1/messages",
        "/v1/messages/count_tokens",
    }


def test_a_provider_s_url_is_written_as_its_sdk_wants_it() -> None:
    """OpenAI's base URL ends in /v1, Anthropic's does not."""
    assert BY_OP[Op.CHAT].path == "/chat/completions"
    assert BY_OP[Op.MESSAGES].path == "/v1/messages"
