"""MCP's `sampling/createMessage` in the words of a model's wire, and the model's answer in MCP's.

What cannot be carried is refused, never left out: an answer to half a question would be taken for an answer. Whoever
asks is an upstream, so nothing in here is trusted: `includeContext` and `metadata` go nowhere. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

from mcp_gateway.domain import Json
from mcp_gateway.errors import AgentRefused, Misbehaved

INVALID: Final = -32602
MAX_MESSAGES: Final = 500
_ROLES: Final = ("user", "assistant")
_TOOL_CHOICE: Final = {"auto": "auto", "required": "any", "none": "none"}
_AUDIO: Final = {"audio/wav": "wav", "audio/x-wav": "wav", "audio/mpeg": "mp3", "audio/mp3": "mp3"}
_OPENAI_STOPS: Final = {"stop": "endTurn", "length": "maxTokens", "tool_calls": "toolUse", "content_filter": "refusal"}
_ANTHROPIC_STOPS: Final = {
    "end_turn": "endTurn",
    "stop_sequence": "stopSequence",
    "max_tokens": "maxTokens",
    "model_context_window_exceeded": "maxTokens",
    "tool_use": "toolUse",
}


def checked(params: Mapping[str, Any]) -> list[tuple[str, list[Json]]]:
    """The messages as (role, blocks). Raises `AgentRefused` for a conversation that breaks MCP's rules."""
    messages = params.get("messages")
    if not isinstance(messages, list) or not 0 < len(messages) <= MAX_MESSAGES:
        raise _invalid("messages must be a list that is neither empty nor endless")
    conversation = [(_role(message), list(_blocks(message.get("content")))) for message in messages]
    _check_tool_results(conversation)
    return conversation


def to_openai(params: Mapping[str, Any], model: str, max_tokens: int) -> Json:
    """The body of a chat completion. Raises `AgentRefused`."""
    messages: list[Json] = []
    if system := params.get("systemPrompt"):
        messages.append({"role": "system", "content": _text(system)})
    for role, blocks in checked(params):
        messages += _openai_messages(role, blocks)
    body: Json = {"model": model, "messages": messages, "max_completion_tokens": max_tokens}
    body |= _common(params, "stop")
    if tools := _tools(params):
        body["tools"] = [{"type": "function", "function": {**_named(t), "parameters": t["inputSchema"]}} for t in tools]
        if mode := _tool_mode(params):
            body["tool_choice"] = mode
    return body


def to_anthropic(params: Mapping[str, Any], model: str, max_tokens: int) -> Json:
    """The body of a message. Raises `AgentRefused`."""
    messages = [
        {"role": role, "content": [_anthropic_block(block) for block in blocks]} for role, blocks in checked(params)
    ]
    body: Json = {"model": model, "max_tokens": max_tokens, "messages": messages}
    if system := params.get("systemPrompt"):
        body["system"] = _text(system)
    body |= _common(params, "stop_sequences")
    if tools := _tools(params):
        body["tools"] = [{**_named(tool), "input_schema": tool["inputSchema"]} for tool in tools]
        if mode := _tool_mode(params):
            body["tool_choice"] = {"type": _TOOL_CHOICE[mode]}
    return body


def from_openai(answer: Mapping[str, Any], *, has_tools: bool) -> Json:
    """The result of `sampling/createMessage`. Raises `Misbehaved` for an answer that is none."""
    choice = (answer.get("choices") or [None])[0]
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise Misbehaved("", "the model's answer holds no message")
    blocks: list[Json] = []
    if text := message.get("content") or message.get("refusal"):
        blocks.append({"type": "text", "text": _said(text)})
    blocks += [_tool_use(call) for call in message.get("tool_calls") or ()]
    stop = "refusal" if message.get("refusal") else _OPENAI_STOPS.get(str(choice.get("finish_reason")), "endTurn")
    return _result(blocks, answer, stop, has_tools=has_tools)


def from_anthropic(answer: Mapping[str, Any], *, has_tools: bool) -> Json:
    """The result of `sampling/createMessage`. Raises `Misbehaved` for an answer that is none."""
    content = answer.get("content")
    if not isinstance(content, list):
        raise Misbehaved("", "the model's answer holds no content")
    blocks: list[Json] = []
    for block in content:
        if block.get("type") == "text":
            blocks.append({"type": "text", "text": block.get("text", "")})
        elif block.get("type") == "tool_use":
            use = {"type": "tool_use", "id": block.get("id"), "name": block.get("name"), "input": block.get("input")}
            blocks.append(use)
    stop = str(answer.get("stop_reason"))
    return _result(blocks, answer, _ANTHROPIC_STOPS.get(stop, stop), has_tools=has_tools)


def _result(blocks: list[Json], answer: Mapping[str, Any], stop: str, *, has_tools: bool) -> Json:
    """One block by itself where no tools were given, as revisions before tools know it; a list otherwise."""
    content: Any = blocks if has_tools else (blocks[0] if blocks else {"type": "text", "text": ""})
    return {"role": "assistant", "content": content, "model": str(answer.get("model", "")), "stopReason": stop}


def _role(message: Any) -> str:
    role = message.get("role") if isinstance(message, dict) else None
    if role not in _ROLES:
        raise _invalid("every message needs the role user or assistant")
    return str(role)


def _blocks(content: Any) -> Iterator[Json]:
    for block in content if isinstance(content, list) else [content]:
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise _invalid("every message needs content with a type")
        yield block


