"""Tools that go on as wire tasks (MCP's tasks extension, SEP-2663), for the conformance fixture: the SDK has no runtime
for them.

Each is a coroutine function over a `Job`; it runs as a task for clients that declared the extension, and inside the
call for the others, unless it cannot do without. Jobs live as long as the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

import mcp_types as types
from mcp.server.lowlevel.server import Server
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import decode_header_value

Json = dict[str, Any]

EXTENSION: Final = "io.modelcontextprotocol/tasks"
TTL_MS: Final = 600_000
POLL_MS: Final = 50
STEP_S: Final = 0.05
ENDED: Final = ("completed", "failed", "cancelled")


@dataclass
class Job:
    """One tool call that goes on by itself."""

    arguments: Json
    id: str = field(default_factory=lambda: str(uuid4()))
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat())
    status: str = "working"
    ending: Json = field(default_factory=dict)
    questions: Json = field(default_factory=dict)
    responses: Json = field(default_factory=dict)
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    running: asyncio.Task[None] | None = None

    async def ask(self, **questions: Json) -> Json:
        """Ask the client something, and wait until all of it is answered."""
        self.questions, self.status = dict(questions), "input_required"
        self.answered.clear()
        await self.answered.wait()
        self.status = "working"
        return {key: self.responses[key] for key in questions}

    def take(self, responses: Json) -> None:
        """Answers to what is asked now; the others are nothing."""
        for key in responses.keys() & self.questions.keys():
            self.responses[key] = responses[key]
            del self.questions[key]
        if self.status == "input_required" and not self.questions:
            self.answered.set()

    def end(self, status: str, **ending: Any) -> None:
        if self.status not in ENDED:
            self.status, self.ending = status, ending

    def told(self) -> Json:
        """The task's state without what it ended with."""
        now = datetime.now(UTC).isoformat()
        times = {"createdAt": self.created, "lastUpdatedAt": now, "ttlMs": TTL_MS, "pollIntervalMs": POLL_MS}
        return {"taskId": self.id, "status": self.status, **times}


Run = Callable[[Job], Awaitable[Json]]


@dataclass(frozen=True)
class TaskTool:
    """A tool, and whether it can be served without a task at all."""

    description: str
    schema: Json
    work: Run
    needs_task: bool = True

    async def run(self, call: Any) -> Any:
        """Serve one `tools/call` of the fixture."""
        if call.is_modern and has_declared(call.context):
            return started(self.work, Job(call.arguments))
        if self.needs_task:
            raise missing_capability()
        return types.CallToolResult.model_validate(await self.work(Job(call.arguments)))


JOBS: dict[str, Job] = {}
TASK_TOOLS: dict[str, TaskTool] = {}


def task_tool(name: str, description: str, *, needs_task: bool = True, **properties: Json) -> Callable[[Run], Run]:
    def add(work: Run) -> Run:
        schema = {"type": "object", "properties": properties}
        TASK_TOOLS[name] = TaskTool(description, schema, work, needs_task)
        return work

    return add


def text(said: str, *, is_error: bool = False) -> Json:
    return {"content": [{"type": "text", "text": said}], "isError": is_error}


def confirmation(message: str) -> Json:
    schema = {"type": "object", "properties": {"confirm": {"type": "boolean"}}, "required": ["confirm"]}
    return {"method": "elicitation/create", "params": {"mode": "form", "message": message, "requestedSchema": schema}}


@task_tool(
    "slow_compute",
    "Takes its time",
    needs_task=False,
    seconds={"type": "number"},
    label={"type": "string"},
)
async def _(job: Job) -> Json:
    if job.running is not None:  # inside a call nobody wants to wait for it
        await asyncio.sleep(job.arguments.get("seconds", 0))
    return text(f"computed {job.arguments.get('label', '')}")


@task_tool("failing_job", "Fails as a tool does")
async def _(job: Job) -> Json:
    await asyncio.sleep(STEP_S)
    return text("the job failed", is_error=True)


