"""What model providers keep for agents, as agents ask for it: by an id in a body, or by a path with an id in it.

An id that is not the caller's own is unknown, whoever else may have it; that somebody tried is in the audit. What is
asked for by its id is judged as a call of the model that it was made with.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from starlette.types import Scope

from mcp_gateway.config.models import Models
from mcp_gateway.domain import Caller, Json, Kept, Kind, Request, Verb
from mcp_gateway.errors import BadRequest
from mcp_gateway.frontdoor.head import head_of
from mcp_gateway.frontdoor.model_errors import Trouble, unknown_state
from mcp_gateway.gateway import Gateway
from mcp_gateway.jsonrpc import parse
from mcp_gateway.models.asked import Asked, Reference, check_items
from mcp_gateway.models.kept import KeptThings
from mcp_gateway.models.wires import Op, Operation

CHOSEN_BY: Final = "x-gateway-model"
"""Names the model for what has none in its body: where a conversation is to be kept."""

_QUERY: Final = frozenset(
    {"after", "before", "include", "include[]", "include_obfuscation", "limit", "order", "starting_after", "stream"}
)
_VALUE: Final = re.compile(r"[A-Za-z0-9._-]{0,200}")
_MAX_PARAMETERS: Final = 32
_HEX: Final = ("%5B%5D", "%5b%5d")


class UnknownStateError(Exception):
    """Something is referred to that is not the caller's."""

    def __init__(self, reference: Reference) -> None:
        super().__init__(reference.kind)
        self.reference = reference

    def trouble(self, *, is_in_body: bool) -> Trouble:
        """What the agent is told."""
        return unknown_state(self.reference.kind, self.reference.id, is_in_body=is_in_body)


@dataclass(frozen=True, slots=True)
class StateDesk:
    """Finds what requests refer to. All may raise `StoreUnavailable`."""

    gateway: Gateway
    things: KeptThings

    async def referred_to(self, caller: Caller, asked: Asked, models: Models) -> tuple[Kept, ...]:
        """What a body goes on from. Raises `UnknownStateError`, and `BadRequest` where no provider of the model keeps
        anything for agents."""
        state = asked.state
        if not (state.members or state.reasoning) or self.gateway.peek(caller, Kind.MODEL, asked.model) is None:
            return ()  # or: unknown to this caller, as the walk will say
        if not is_kept_anywhere(models, asked.model):
            if state.members:
                raise BadRequest(
                    f"{state.members[0]!r} refers to state kept at the provider, which this gateway does not pass on"
                )
            return ()
        kept = await self._own(caller, (*state.refers, *state.reasoning), models)
        if len({each.provider for each in kept}) > 1:
            raise BadRequest("the request refers to what different providers keep")
        return tuple(kept)

    def facts_of(self, asked: Asked, value: Json, models: Models) -> Json:
        """What conditions see of a body: a response is kept, too, where it may be and nothing is said about it."""
        is_silent = asked.op is Op.RESPONSES and value.get("store") is None
        if not is_silent or not is_kept_anywhere(models, asked.model):
            return asked.facts
        return {**asked.facts, "state": [*asked.state.members, "store"]}

    async def by_id(self, caller: Caller, operation: Operation, path: str, models: Models) -> Kept:
        """What a path names. Raises `UnknownStateError`."""
        [kept] = await self._own(caller, [Reference(operation.about, operation.id_in(path))], models)
        return kept

    def model_for(self, caller: Caller, operation: Operation, scope: Scope, models: Models) -> str:
        """By which model something is made whose body names none. Raises `BadRequest` where it has to be said."""
        chosen = head_of(scope).lines.fields.get(CHOSEN_BY)
        if chosen is not None:
            return chosen
        seen = [target.name for target in self.gateway.visible(caller, Kind.MODEL)]
        keepers = {
            target.provider: name
            for name in seen
            if name in models.offered
            for target in models.offered[name].targets
            if (provider := models.providers.get(target.provider)) is not None
            and (provider.wire, provider.enabled, provider.stateful) == (operation.wire, True, True)
        }
        if len(keepers) != 1:
            raise BadRequest(f"say by {CHOSEN_BY} which model's provider is to keep it")
        return next(iter(keepers.values()))

    async def note_misuse(self, caller: Caller, request_id: str, model: str, error: UnknownStateError) -> None:
        """Write down that an id was presented that is not this caller's."""
        facts: Json = {"kind": error.reference.kind, "id": error.reference.id[:200]}
        params = {"arguments": facts}
        await self.gateway.note_misuse(caller, Request(request_id, Verb.MODEL, "model", Kind.MODEL, model, params))

    async def _own(self, caller: Caller, references: Sequence[Reference], models: Models) -> list[Kept]:
        found = await self.things.find(caller, references, models) if references else []
        if isinstance(found, Reference):
            raise UnknownStateError(found)
        return found


def is_kept_anywhere(models: Models, name: str) -> bool:
    """Whether some provider that a name leads to may keep something for agents."""
    model = models.offered.get(name)
    found = () if model is None else (models.providers.get(target.provider) for target in model.targets)
    return any(provider is not None and provider.enabled and provider.stateful for provider in found)


def body_of_state(operation: Operation, body: bytes) -> Any:
    """The parsed body of a request about something kept. Raises `BadRequest`."""
    if not operation.has_body:
        if body.strip() not in (b"", b"{}"):
            raise BadRequest("there is nothing to be said in a body here")
        return None
    value = parse(body)
    if not isinstance(value, dict):
        raise BadRequest("the body must be a JSON object")
    check_items(value)
    return value


def query_of(scope: Scope) -> str:
    """The query as it goes on: parameters that are known, values that mean only themselves. Raises `BadRequest`."""
    query: str = scope.get("query_string", b"").decode("latin-1")
    parts = query.split("&") if query else []
    if len(parts) > _MAX_PARAMETERS:
        raise BadRequest("too many parameters")
    for part in parts:
        name, _, value = part.partition("=")
        for hex_ in _HEX:
            name = name.replace(hex_, "[]")
        if name not in _QUERY or not _VALUE.fullmatch(value):
            raise BadRequest(f"the parameter {name[:40]!r} is not passed on")
    return query


def facts_of_state(operation: Operation, model: str, kept: Kept | None, query: str, body: bytes) -> Json:
    """What conditions see as `args`, and the audit keeps."""
    facts: Json = {
        "model": model,
        "op": operation.op.value,
        "stream": "stream=true" in query.split("&"),
        "tools": [],
        "provider_tools": [],
        "bytes": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
        "state": [operation.about],
    }
    return facts if kept is None else {**facts, "id": kept.id}
