"""What operators do while agents work: start and end tasks, answer calls that wait for a person.

One place for the command line and for HTTP, so that both check the same and both are written down. No task starts, and
no answer stands, without its entry in the audit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import anyio

from mcp_gateway.audit.log import AuditLog
from mcp_gateway.config.toml_lines import did_you_mean
from mcp_gateway.domain import NOTHING, Budget, Json
from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.gateway import Clock
from mcp_gateway.guards.transactions import Transactions
from mcp_gateway.identity.started import StartedRecord, StartedTasks
from mcp_gateway.policy.compile import Policy
from mcp_gateway.policy.demands import LONGEST_TASK_S
from mcp_gateway.policy.document import Task
from mcp_gateway.storage.approvals import Approval

USUAL: Final = timedelta(hours=1)
"""How long a task lasts when nobody says so, unless the policy lets it last only for less."""
MAX_LISTED: Final = 1_000
MAX_NAME: Final = 200


class MistakeError(ValueError):
    """What was asked for cannot be done; `fix` says what to do instead."""

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.fix = fix


@dataclass(frozen=True, slots=True)
class Order:
    """A task to be started."""

    agent: str
    task: str
    context: Mapping[str, Any] = field(default_factory=lambda: NOTHING)
    lasts: timedelta | None = None
    person: str | None = None
    budget: Budget = field(default_factory=Budget)
    """Tighter than the policy's, where it bounds anything."""