def _check_tool_results(conversation: list[tuple[str, list[Json]]]) -> None:
    """Every use of a tool is answered once, in the next message, which holds nothing else."""
    open_ids: list[Any] = []
    for role, blocks in conversation:
        answered = [block.get("toolUseId") for block in blocks if block["type"] == "tool_result"]
        if answered and (role != "user" or len(answered) != len(blocks)):
            raise _invalid("a message with tool results holds nothing else")
        if sorted(map(str, answered)) != sorted(map(str, open_ids)):
            raise _invalid("every tool use must be answered once, in the next message")
        open_ids = [block.get("id") for block in blocks if block["type"] == "tool_use"]
    if open_ids:
        raise _invalid("a tool use has no answer")


def _openai_messages(role: str, blocks: list[Json]) -> Iterator[Json]:
    for block in blocks:
        if block["type"] == "tool_result":
            yield {"role": "tool", "tool_call_id": block.get("toolUseId"), "content": _result_text(block)}
    parts = [_openai_part(block) for block in blocks if block["type"] not in ("tool_result", "tool_use")]
    calls = [_openai_call(block) for block in blocks if block["type"] == "tool_use"]
    if calls:
        yield {"role": role, "content": parts or None, "tool_calls": calls}
    elif parts:
        yield {"role": role, "content": parts}


def _openai_part(block: Json) -> Json:
    if block["type"] == "text":
        return {"type": "text", "text": _text(block.get("text"))}
    if block["type"] == "image":
        url = f"data:{_text(block.get('mimeType'))};base64,{_text(block.get('data'))}"
        return {"type": "image_url", "image_url": {"url": url}}
    form = _AUDIO.get(str(block.get("mimeType")))
    if block["type"] == "audio" and form:
        return {"type": "input_audio", "input_audio": {"data": _text(block.get("data")), "format": form}}
    raise _invalid(f"content of type {block['type']:.40} cannot be given to this model")


def _openai_call(block: Json) -> Json:
    arguments = orjson.dumps(block.get("input") or {}).decode()
    return {"id": block.get("id"), "type": "function", "function": {"name": block.get("name"), "arguments": arguments}}


def _result_text(block: Json) -> str:
    """A tool's result as the one text that this wire has for it."""
    texts = [part.get("text", "") for part in block.get("content") or () if part.get("type") == "text"]
    if len(texts) != len(block.get("content") or ()):
        raise _invalid("results of tools that are no text cannot be given to this model")
    if not texts and block.get("structuredContent") is not None:
        texts = [orjson.dumps(block["structuredContent"]).decode()]
    return ("Error: " if block.get("isError") else "") + "\n".join(texts)


def _anthropic_block(block: Json) -> Json:
    match block["type"]:
        case "text":
            return {"type": "text", "text": _text(block.get("text"))}
        case "image":
            source = {"type": "base64", "media_type": block.get("mimeType"), "data": _text(block.get("data"))}
            return {"type": "image", "source": source}
        case "tool_use":
            return {"type": "tool_use", "id": block.get("id"), "name": block.get("name"), "input": block.get("input")}
        case "tool_result":
            content = [_anthropic_block(part) for part in block.get("content") or ()]
            if not content and block.get("structuredContent") is not None:
                content = [{"type": "text", "text": orjson.dumps(block["structuredContent"]).decode()}]
            is_error = {"is_error": True} if block.get("isError") else {}
            return {"type": "tool_result", "tool_use_id": block.get("toolUseId"), "content": content, **is_error}
    raise _invalid(f"content of type {block['type']:.40} cannot be given to this model")


def _tool_use(call: Any) -> Json:
    function = call.get("function") if isinstance(call, dict) else None
    try:
        arguments = orjson.loads(function["arguments"] or b"{}")  # type: ignore[index]
    except (orjson.JSONDecodeError, KeyError, TypeError) as e:
        raise Misbehaved("", "the model called a tool with arguments that are no JSON") from e
    if not isinstance(arguments, dict) or not isinstance(function, dict):
        raise Misbehaved("", "the model called a tool with arguments that are no object")
    return {"type": "tool_use", "id": call.get("id"), "name": function.get("name"), "input": arguments}


def _common(params: Mapping[str, Any], stop_member: str) -> Json:
    common: Json = {}
    if isinstance(params.get("temperature"), (int, float)):
        common["temperature"] = params["temperature"]
    stops = params.get("stopSequences")
    if stops:
        if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
            raise _invalid("stopSequences must be a list of strings")
        common[stop_member] = stops[:4] if stop_member == "stop" else stops
    return common


def _tools(params: Mapping[str, Any]) -> list[Json]:
    tools = params.get("tools") or []
    is_good = isinstance(tools, list) and all(
        isinstance(tool, dict) and isinstance(tool.get("name"), str) and isinstance(tool.get("inputSchema"), dict)
        for tool in tools
    )
    if not is_good:
        raise _invalid("tools must be a list of tools, each with a name and an inputSchema")
    return list(tools)


def _named(tool: Json) -> Json:
    description = tool.get("description")
    return {"name": tool["name"], **({"description": description} if isinstance(description, str) else {})}


def _tool_mode(params: Mapping[str, Any]) -> str:
    choice = params.get("toolChoice")
    mode = choice.get("mode") if isinstance(choice, dict) else None
    if mode is not None and mode not in _TOOL_CHOICE:
        raise _invalid("toolChoice.mode must be auto, required or none")
    return str(mode) if mode else ""


def _said(content: Any) -> str:
    """Text of an answer, which some servers send in parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _invalid("text must be a string")
    return value


def _invalid(message: str) -> AgentRefused:
    return AgentRefused(INVALID, message)
