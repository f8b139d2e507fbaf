"""An MCP server with exactly what the official conformance suite asks a server for, in both eras, on the SDK.

    python conformance_server.py --port 0     Streamable HTTP at /mcp; prints the port once it listens
    python conformance_server.py --stdio
    ... --era legacy | modern                 refuses the other era, as servers of one era do

Then: `conformance server --url http://127.0.0.1:PORT/mcp --requirements 2026-07-28` (or `2025-11-25`).
Each tool, prompt and resource stands in a table under the name that the suite looks for.
"""

from __future__ import annotations

import argparse
import json
import socket
import struct
import sys
import warnings
import zlib
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import anyio
import mcp_types as types
import task_tools
import uvicorn
from mcp.server.caching import CacheHint
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import NotificationOptions, Server
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.server.runner import serve_loop
from mcp.server.stdio import stdio_server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, PromptsListChanged, ToolsListChanged
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError
from mcp.shared.message import ServerMessageMetadata
from starlette.types import ASGIApp, Receive, Scope, Send

Json = dict[str, Any]
Context = ServerRequestContext[Any, Any]
Answer = types.CallToolResult | types.InputRequiredResult

MODERN = "2026-07-28"
NAME = "conformance-fixture"
STEP_S = 0.02
MAX_ROUNDS = 10
ANYTHING: Json = {"type": "object", "properties": {}}