class Desk:
    """Where an operator, or a program of theirs, is served."""

    def __init__(
        self,
        tasks: StartedTasks,
        transactions: Transactions,
        audit: AuditLog,
        policy: Callable[[], Policy],
        clock: Clock,
    ) -> None:
        self._tasks = tasks
        self._transactions = transactions
        self._audit = audit
        self._policy = policy
        self._clock = clock

    async def start(self, order: Order) -> tuple[str, StartedRecord]:
        """Start a task: its token, which cannot be had again, and what is kept. Raises `MistakeError`."""
        task, now = self._checked(order), self._clock()
        lasts = _checked_length(order.lasts or min(USUAL, _longest(task)), task)
        try:
            token, record = await anyio.to_thread.run_sync(
                lambda: self._tasks.start(
                    order.agent,
                    order.task,
                    lasts,
                    now,
                    context=order.context,
                    person=order.person,
                    budget=order.budget,
                )
            )
        except ValueError as e:
            raise MistakeError(str(e)) from e
        try:
            detail: Json = {"task": order.task, "person": order.person, "context": dict(order.context)}
            await self._note("task", record, "started", {**detail, "expires": record.task.expires.isoformat()})
        except StoreUnavailable:
            await anyio.to_thread.run_sync(self._tasks.revoke, record.task.id, now)
            raise
        return token, record

    async def tasks(self) -> list[StartedRecord]:
        """The tasks started last, oldest first."""
        return await anyio.to_thread.run_sync(self._tasks.list, MAX_LISTED)

    async def task(self, task_id: str) -> StartedRecord:
        """One of them. Raises `MistakeError`."""
        record = await anyio.to_thread.run_sync(self._tasks.find, task_id)
        if record is None:
            raise MistakeError(f"no task has the id {task_id!r}", "see mcp-gateway task list")
        return record

    async def told(self, record: StartedRecord) -> Json:
        """A task as operators see it, with what it has used and read."""
        now = self._transactions.now()
        state = await self._transactions.in_thread(lambda store: store.state(record.task.id, now))
        return {**plain_task(record, self._clock()), "used": asdict(state)}

    async def extend(self, task_id: str, lasts: timedelta) -> StartedRecord:
        """Let a task that is under way last for so long from now. Raises `MistakeError`."""
        record, now = await self.task(task_id), self._clock()
        task = self._policy().tasks.get(record.task.task)
        expires = now + _checked_length(lasts, task)
        if not record.holds(now):
            raise MistakeError(f"task {task_id} is over ({record.state(now)})", "start another one")
        # What gives more than there was is written down before it does.
        await self._note("task", record, "extended", {"expires": expires.isoformat()})
        if not await anyio.to_thread.run_sync(self._tasks.extend, task_id, expires, now):
            raise MistakeError(f"task {task_id} is over ({record.state(now)})", "start another one")
        return await self.task(task_id)

    async def end(self, task_id: str, *, is_revoked: bool = False) -> StartedRecord:
        """It is over: on return no request of it is accepted any more. Raises `MistakeError`."""
        record, now = await self.task(task_id), self._clock()
        end = self._tasks.revoke if is_revoked else self._tasks.end
        if not await anyio.to_thread.run_sync(end, task_id, now):
            raise MistakeError(f"task {task_id} is over already ({record.state(now)})")
        await self._note("task", record, "revoked" if is_revoked else "ended", {"task": record.task.task})
        return await self.task(task_id)

    async def approvals(self, *, all_of_them: bool = False) -> list[Approval]:
        """Calls that wait for a person, oldest first."""
        now = self._transactions.now()
        return await self._transactions.in_thread(lambda store: store.approvals(now, all_of_them=all_of_them))

    async def approval(self, approval_id: str) -> Approval:
        """One of them, with its arguments. Raises `MistakeError`."""
        now = self._transactions.now()
        found = await self._transactions.in_thread(lambda store: store.approval(approval_id, now))
        if found is None:
            raise MistakeError(f"no approval has the id {approval_id!r}", "see mcp-gateway approvals list")
        return found

    async def answer(self, approval_id: str, *, yes: bool, by: str) -> Approval:
        """A person's answer to one call, for once. Raises `MistakeError` where nothing waits for it (any more)."""
        found, now = await self.approval(approval_id), self._transactions.now()
        word = "approved" if yes else "denied"
        detail: Json = {"by": by[:MAX_NAME], "target": found.target, "args_sha256": found.args_sha256}
        if found.state != "pending":
            raise MistakeError(f"approval {approval_id} does not wait any more ({found.state})")
        await self._audit.note("approval", approval_id, agent=found.agent, reason=word, detail=detail)
        answer = self._transactions.in_thread(lambda s: s.answer(approval_id, yes=yes, by=by[:MAX_NAME], now=now))
        if not await answer:
            raise MistakeError(f"approval {approval_id} was answered by somebody else meanwhile, or has expired")
        return await self.approval(approval_id)

    def _checked(self, order: Order) -> Task:
        policy = self._policy()
        assignment = policy.assignments.get(order.agent)
        if assignment is None:
            raise MistakeError(f"no policy names the agent {order.agent!r}", did_you_mean(order.agent, policy.agents))
        if order.task not in assignment.tasks:
            fix = did_you_mean(order.task, assignment.tasks)
            raise MistakeError(f"agent {order.agent!r} has no task {order.task!r}", fix)
        task = policy.tasks[order.task]
        for name in sorted(task.context - order.context.keys()):
            raise MistakeError(f"the task {order.task!r} is about some {name!r}, which is missing", f"--set {name}=...")
        for name in sorted(order.context.keys() - task.context):
            fix = did_you_mean(name, task.context) or f"write context = [{name!r}] into [tasks.{order.task}]"
            raise MistakeError(f"the task {order.task!r} has no {name!r} in its context", fix)
        return task

    async def _note(self, kind: str, record: StartedRecord, reason: str, detail: Json) -> None:
        await self._audit.note(kind, record.task.id, agent=record.task.agent, reason=reason, detail=detail)


def plain_task(record: StartedRecord, now: datetime) -> Json:
    """A started task as plain JSON values; of the token nothing is kept that could be shown."""
    task = record.task
    return {
        "id": task.id,
        "agent": task.agent,
        "task": task.task,
        "person": task.person,
        "context": dict(task.context),
        "budget": {name: value for name, value in asdict(task.budget).items() if value not in (None, "")},
        "started": record.started.isoformat(timespec="seconds"),
        "expires": task.expires.isoformat(timespec="seconds"),
        "over": record.over.isoformat(timespec="seconds") if record.over else None,
        "state": record.state(now),
    }


def plain_approval(approval: Approval) -> Json:
    """An approval as plain JSON values."""
    found = asdict(approval)
    for name in ("asked_at", "expires_at", "answered_at"):
        if found[name] is not None:
            found[name] = datetime.fromtimestamp(found[name] / 1_000_000, UTC).isoformat(timespec="seconds")
    return found


def _longest(task: Task | None) -> timedelta:
    longest_s = LONGEST_TASK_S if task is None or task.ttl_s is None else task.ttl_s
    return timedelta(seconds=longest_s)


def _checked_length(lasts: timedelta, task: Task | None) -> timedelta:
    longest = _longest(task)
    if lasts > longest:
        raise MistakeError(f"the policy lets this task last for {longest} at most, not for {lasts}")
    return lasts
