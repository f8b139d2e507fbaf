"""The guards, in the order they run. No other file decides it.

Going out: size, then the tool's own schema, because checking against a schema relies on bounded arguments; before both
what the policy's guards look for, so that masked arguments are checked as they will be sent.
Coming back: size, then what the policy's guards look for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mcp_gateway.domain import Caller, Finding, Inspection, Kind, Outcome, Request, Target, Verb
from mcp_gateway.errors import BadRequest
from mcp_gateway.guards import calls
from mcp_gateway.guards.content import Content
from mcp_gateway.guards.limits import Limits, check_result, check_size, measure
from mcp_gateway.guards.schema import Schemas

_DEFAULTS = Limits()


class Guards:
    """Checks on calls that the policy has already allowed."""

    def __init__(
        self, limits: Limits = _DEFAULTS, schemas: Schemas | None = None, content: Content | None = None
    ) -> None:
        """`schemas`: hand the same one to each new snapshot, so that a reload compiles nothing again."""
        self._content = content or Content([])
        self._limits = limits
        self._schemas = schemas or Schemas()

    async def look_at_request(
        self, inspections: Sequence[Inspection], target: Target, request: Request
    ) -> tuple[Request, tuple[Finding, ...]]:
        """What the policy's guards say of what is sent; see `calls.look_at_request`. Raises `Blocked`."""
        return await calls.look_at_request(self._content, inspections, target, request, self._limits.max_result_bytes)

    async def look_at_outcome(
        self, inspections: Sequence[Inspection], request: Request, outcome: Outcome, found: tuple[Finding, ...]
    ) -> Outcome:
        """What the policy's guards say of what came back; see `calls.look_at_outcome`. Raises `Blocked`."""
        return await calls.look_at_outcome(self._content, inspections, request, outcome, found)

    def check_request(self, caller: Caller, target: Target, request: Request) -> None:
        """Before anything is sent.

        Raises `BadRequest`, `OverLimit`, `BadArguments`; `Misbehaved` for a tool whose schema cannot be used.
        """
        arguments = request.params.get("arguments")
        if not (arguments is None or isinstance(arguments, (dict, Mapping))):
            raise BadRequest("params.arguments must be an object")
        calls_a_tool = target.kind is Kind.TOOL and request.verb is Verb.CALL
        checked = arguments or {} if calls_a_tool else request.params
        checked = checked if type(checked) is dict else dict(checked)
        size = measure(checked)
        check_size(checked, size, self._limits)
        if calls_a_tool:
            self._schemas.check_arguments(target, checked, size)

    def check_outcome(self, caller: Caller, target: Target, outcome: Outcome) -> Outcome:
        """Before the agent hears of it. Raises `Misbehaved` for a result beyond the bounds."""
        return check_result(target, outcome, self._limits)