def tiny_png() -> str:
    """A red pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixel = zlib.compress(b"\x00\xff\x00\x00")
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")
    return b64encode(png).decode()


def tiny_wav() -> str:
    """One silent sample."""
    sound = (
        b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 8000, 1, 8) + b"data" + struct.pack("<I", 1) + b"\x80\x00"
    )
    return b64encode(b"RIFF" + struct.pack("<I", len(sound)) + sound).decode()


PNG, WAV = tiny_png(), tiny_wav()
bus = InMemorySubscriptionBus()


# --- What tools are made of ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tool:
    """One entry of the table."""

    description: str
    schema: Json
    run: Callable[[Call], Awaitable[Answer]]


@dataclass(frozen=True)
class Call:
    """One tools/call or prompts/get, and what the client has answered so far."""

    context: Context
    arguments: Json
    responses: Json
    state: str | None = None

    @classmethod
    def begun(cls, context: Context, arguments: Mapping[str, Any] | None) -> Call:
        """The call as it arrived; what answers an earlier `input_required` is in it."""
        params = context.params or {}
        responses, state = params.get("inputResponses"), params.get("requestState")
        return cls(
            context,
            dict(arguments or {}),
            dict(responses) if isinstance(responses, Mapping) else {},
            state if isinstance(state, str) else None,
        )

    @property
    def is_modern(self) -> bool:
        return self.context.protocol_version >= MODERN

    def accepted(self, key: str, member: str) -> Any:
        """A member of an accepted form; None where the client did not send it as asked."""
        response = self.responses.get(key)
        if not isinstance(response, Mapping) or response.get("action") != "accept":
            return None
        content = response.get("content")
        return content.get(member) if isinstance(content, Mapping) else None


TOOLS: dict[str, Tool] = {}


def tool(name: str, description: str, schema: Json = ANYTHING) -> Callable[[Any], Any]:
    """Put a coroutine function into the table."""

    def add(run: Callable[[Call], Awaitable[Answer]]) -> Callable[[Call], Awaitable[Answer]]:
        TOOLS[name] = Tool(description, schema, run)
        return run

    return add


def said(*content: Json | str, is_error: bool = False) -> types.CallToolResult:
    blocks = [{"type": "text", "text": each} if isinstance(each, str) else each for each in content]
    return types.CallToolResult.model_validate({"content": blocks, "isError": is_error})


def asked(requests: Json, state: str | None = None) -> types.InputRequiredResult:
    return types.InputRequiredResult.model_validate({"inputRequests": requests, "requestState": state})


def form(message: str, **properties: Json) -> Json:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"method": "elicitation/create", "params": {"mode": "form", "message": message, "requestedSchema": schema}}


def sampling(prompt: str, max_tokens: int = 100) -> Json:
    message = {"role": "user", "content": {"type": "text", "text": prompt}}
    return {"method": "sampling/createMessage", "params": {"messages": [message], "maxTokens": max_tokens}}


ROOTS: Json = {"method": "roots/list", "params": {}}


# --- Tools with fixed answers ----------------------------------------------------------------------------------------


@tool("a_plain_tool", "Stands first in a sorted list too: some scenarios call the first tool, without arguments")
async def _(call: Call) -> Answer:
    return said("As plain as can be.")


@tool("test_simple_text", "Answers with text")
async def _(call: Call) -> Answer:
    return said("This is a simple text response for testing.")


@tool("test_image_content", "Answers with an image")
async def _(call: Call) -> Answer:
    return said({"type": "image", "data": PNG, "mimeType": "image/png"})


@tool("test_audio_content", "Answers with a sound")
async def _(call: Call) -> Answer:
    return said({"type": "audio", "data": WAV, "mimeType": "audio/wav"})


def embedded(uri: str, mime_type: str, text: str) -> Json:
    return {"type": "resource", "resource": {"uri": uri, "mimeType": mime_type, "text": text}}


@tool("test_embedded_resource", "Answers with a resource")
async def _(call: Call) -> Answer:
    return said(embedded("test://embedded-resource", "text/plain", "This is an embedded resource content."))


@tool("test_multiple_content_types", "Answers with text, an image and a resource")
async def _(call: Call) -> Answer:
    return said(
        "Multiple content types test:",
        {"type": "image", "data": PNG, "mimeType": "image/png"},
        embedded("test://mixed-content-resource", "application/json", json.dumps({"test": "data", "value": 123})),
    )


@tool("test_error_handling", "Always fails")
async def _(call: Call) -> Answer:
    return said("This tool intentionally returns an error for testing", is_error=True)


@tool(
    "json_schema_2020_12_tool",
    "Tool with JSON Schema 2020-12 features",
    {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {
            "address": {
                "$anchor": "addressDef",
                "type": "object",
                "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
            }
        },
        "properties": {
            "name": {"type": "string"},
            "address": {"$ref": "#/$defs/address"},
            "contactMethod": {"type": "string", "enum": ["phone", "email"]},
            "phone": {"type": "string"},
            "email": {"type": "string"},
        },
        "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
        "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
        "then": {"required": ["phone"]},
        "else": {"required": ["email"]},
        "additionalProperties": False,
    },
)
async def _(call: Call) -> Answer:
    return said(json.dumps(call.arguments, sort_keys=True))


@tool(
    "test_header_region",
    "Has an argument that is mirrored in a header",
    {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}},
)
async def _(call: Call) -> Answer:
    return said(f"region: {call.arguments.get('region')}")


# --- Tools that speak while they run ---------------------------------------------------------------------------------


@tool("test_tool_with_logging", "Logs three lines")
async def _(call: Call) -> Answer:
    for line in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await log(call, line)
        await anyio.sleep(STEP_S)
    return said("Logged three lines")


@tool("test_logging_tool", "Logs one line, for those who asked for log lines")
async def _(call: Call) -> Answer:
    await log(call, "A line that only those who asked for it may see")
    return said("Logged one line")


async def log(call: Call, line: str) -> None:
    await call.context.session.send_log_message("info", line, related_request_id=call.context.request_id)


@tool("test_tool_with_progress", "Reports progress three times")
async def _(call: Call) -> Answer:
    for progress in (0, 50, 100):
        await call.context.session.report_progress(progress, 100, f"Completed step {progress} of 100")
        await anyio.sleep(STEP_S)
    return said("Reported progress")


# Every second one is there. Whoever stands between server and client need not announce a list that stayed the same.
changes = {"tools": 0, "prompts": 0}


@tool("test_trigger_tool_change", "Changes the list of tools and says so")
async def _(call: Call) -> Answer:
    changes["tools"] += 1
    await bus.publish(ToolsListChanged())
    if not call.is_modern:
        await call.context.session.send_tool_list_changed()
    return said("Announced")


@tool("test_trigger_prompt_change", "Changes the list of prompts and says so")
async def _(call: Call) -> Answer:
    changes["prompts"] += 1
    await bus.publish(PromptsListChanged())
    if not call.is_modern:
        await call.context.session.send_prompt_list_changed()
    return said("Announced")


@tool("test_reconnection", "Closes its own stream half way")
async def _(call: Call) -> Answer:
    await anyio.sleep(STEP_S)
    if call.context.close_sse_stream is not None:
        await call.context.close_sse_stream()
    await anyio.sleep(STEP_S)
    return said("Reconnected")


# --- Tools that ask back: all by their result, which becomes live questions on the legacy wire -----------------------


async def settled(run: Callable[[Call], Awaitable[Any]], call: Call) -> Any:
    """What a tool or prompt answers, once a legacy client has been asked everything it wants to know."""
    for _ in range(MAX_ROUNDS):
        answer = await run(call)
        if call.is_modern or not isinstance(answer, types.InputRequiredResult):
            return answer
        asked_now = answer.model_dump(by_alias=True, mode="json", exclude_none=True)
        responses = await answered_live(call.context, asked_now.get("inputRequests", {}))
        call = replace(call, responses=responses, state=asked_now.get("requestState"))
    raise MCPError(types.INTERNAL_ERROR, "Asked too often")


async def answered_live(context: Context, requests: Json) -> Json:
    """Ask a legacy client everything at once. Raises the client's error where it answers nothing."""
    responses: Json = {}
    errors: list[MCPError] = []

    async def ask(key: str, request: Json) -> None:
        try:
            responses[key] = await asked_live(context, request)
        except MCPError as e:
            errors.append(e)

    async with anyio.create_task_group() as tasks:
        for key, request in requests.items():
            tasks.start_soon(ask, key, request)
    if errors and not responses:
        raise errors[0]
    return responses


