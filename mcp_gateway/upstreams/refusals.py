"""HTTP answers that are no JSON-RPC answer: what they mean, in words that name no address and quote no body."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from mcp_gateway.domain import Era, RpcError
from mcp_gateway.errors import Unreachable
from mcp_gateway.jsonrpc import Code
from mcp_gateway.upstreams.connection import Answer
from mcp_gateway.upstreams.wire import HttpResponse

_MEDIA_TYPE: Final = re.compile(r"[a-z]{1,20}/[a-z0-9.+-]{1,40}")

EVENTS: Final = "text/event-stream"


class Rejected(Unreachable):
    """A status that is no answer. `challenge` is the `WWW-Authenticate` header, for whoever can act on it."""

    def __init__(self, upstream: str, message: str, status: int, challenge: str = "") -> None:
        super().__init__(upstream, message)
        self.status = status
        self.challenge = challenge

    @property
    def is_about_credentials(self) -> bool:
        return self.status in (401, 403)


class SessionLost(Unreachable):
    """The upstream no longer knows the session, which proves that it did not run the request."""


class EraRefused(Unreachable):
    """Refused in the words of the other era; `answer` is what a server that did not change means by it."""

    def __init__(self, upstream: str, message: str, answer: Answer) -> None:
        super().__init__(upstream, message)
        self.answer = answer


def rejected(upstream: str, response: HttpResponse) -> Rejected:
    """The error for a response that cannot be an answer."""
    status = response.status
    words = f"answered HTTP {status}"
    if status in (401, 403):
        words = f"refused the gateway's credentials (HTTP {status})"
    elif 300 <= status < 400:
        words = f"answered with a redirect (HTTP {status}), which is not followed"
    elif status < 300:
        words = f"answered HTTP {status} with {type_in_words(response)} in it"
    return Rejected(upstream, f"upstream {upstream!r} {words}", status, response.headers.get("www-authenticate", ""))


def means_session_lost(status: int, answer: Answer | None) -> bool:
    """Whether a refused request of a session means that the session is gone.

    404 says so by specification (2025-11-25 transports, "Session Management"). The TypeScript SDK's examples, and so
    many servers, answer 400 with "No valid session ID provided" after a restart.
    """
    if isinstance(answer, dict):
        return False
    if status == 404:
        return answer is None or answer.code != Code.METHOD_NOT_FOUND
    return status == 400 and answer is not None and answer.code == -32000 and "session" in answer.message.lower()


def sounds_of_other_era(era: Era, status: int, answer: Answer | None) -> bool:
    """Whether a refusal is one that servers of `era` have no reason to give, and those of the other era do.

    Only 2026-07-28 has -32020 and -32022. To a modern request, servers of 2025 say 400 with -32600 (Python SDK) or
    -32000 (TypeScript SDK): they miss a session.
    """
    if status != 400 or not isinstance(answer, RpcError):
        return False
    if era is Era.LEGACY:
        return answer.code in (Code.HEADER_MISMATCH, Code.UNSUPPORTED_VERSION)
    return answer.code in (Code.INVALID_REQUEST, -32000)


def type_in_words(response: HttpResponse) -> str:
    """What a body claims to be, for an error's text; only if it has the form of a media type."""
    kind = content_type(response)
    return kind if _MEDIA_TYPE.fullmatch(kind) else "something else" if kind else "nothing"


def content_type(response: HttpResponse) -> str:
    """The media type, without its parameters."""
    return _media_type(response.headers.get("content-type", ""))


@lru_cache(maxsize=256)  # the same few come with every answer
def _media_type(value: str) -> str:
    return value.partition(";")[0].strip().lower()