@task_tool("protocol_error_job", "Fails as a protocol does")
async def _(job: Job) -> Json:
    await asyncio.sleep(STEP_S)
    raise MCPError(types.INTERNAL_ERROR, "the job broke")


@task_tool("confirm_delete", "Asks once", filename={"type": "string"})
async def _(job: Job) -> Json:
    answers = await job.ask(confirm=confirmation(f"Delete {job.arguments.get('filename')}?"))
    return text(f"answered: {answers['confirm'].get('action')}")


@task_tool("multi_input", "Asks two things at once")
async def _(job: Job) -> Json:
    answers = await job.ask(first=confirmation("First?"), second=confirmation("Second?"))
    return text(f"answered: {sorted(answers)}")


async def greet_after_asking(call: Any) -> Any:
    """Asks before it becomes a task."""
    name = call.accepted("user_name", "name")
    if name is None:
        schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
        params = {"mode": "form", "message": "What is your name?", "requestedSchema": schema}
        asked = {"user_name": {"method": "elicitation/create", "params": params}}
        return types.InputRequiredResult.model_validate({"inputRequests": asked, "requestState": "asked"})

    async def greet(job: Job) -> Json:
        await asyncio.sleep(STEP_S)
        return text(f"Hello, {name}!")

    if not has_declared(call.context):
        raise missing_capability()
    return started(greet, Job(call.arguments))


def started(work: Run, job: Job) -> Json:
    """Begin a job; its `CreateTaskResult`."""
    JOBS[job.id] = job
    created = {"resultType": "task", **job.told()}
    job.running = asyncio.get_running_loop().create_task(_finish(work, job))
    return created


async def _finish(work: Run, job: Job) -> None:
    try:
        job.end("completed", result=await work(job))
    except MCPError as e:
        job.end("failed", error={"code": e.error.code, "message": e.error.message})
    except asyncio.CancelledError:
        job.end("cancelled")


def has_declared(context: Any) -> bool:
    capabilities = context.session.client_capabilities
    return capabilities is not None and EXTENSION in (capabilities.extensions or {})


def missing_capability() -> MCPError:
    needed = {"requiredCapabilities": {"extensions": {EXTENSION: {}}}}
    return MCPError(types.MISSING_REQUIRED_CLIENT_CAPABILITY, "Missing required client capability", needed)


class TaskParams(types.RequestParams):
    """Params of all three methods."""

    model_config = types.RequestParams.model_config | {"extra": "allow"}

    taskId: str  # noqa: N815


def job_of(context: Any, params: Any) -> Job:
    """The job a request means. Raises for whoever may not ask, or asks for nothing."""
    sent = context.request.headers.get("mcp-name") if context.request is not None else params.taskId
    if decode_header_value(sent) != params.taskId:
        raise MCPError(types.HEADER_MISMATCH, "Mcp-Name does not match params.taskId")
    if not has_declared(context):
        raise missing_capability()
    if params.taskId not in JOBS:
        raise MCPError(types.INVALID_PARAMS, f"Task not found: {params.taskId}")
    return JOBS[params.taskId]


async def get(context: Any, params: Any) -> Json:
    job = job_of(context, params)
    asked = {"inputRequests": dict(job.questions)} if job.status == "input_required" else {}
    return {"resultType": "complete", **job.told(), **asked, **job.ending}


async def update(context: Any, params: Any) -> Json:
    job_of(context, params).take(context.params["inputResponses"])
    return {"resultType": "complete"}


async def cancel(context: Any, params: Any) -> Json:
    job = job_of(context, params)
    job.end("cancelled")
    if job.running is not None:
        job.running.cancel()
    return {"resultType": "complete"}


def install(server: Server[Any]) -> None:
    """Let a server offer the extension."""
    server.extensions[EXTENSION] = {}
    for method, handler in (("tasks/get", get), ("tasks/update", update), ("tasks/cancel", cancel)):
        server.add_request_handler(method, TaskParams, handler)
