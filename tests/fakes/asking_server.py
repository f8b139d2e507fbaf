"""The conformance fixture with more tools that ask back, in either era: `python asking_server.py` and its options."""

import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio
import conformance_server
from conformance_server import ROOTS, Answer, Call, Json, asked, form, main, said, sampling, settled, text_of, tool

ended: list[str] = []
LINK = "https://u.example/consent?for=1"


def link(url: str, **more: str) -> Json:
    return {"method": "elicitation/create", "params": {"mode": "url", "message": "Please go there", "url": url, **more}}


async def noting_its_end(run: Callable[[Call], Awaitable[Any]], call: Call) -> Any:
    try:
        return await settled(run, call)
    except BaseException:  # cancelled, or told first that nobody answers its question
        ended.append("a call")
        raise


conformance_server.settled = noting_its_end


@tool("form", "Asks a person for a name")
async def _(call: Call) -> Answer:
    if "name" not in call.responses:
        return asked({"name": form("Your name?", name={"type": "string"})})
    return said(f"{call.responses['name']['action']}: {call.accepted('name', 'name')}")


@tool("link", "Sends a person to a page", {"type": "object", "properties": {"url": {"type": "string"}}})
async def _(call: Call) -> Answer:
    if "page" not in call.responses:
        old = {} if call.is_modern else {"elicitationId": "e-1"}
        return asked({"page": link(str(call.arguments.get("url", LINK)), **old)})
    return said(f"page: {call.responses['page']['action']}")


@tool("sample", "Asks the agent's model")
async def _(call: Call) -> Answer:
    if "model" not in call.responses:
        return asked({"model": sampling("What is the capital of France?")})
    return said(f"model: {text_of(call.responses['model'])}")


@tool("roots", "Asks for the agent's roots")
async def _(call: Call) -> Answer:
    if "roots" not in call.responses:
        return asked({"roots": ROOTS})
    return said(f"roots: {[root['uri'] for root in call.responses['roots']['roots']]}")


@tool("three_at_once", "Asks three things at once, with a state")
async def _(call: Call) -> Answer:
    requests = {
        "name": form("Your name?", name={"type": "string"}),
        "model": sampling("Generate a greeting"),
        "roots": ROOTS,
    }
    if call.state != "three":
        return asked(requests, "three")
    assert call.responses.keys() == requests.keys()
    return said(f"{call.accepted('name', 'name')}, {text_of(call.responses['model'])}")


@tool("twice", "Asks twice, one after the other, with a state", {"type": "object", "properties": {"n": {}}})
async def _(call: Call) -> Answer:
    if call.state is None:
        return asked({"first": form("First?", name={"type": "string"})}, "asked first")
    if call.state == "asked first":
        first = call.accepted("first", "name")
        return asked({"second": form("Second?", name={"type": "string"})}, f"asked second: {first}")
    return said(f"{call.state.removeprefix('asked second: ')}, {call.accepted('second', 'name')}")


@tool("for_ever", "Never stops asking")
async def _(call: Call) -> Answer:
    return asked({"again": form("Again?", name={"type": "string"})}, "again")


@tool("work_on", "Asks, then works for some seconds", {"type": "object", "properties": {"seconds": {"type": "number"}}})
async def _(call: Call) -> Answer:
    if "name" not in call.responses:
        return asked({"name": form("Your name?", name={"type": "string"})})
    await anyio.sleep(call.arguments["seconds"])
    return said(f"worked for {call.accepted('name', 'name')}")


@tool("capabilities", "Tells what it was told that the agent can do")
async def _(call: Call) -> Answer:
    capabilities = call.context.session.client_capabilities
    told: Mapping[str, object] = capabilities.model_dump(by_alias=True, exclude_none=True) if capabilities else {}
    return said(json.dumps(told, sort_keys=True))


@tool("ended", "Tells how many calls ended without an answer")
async def _(call: Call) -> Answer:
    return said(str(len(ended)))


@tool("end", "Ends the process while others wait")
async def _(call: Call) -> Answer:
    os._exit(3)


@tool("pid", "Tells its process")
async def _(call: Call) -> Answer:
    return said(str(os.getpid()))


if __name__ == "__main__":
    main(sys.argv[1:])