QUESTIONS: dict[str, tuple[Any, Any]] = {
    "elicitation/create": (types.ElicitRequest, types.ElicitResult),
    "sampling/createMessage": (types.CreateMessageRequest, types.CreateMessageResult),
    "roots/list": (types.ListRootsRequest, types.ListRootsResult),
}


async def asked_live(context: Context, request: Json) -> Json:
    request_type, result_type = QUESTIONS[request["method"]]
    on_the_calls_stream = ServerMessageMetadata(related_request_id=context.request_id)
    answer = await context.session.send_request(
        request_type.model_validate(request), result_type, metadata=on_the_calls_stream
    )
    return dict(answer.model_dump(by_alias=True, mode="json", exclude_none=True))


@tool(
    "test_sampling",
    "Asks the client's model",
    {"type": "object", "properties": {"prompt": {"type": "string"}}, "required": ["prompt"]},
)
async def _(call: Call) -> Answer:
    response = call.responses.get("answer")
    if isinstance(response, Mapping):
        return said(f"LLM response: {text_of(response)}")
    return asked({"answer": sampling(str(call.arguments.get("prompt", "")))})


def text_of(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    blocks = content if isinstance(content, list) else [content]
    return " ".join(str(block.get("text", "")) for block in blocks if isinstance(block, Mapping))


def elicited(call: Call, message: str, schema: Json, label: str) -> Answer:
    """Ask for a form, then say what came back."""
    response = call.responses.get("form")
    if isinstance(response, Mapping):
        return said(f"{label}: action={response.get('action')}, content={json.dumps(response.get('content'))}")
    params = {"mode": "form", "message": message, "requestedSchema": schema}
    return asked({"form": {"method": "elicitation/create", "params": params}})


@tool(
    "test_elicitation",
    "Asks the user for a name and an address",
    {"type": "object", "properties": {"message": {"type": "string"}}, "required": ["message"]},
)
async def _(call: Call) -> Answer:
    schema = {
        "type": "object",
        "properties": {
            "username": {"type": "string", "description": "User's response"},
            "email": {"type": "string", "description": "User's email address"},
        },
        "required": ["username", "email"],
    }
    return elicited(call, str(call.arguments.get("message", "")), schema, "User response")


@tool("test_elicitation_sep1034_defaults", "Asks with defaults of every primitive type")
async def _(call: Call) -> Answer:
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "default": "John Doe"},
            "age": {"type": "integer", "default": 30},
            "score": {"type": "number", "default": 95.5},
            "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
            "verified": {"type": "boolean", "default": True},
        },
    }
    return elicited(call, "Please review the defaults", schema, "Elicitation completed")


