"""The reply channel of an agent that writes down what it is told."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mcp_gateway.domain import Json


@dataclass
class RecordingReply:
    """Implements `domain.Reply`."""

    wants_progress: bool = True
    log_level: str | None = None
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    lacking: Mapping[str, Any] = field(default_factory=dict)
    side: object = "somebody"
    takes_input_required: bool = False
    waited_s: float = 0.0
    progressed: list[Json] = field(default_factory=list)
    logged: list[Json] = field(default_factory=list)
    links_done: list[str] = field(default_factory=list)

    def can_be_asked(self, method: str, params: Json) -> bool:
        return False

    async def progress(self, params: Json) -> None:
        self.progressed.append(params)

    async def log(self, params: Json) -> None:
        self.logged.append(params)

    def elicited(self, link_id: str) -> None:
        self.links_done.append(link_id)

    async def ask(self, method: str, params: Json) -> Json:
        raise LookupError(method)
