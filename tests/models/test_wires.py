"""The table of operations holds together."""

import pytest

from mcp_gateway.models.wires import BY_OP, BY_PATH, Op, operation_of, state_operations


def test_every_operation_has_its_path() -> None:
    assert set(BY_OP) == set(Op)
    assert set(BY_PATH) == {
        "/v1/chat/completions",
        "/v1/responses",
        "/v1/responses/input_tokens",
        "/v1/embeddings",
        "/v1/completions",
        "/v1/moderations",
        "/v1/images/generations",
        "/v1/messages",
        "/v1/messages/count_tokens",
    }
    for operation in BY_OP.values():
        path = f"/v1{operation.path.removeprefix('/v1')}".replace("{id}", "id_1").replace("{item}", "msg_1")
        assert operation_of(operation.method, f"{path}?a=b") is operation


@pytest.mark.parametrize(
    "path", ["/v1/responses/..", "/v1/responses/a.b", "/v1/responses/a/b", "/v1/responses/", "/v1/conversations/a%2fb"]
)
def test_an_id_is_one_plain_word(path: str) -> None:
    assert state_operations(path) == {}


def test_a_provider_s_url_is_written_as_its_sdk_wants_it() -> None:
    """OpenAI's base URL ends in /v1, Anthropic's does not."""
    assert BY_OP[Op.CHAT].path == "/chat/completions"
    assert BY_OP[Op.MESSAGES].path == "/v1/messages"