def titled(titles: Mapping[str, str]) -> list[Json]:
    return [{"const": value, "title": title} for value, title in titles.items()]


@tool("test_elicitation_sep1330_enums", "Asks with every kind of enumeration")
async def _(call: Call) -> Answer:
    three = ["option1", "option2", "option3"]
    firsts = {"value1": "First Option", "value2": "Second Option", "value3": "Third Option"}
    choices = {"value1": "First Choice", "value2": "Second Choice", "value3": "Third Choice"}
    schema = {
        "type": "object",
        "properties": {
            "untitledSingle": {"type": "string", "enum": three},
            "titledSingle": {"type": "string", "oneOf": titled(firsts)},
            "legacyEnum": {
                "type": "string",
                "enum": ["opt1", "opt2", "opt3"],
                "enumNames": ["Option One", "Option Two", "Option Three"],
            },
            "untitledMulti": {"type": "array", "items": {"type": "string", "enum": three}},
            "titledMulti": {"type": "array", "items": {"anyOf": titled(choices)}},
        },
    }
    return elicited(call, "Please choose", schema, "Elicitation completed")


@tool("test_streaming_elicitation", "Asks in its result, never in its stream")
async def _(call: Call) -> Answer:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    return elicited(call, "Go on?", schema, "Answered")


@tool("test_missing_capability", "Needs a client that can sample")
async def _(call: Call) -> Answer:
    capabilities = call.context.session.client_capabilities
    if not call.is_modern and "capital" not in call.responses:  # a session's client may be many: only asking tells
        return asked({"capital": sampling("What is the capital of France?")})
    if capabilities is None or capabilities.sampling is None:
        code = types.MISSING_REQUIRED_CLIENT_CAPABILITY
        raise MCPError(code, "This tool needs sampling", {"requiredCapabilities": {"sampling": {}}})
    return said("The client can sample")


# --- Tools of the multi-round-trip scenarios (2026-07-28) ------------------------------------------------------------


@tool("test_input_required_result_elicitation", "Asks for a name, then greets")
async def _(call: Call) -> Answer:
    name = call.accepted("user_name", "name")
    if isinstance(name, str):
        return said(f"Hello, {name}!")
    return asked({"user_name": form("What is your name?", name={"type": "string"})})


@tool("test_input_required_result_sampling", "Asks the client's model for a capital")
async def _(call: Call) -> Answer:
    response = call.responses.get("capital_question")
    if isinstance(response, Mapping):
        return said(text_of(response))
    return asked({"capital_question": sampling("What is the capital of France?")})


@tool("test_input_required_result_list_roots", "Asks for the client's roots")
async def _(call: Call) -> Answer:
    response = call.responses.get("client_roots")
    if isinstance(response, Mapping):
        return said(f"Roots: {json.dumps(response.get('roots'))}")
    return asked({"client_roots": ROOTS})


@tool("test_input_required_result_request_state", "Asks, and wants its state back")
async def _(call: Call) -> Answer:
    if call.accepted("confirm", "ok") is not None and call.state == "waiting for confirmation":
        return said("state-ok")
    return asked({"confirm": form("Please confirm", ok={"type": "boolean"})}, "waiting for confirmation")


@tool("test_input_required_result_tampered_state", "Asks, and refuses a state that is not its own")
async def _(call: Call) -> Answer:
    if call.accepted("confirm", "ok") is not None and call.state == "untouched":
        return said("The state came back untouched")
    return asked({"confirm": form("Please confirm", ok={"type": "boolean"})}, "untouched")


@tool("test_input_required_result_multiple_inputs", "Asks three things at once")
async def _(call: Call) -> Answer:
    requests = {
        "user_name": form("What is your name?", name={"type": "string"}),
        "greeting": sampling("Generate a greeting", 50),
        "client_roots": ROOTS,
    }
    if requests.keys() <= call.responses.keys() and call.state == "three asked":
        return said(f"{text_of(call.responses['greeting'])} {call.accepted('user_name', 'name')}")
    return asked(requests, "three asked")


