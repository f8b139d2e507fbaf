"""An audit with something in it, as a gateway would have written it."""

from pathlib import Path
from typing import Any

import anyio

from mcp_gateway.audit.log import AuditLog
from mcp_gateway.domain import (
    Caller,
    Decision,
    Effect,
    Json,
    Kind,
    Outcome,
    OutcomeStatus,
    Reason,
    Request,
    Target,
    Verb,
)
from mcp_gateway.policy.compile import Policy, compile_policy
from mcp_gateway.policy.document import load

TOOL = {"name": "echo", "inputSchema": {"type": "object"}}
ALLOWED = Decision(Effect.ALLOWED, Reason.GRANT, "policies/agents.toml:11")
DENIED = Decision(Effect.DENIED, Reason.NO_GRANT)
LISTED = Decision(Effect.ALLOWED, Reason.LIST)
OK = Outcome(OutcomeStatus.OK, {"content": [{"type": "text", "text": "hello"}]}, upstream_ms=12.4)
REFUSED = Outcome(OutcomeStatus.REFUSED)
LIST_OK = Outcome(OutcomeStatus.OK, {"listed": 1})


class Writer:
    """Writes entries that look like a day's work."""

    def __init__(self, log: AuditLog, policy: Policy) -> None:
        self._log = log
        self._policy = policy
        self._count = 0

    async def call(
        self,
        name: str = "echo",
        arguments: Json | None = None,
        decision: Decision = ALLOWED,
        outcome: Outcome | None = OK,
        *,
        agent: str = "reader",
        task: str = "read",
        upstream: str = "files",
    ) -> None:
        """One call, from decision to outcome; without an outcome it stays under way."""
        target = Target(Kind.TOOL, upstream, name, f"{upstream}__{name}", {**TOOL, "name": name}, f"{name:0<64}"[:64])
        params = {"name": target.public_name, "arguments": arguments or {}}
        request = Request(self._id(), Verb.CALL, "tools/call", Kind.TOOL, target.public_name, params)
        await self._write(Caller(agent, task), request, target, decision, outcome)

    async def list(self) -> None:
        request = Request(self._id(), Verb.LIST, "tools/list", Kind.TOOL, "", {})
        await self._write(Caller("reader", "read"), request, None, LISTED, LIST_OK)

    async def note(self, kind: str, name: str, reason: str) -> None:
        await self._log.note(kind, name, reason=reason)

    def _id(self) -> str:
        self._count += 1
        return f"r{self._count}"

    async def _write(
        self, caller: Caller, request: Request, target: Target | None, decision: Decision, outcome: Outcome | None
    ) -> None:
        decided = Decision(decision.effect, decision.reason, decision.grant, self._policy.version)
        if target is not None:
            self._log.remember_target(target)
        if outcome is not None and not decision.allowed:
            await self._log.record(caller, request, target, decided, outcome)
            return
        entry = await self._log.open(caller, request, target, decided)
        if outcome is not None:
            await self._log.close(entry, outcome)


def write(folder: Path, script: Any, **settings: Any) -> None:
    """Run `script(writer)` against the audit of the gateway in `folder`."""

    async def run() -> None:
        policy = compile_policy(load(folder / "policies"))
        async with AuditLog.opened(folder / "audit.db", folder / ".mcp-gateway", **settings) as log:
            log.remember_policy(policy.version, policy.text)
            await script(Writer(log, policy))

    anyio.run(run)


async def some_work(to: Writer) -> None:
    """A list, a call, a denied one, one that failed."""
    await to.list()
    await to.call("echo", {"path": "a"})
    await to.call("write", {"path": "b"}, DENIED, REFUSED)
    await to.call("echo", {}, ALLOWED, Outcome(OutcomeStatus.TIMED_OUT, {"message": "too slow"}), agent="writer")
