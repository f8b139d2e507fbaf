"""A status that is no answer becomes an error in words that help, and quote nothing."""

from dataclasses import dataclass, field

import pytest

from mcp_gateway.domain import Era, RpcError
from mcp_gateway.upstreams.refusals import content_type, means_session_lost, rejected, sounds_of_other_era


@dataclass
class Response:
    status: int
    headers: dict[str, str] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("status", "words", "is_about_credentials"),
    [
        (401, "refused the gateway's credentials (HTTP 401)", True),
        (403, "refused the gateway's credentials (HTTP 403)", True),
        (307, "answered with a redirect (HTTP 307), which is not followed", False),
        (503, "answered HTTP 503", False),
        (202, "answered HTTP 202 with nothing in it", False),
    ],
)
def test_the_words_say_what_happened(status: int, words: str, is_about_credentials: bool) -> None:
    error = rejected("up", Response(status, {"www-authenticate": "Bearer scope=x"}))  # type: ignore[arg-type]
    assert str(error) == f"upstream 'up' {words}"
    assert error.is_about_credentials is is_about_credentials
    assert error.challenge == "Bearer scope=x"


@pytest.mark.parametrize(
    ("status", "answer", "is_lost"),
    [
        (404, None, True),
        (404, RpcError(-32001, "Session not found"), True),
        (404, RpcError(-32601, "unknown"), False),
        (400, RpcError(-32000, "Bad Request: No valid session ID provided"), True),
        (400, RpcError(-32000, "bad"), False),
        (400, RpcError(-32602, "session"), False),
        (400, None, False),
        (404, {}, False),
        (500, None, False),
    ],
)
def test_a_lost_session_is_told_from_other_refusals(status: int, answer: RpcError | None, is_lost: bool) -> None:
    assert means_session_lost(status, answer) is is_lost


@pytest.mark.parametrize(
    ("era", "status", "code", "is_other"),
    [
        (Era.LEGACY, 400, -32022, True),
        (Era.LEGACY, 400, -32020, True),
        (Era.LEGACY, 400, -32600, False),
        (Era.LEGACY, 200, -32022, False),
        (Era.MODERN, 400, -32600, True),
        (Era.MODERN, 400, -32000, True),
        (Era.MODERN, 400, -32602, False),
        (Era.MODERN, 400, -32022, False),
        (Era.MODERN, 404, -32600, False),
    ],
)
def test_the_words_of_the_other_era_are_recognised(era: Era, status: int, code: int, is_other: bool) -> None:
    assert sounds_of_other_era(era, status, RpcError(code, "")) is is_other


def test_a_media_type_is_read_without_its_parameters() -> None:
    assert content_type(Response(200, {"content-type": "Application/JSON ; charset=x"})) == "application/json"  # type: ignore[arg-type]