@tool("test_input_required_result_multi_round", "Asks twice, one after the other")
async def _(call: Call) -> Answer:
    name, color = call.accepted("step1", "name"), call.accepted("step2", "color")
    if color is not None and call.state is not None and call.state.startswith("round 2: "):
        return said(f"{call.state.removeprefix('round 2: ')} likes {color}")
    if name is not None and call.state == "round 1":
        return asked(
            {"step2": form("Step 2: What is your favorite color?", color={"type": "string"})}, f"round 2: {name}"
        )
    return asked({"step1": form("Step 1: What is your name?", name={"type": "string"})}, "round 1")


@tool("test_input_required_result_capabilities", "Asks only what the client can answer")
async def _(call: Call) -> Answer:
    can = call.context.session.client_capabilities
    requests: Json = {}
    if can is not None and can.sampling is not None:
        requests["greeting"] = sampling("Generate a greeting")
    if can is not None and can.elicitation is not None:
        requests["user_name"] = form("What is your name?", name={"type": "string"})
    if can is not None and can.roots is not None:
        requests["client_roots"] = ROOTS
    if not requests or requests.keys() <= call.responses.keys():
        return said("Nothing left to ask")
    return asked(requests)


# --- Tools of the tasks extension ------------------------------------------------------------------------------------


@tool("greet", "Says hello at once", {"type": "object", "properties": {"name": {"type": "string"}}})
async def _(call: Call) -> Answer:
    return said(f"Hello, {call.arguments.get('name')}!")


TOOLS |= {name: Tool(each.description, each.schema, each.run) for name, each in task_tools.TASK_TOOLS.items()}
TOOLS["test_tool_with_task"] = Tool("Asks, then becomes a task", ANYTHING, task_tools.greet_after_asking)


# --- Prompts and resources -------------------------------------------------------------------------------------------


def argument(name: str, description: str) -> Json:
    return {"name": name, "description": description, "required": True}


PROMPTS: dict[str, Json] = {
    "test_simple_prompt": {"description": "A prompt without arguments"},
    "test_prompt_with_arguments": {
        "description": "A prompt with two arguments",
        "arguments": [argument("arg1", "First test argument"), argument("arg2", "Second test argument")],
    },
    "test_prompt_with_embedded_resource": {
        "description": "A prompt with a resource in it",
        "arguments": [argument("resourceUri", "URI of the resource to embed")],
    },
    "test_prompt_with_image": {"description": "A prompt with an image in it"},
    "test_input_required_result_prompt": {"description": "A prompt that asks before it answers"},
}

RESOURCES: dict[str, Json] = {
    "test://static-text": {
        "mimeType": "text/plain",
        "text": "This is the content of the static text resource.",
    },
    "test://static-binary": {"mimeType": "image/png", "blob": PNG},
    "test://watched-resource": {"mimeType": "text/plain", "text": "A resource to subscribe to."},
}
TEMPLATE = "test://template/{id}/data"
TEMPLATE_START, TEMPLATE_END = TEMPLATE.split("{id}")


def messages_of(name: str, arguments: Mapping[str, str]) -> list[Json | str]:
    if name == "test_simple_prompt":
        return ["This is a simple prompt for testing."]
    if name == "test_prompt_with_arguments":
        return [f"Prompt with arguments: arg1='{arguments.get('arg1')}', arg2='{arguments.get('arg2')}'"]
    if name == "test_prompt_with_embedded_resource":
        uri = arguments.get("resourceUri", "test://embedded-resource")
        text = "Embedded resource content for testing."
        return [embedded(uri, "text/plain", text), "Please process the embedded resource above."]
    return [{"type": "image", "data": PNG, "mimeType": "image/png"}, "Please analyze the image above."]


def contents_of(uri: str) -> Json | None:
    if uri in RESOURCES:
        return {"uri": uri, **RESOURCES[uri]}
    identity = uri.removeprefix(TEMPLATE_START).removesuffix(TEMPLATE_END)
    if not uri.startswith(TEMPLATE_START) or not uri.endswith(TEMPLATE_END) or not identity or "/" in identity:
        return None
    data = {"id": identity, "templateTest": True, "data": f"Data for ID: {identity}"}
    return {"uri": uri, "mimeType": "application/json", "text": json.dumps(data)}


