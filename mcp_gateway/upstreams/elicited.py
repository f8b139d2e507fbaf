"""Links that people were sent to, and telling whoever was asked when what went on behind one is done.

An upstream of the handshake era says so in `notifications/elicitation/complete`, by the id it gave the link
(2025-11-25 client/elicitation, "Completion Notifications"). Only the side that was sent there hears of it, and only of
links that this upstream named.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

from mcp_gateway.domain import Json, Reply, RpcError
from mcp_gateway.upstreams.connection import Question

MAX_LINKS: Final = 1_000
MAX_ID_CHARS: Final = 256


class Elicited:
    """The links one upstream has sent people to and not called done yet; the oldest give way beyond `MAX_LINKS`."""

    def __init__(self, on_question: Question) -> None:
        self._on_question = on_question
        self._open: OrderedDict[str, Reply] = OrderedDict()

    async def ask(self, method: str, params: Json, reply: Reply | None) -> Json:
        """See `connection.Question`."""
        if method == "elicitation/create" and params.get("mode") == "url" and reply is not None:
            self._note(params, reply)
        return await self._on_question(method, params, reply)

    def note_refusal(self, error: RpcError | None, reply: Reply) -> None:
        """A call was refused until links are opened (-32042)."""
        links = error.data.get("elicitations") if error is not None and isinstance(error.data, dict) else None
        for link in links[:MAX_LINKS] if isinstance(links, list) else ():
            if isinstance(link, dict):
                self._note(link, reply)

    def note_complete(self, params: Json) -> None:
        """The upstream says that something is done (`notifications/elicitation/complete`)."""
        link = params.get("elicitationId")
        reply = self._open.pop(link, None) if isinstance(link, str) else None
        if reply is not None:
            reply.elicited(str(link))

    def _note(self, link: Any, reply: Reply) -> None:
        link_id = link.get("elicitationId")
        if isinstance(link_id, str) and len(link_id) <= MAX_ID_CHARS:
            self._open[link_id] = reply
            if len(self._open) > MAX_LINKS:
                self._open.popitem(last=False)
