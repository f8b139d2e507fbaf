"""Ids of wire tasks (MCP's tasks extension): what an agent holds instead of the upstream's own.

An upstream may answer a tool call with a task, a thing to be asked for later (SEP-2663). Its id is no secret between
agents: whoever knows one could ask for somebody else's result. So an agent gets an id of ours, a seal that holds where
the task lives and that only this agent, for this person and on this task of its own, can use. Nothing is kept here: an
id is good after a restart, too, and in every process that shares the key.

Knows no policy: whoever opens an id decides again whether its tool may still be used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mcp_gateway.domain import Caller, Json, Target, Verb
from mcp_gateway.frontdoor.seals import Seals
from mcp_gateway.revisions import WIRE_TASKS

MAX_TTL_MS: Final = 30 * 24 * 3600 * 1000
"""The longest an agent is told that a task may be asked for, whatever its upstream says."""

WIRE_TASK_TTL_S: Final = MAX_TTL_MS // 1000 + 24 * 3600
"""A day more: a task must not end before its ttl does (SEP-2663, "Response"), and clocks differ."""

NEEDED: Final[Json] = {"requiredCapabilities": {"extensions": {WIRE_TASKS: {}}}}
"""The data of the -32021 for whoever has not declared the extension (SEP-2663, "Capability Negotiation")."""

WIRE_TASK_VERBS: Final[Mapping[str, Verb]] = {
    "tasks/get": Verb.TASK_GET,
    "tasks/update": Verb.TASK_UPDATE,
    "tasks/cancel": Verb.TASK_CANCEL,
}


@dataclass(frozen=True, slots=True)
class WireTask:
    """Where a wire task lives: its upstream, the tool that became it, and the id it has there."""

    upstream: str
    tool: str
    id: str


class WireTasks:
    """Makes and opens the ids that agents hold."""

    def __init__(self, seals: Seals, now_s: Callable[[], float]) -> None:
        self._seals = seals
        self._now_s = now_s

    def given(self, caller: Caller, target: Target, result: Json) -> Json:
        """An upstream's `CreateTaskResult` as its agent gets it."""
        payload = {"upstream": target.upstream, "tool": target.name, "id": result["taskId"]}
        return told(result, self._seals.seal(payload, _binding(caller), self._now_s()))

    def opened(self, caller: Caller, task_id: str) -> WireTask:
        """The task that `caller` means. Raises `SealBrokenError` for an id that is not (any more) its own."""
        payload = self._seals.open(task_id, _binding(caller), self._now_s())
        return WireTask(payload["upstream"], payload["tool"], payload["id"])


def told(result: Json, task_id: str) -> Json:
    """A task's state under our id, and with no longer a life than that id has; acknowledgements name no task."""
    if "taskId" not in result:
        return result
    ttl_ms = result.get("ttlMs")
    is_shorter = isinstance(ttl_ms, (int, float)) and ttl_ms <= MAX_TTL_MS
    return {**result, "taskId": task_id, "ttlMs": ttl_ms if is_shorter else MAX_TTL_MS}


def declared(capabilities: Any) -> bool:
    """Whether a request's capabilities, whatever was sent as such, say that its agent can follow wire tasks."""
    extensions = capabilities.get("extensions") if isinstance(capabilities, Mapping) else None
    return isinstance(extensions, Mapping) and isinstance(extensions.get(WIRE_TASKS), Mapping)


def _binding(caller: Caller) -> tuple[str, ...]:
    """Whose an id is. Not the credential's: a task may outlive an API key that is replaced."""
    return (caller.agent, caller.person or "", caller.task or "", caller.started_id)