# --- The handlers ----------------------------------------------------------------------------------------------------


async def list_tools(ctx: Context, params: Any) -> types.ListToolsResult:
    tools = [
        {"name": name, "description": each.description, "inputSchema": each.schema} for name, each in TOOLS.items()
    ]
    if changes["tools"] % 2:
        tools.append({"name": "test_tool_that_comes_and_goes", "description": "Now and then", "inputSchema": ANYTHING})
    return types.ListToolsResult.model_validate({"tools": tools})


async def call_tool(ctx: Context, params: types.CallToolRequestParams) -> Answer:
    found = TOOLS.get(params.name)
    if found is None:
        raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {params.name}")
    return await settled(found.run, Call.begun(ctx, params.arguments))


async def list_prompts(ctx: Context, params: Any) -> types.ListPromptsResult:
    prompts: list[Json] = [{"name": name, **each} for name, each in PROMPTS.items()]
    if changes["prompts"] % 2:
        prompts.append({"name": "test_prompt_that_comes_and_goes", "description": "Here now and then"})
    return types.ListPromptsResult.model_validate({"prompts": prompts})


async def get_prompt(
    ctx: Context, params: types.GetPromptRequestParams
) -> types.GetPromptResult | types.InputRequiredResult:
    if params.name not in PROMPTS:
        raise MCPError(types.INVALID_PARAMS, f"Unknown prompt: {params.name}")

    async def run(call: Call) -> types.GetPromptResult | types.InputRequiredResult:
        return prompted(params.name, call)

    found: types.GetPromptResult | types.InputRequiredResult = await settled(run, Call.begun(ctx, params.arguments))
    return found


def prompted(name: str, call: Call) -> types.GetPromptResult | types.InputRequiredResult:
    content: list[Json | str] = messages_of(name, call.arguments)
    if name == "test_input_required_result_prompt":
        context = call.accepted("user_context", "context")
        if context is None:
            return asked({"user_context": form("What context should the prompt use?", context={"type": "string"})})
        content = [f"Use this context: {context}"]
    blocks = [{"type": "text", "text": each} if isinstance(each, str) else each for each in content]
    return types.GetPromptResult.model_validate({"messages": [{"role": "user", "content": b} for b in blocks]})


async def list_resources(ctx: Context, params: Any) -> types.ListResourcesResult:
    listed = [
        {
            "uri": uri,
            "name": uri.removeprefix("test://"),
            "description": f"Resource {uri}",
            "mimeType": each["mimeType"],
        }
        for uri, each in RESOURCES.items()
    ]
    return types.ListResourcesResult.model_validate({"resources": listed})


async def list_templates(ctx: Context, params: Any) -> types.ListResourceTemplatesResult:
    template = {
        "uriTemplate": TEMPLATE,
        "name": "data",
        "description": "Data by identity",
        "mimeType": "application/json",
    }
    return types.ListResourceTemplatesResult.model_validate({"resourceTemplates": [template]})


async def read_resource(ctx: Context, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
    contents = contents_of(params.uri)
    if contents is None:
        code = types.INVALID_PARAMS if ctx.protocol_version >= MODERN else -32002
        raise MCPError(code, "Resource not found", {"uri": params.uri})
    return types.ReadResourceResult.model_validate({"contents": [contents]})


async def complete(ctx: Context, params: types.CompleteRequestParams) -> types.CompleteResult:
    values = [word for word in ("paris", "park", "party") if word.startswith(params.argument.value)]
    completion = {"values": values, "total": len(values), "hasMore": False}
    return types.CompleteResult.model_validate({"completion": completion})


async def nothing(ctx: Context, params: Any) -> types.EmptyResult:
    return types.EmptyResult()


class Fixture(Server[Any]):
    """Says on the legacy wire too that its lists change."""

    def create_initialization_options(self, *args: Any, **kwargs: Any) -> Any:
        changes = NotificationOptions(prompts_changed=True, resources_changed=True, tools_changed=True)
        return super().create_initialization_options(changes)


def make_server() -> Server[Any]:
    """The server, ready to be run on any transport."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MCPDeprecationWarning)  # logging/setLevel belongs to the older era
        server = Fixture(
            NAME,
            version="1.0.0",
            instructions="Everything the conformance suite asks for.",
            cache_hints={"resources/read": CacheHint(ttl_ms=1000, scope="private")},
            get_tool_input_schema=lambda name: TOOLS[name].schema if name in TOOLS else None,
            on_list_tools=list_tools,
            on_call_tool=call_tool,
            on_list_prompts=list_prompts,
            on_get_prompt=get_prompt,
            on_list_resources=list_resources,
            on_list_resource_templates=list_templates,
            on_read_resource=read_resource,
            on_subscribe_resource=nothing,
            on_unsubscribe_resource=nothing,
            on_subscriptions_listen=ListenHandler(bus),
            on_completion=complete,
            on_set_logging_level=nothing,
        )
    task_tools.install(server)
    server.middleware.append(RequestStateBoundary(RequestStateSecurity.ephemeral(), default_audience=NAME))
    return server


# --- Servers of one era ----------------------------------------------------------------------------------------------


# What SDKs of 2025 answer to a modern request: they miss a session.
NO_SESSION = types.ErrorData(code=types.INVALID_REQUEST, message="Bad Request: Missing session ID")
# basic/versioning: a modern-only server names its versions to those who try to shake hands.
NO_HANDSHAKE = types.ErrorData(
    code=types.UNSUPPORTED_PROTOCOL_VERSION, message="Unsupported protocol version", data={"supported": [MODERN]}
)


class OfOneEra:
    """Stands before the Streamable HTTP app and turns the other era away."""

    def __init__(self, inner: ASGIApp, era: str) -> None:
        self.inner = inner
        self.is_modern = era == "modern"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.inner(scope, receive, send)
            return
        version = dict(scope["headers"]).get(b"mcp-protocol-version", b"").decode()
        if self.is_modern == (version >= MODERN):
            await self.inner(scope, receive, send)
        elif self.is_modern and scope["method"] != "POST":
            await answer_http(send, 405)
        else:
            error = NO_HANDSHAKE if self.is_modern else NO_SESSION
            body = {"jsonrpc": "2.0", "id": None, "error": error.model_dump(exclude_none=True)}
            await answer_http(send, 400, json.dumps(body).encode())


async def answer_http(send: Send, status: int, body: bytes = b"") -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def no_handshake(ctx: Context, call_next: Any) -> Any:
    """A middleware that turns legacy clients away."""
    if ctx.method == "initialize":
        raise MCPError.from_error_data(NO_HANDSHAKE)
    return await call_next(ctx)


async def serve_http(port: int, era: str) -> None:
    """Listen on 127.0.0.1, print the port, serve until told to stop."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen(128)
        print(listening.getsockname()[1], flush=True)
        app: ASGIApp = make_server().streamable_http_app()
        if era != "both":
            app = OfOneEra(app, era)
        # h11 and not httptools, which leaves blanks after a header's value in place (RFC 9110 section 5.5).
        config = uvicorn.Config(app, http="h11", log_level="warning", timeout_graceful_shutdown=1)
        await uvicorn.Server(config).serve(sockets=[listening])


async def serve_stdio(era: str) -> None:
    server = make_server()
    options = server.create_initialization_options()
    if era == "modern":
        server.middleware.append(no_handshake)
    async with stdio_server() as (read, write):
        if era == "legacy":
            await serve_loop(server, read, write, lifespan_state={}, init_options=options)
        else:
            await server.run(read, write, options)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0: any free one; it is printed")
    parser.add_argument("--stdio", action="store_true")
    parser.add_argument("--era", choices=["legacy", "modern", "both"], default="both")
    options = parser.parse_args(arguments)
    if options.stdio:
        anyio.run(serve_stdio, options.era)
    else:
        anyio.run(serve_http, options.port, options.era)


if __name__ == "__main__":
    warnings.simplefilter("ignore", MCPDeprecationWarning)
    main(sys.argv[1:])
