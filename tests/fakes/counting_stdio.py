"""A stdio server of either era that writes down every request it gets: `python counting_stdio.py LOG [HABIT...]`.

Only the standard library. It offers everything MCP has, half of it bearing the mark `zanzibar` in every text a list
could show. Habits: `legacy` (no server/discover), `vault` (all it offers bears the mark), `bulk` (1100 tools more),
`storm` (says without end that its tools changed, and they have), `tools-only` (no resources, which would be another
server's).
"""

import json
import sys
import threading
import time

MARK = "zanzibar"
LOG = open(sys.argv[1], "a", buffering=1)  # noqa: SIM115, PTH123  open as long as the process
HABITS = set(sys.argv[2:])
EXTENSION = "io.modelcontextprotocol/tasks"
JOBS = set()


def send(**message):
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def marked(name, text=""):
    return f"{text} {MARK}".strip() if "hidden" in name or "vault" in HABITS else text or "plain"


def tool(name, **properties):
    schema = {"type": "object", "properties": {key: {"type": "string", **more} for key, more in properties.items()}}
    does = f"does it {time.monotonic()}" if "storm" in HABITS else "does it"
    return {"name": name, "title": marked(name), "description": marked(name, does), "inputSchema": schema}


def tools():
    found = [tool("open"), tool("depends", path={}), tool("bobs"), tool("job"), tool("ask"), tool("rest")]
    found += [tool("hidden"), tool("hidden_header", region={"x-mcp-header": "Region"})]
    if "bulk" in HABITS:
        found += [tool(f"bulk_{number:04}") for number in range(1100)]
    return found


def owned(*uris):
    return [] if "tools-only" in HABITS else uris


def named(*names, key="name"):
    return [{key: name, "name": name, "description": marked(name)} for name in names]


def method_discover(params):
    if "legacy" in HABITS:
        return None
    return {"supportedVersions": ["2026-07-28"], **about()}


def method_initialize(params):
    info = {"name": marked("server"), "version": "1"}
    return {"protocolVersion": "2025-06-18", "serverInfo": info, **about()}


def about():
    kinds = {"tools": {}, "prompts": {}, "resources": {"subscribe": True}, "completions": {}, "logging": {}}
    kinds["tools"] = {"listChanged": True} if "storm" in HABITS else {}
    return {"capabilities": {**kinds, "extensions": {EXTENSION: {}}}, "instructions": marked("server", "Ask for it.")}


def call(params):
    name = params["name"]
    meta = params.get("_meta", {})
    if name == "job":
        JOBS.add(f"job-{len(JOBS)}")
        return {"resultType": "task", **job(f"job-{len(JOBS) - 1}")}
    if name == "ask" and not params.get("inputResponses"):
        form = {"mode": "form", "message": "?", "requestedSchema": {"type": "object", "properties": {}}}
        asked = {"q": {"method": "elicitation/create", "params": form}}
        return {"resultType": "input_required", "inputRequests": asked, "requestState": "s"}
    said = json.dumps({"arguments": params.get("arguments"), "inputs": params.get("inputResponses"), "meta": meta})
    return {"content": [{"type": "text", "text": said}], "resultType": "complete"}


def job(name):
    times = {"createdAt": "2026-01-01T00:00:00Z", "lastUpdatedAt": "2026-01-01T00:00:00Z", "ttlMs": 60000}
    return {"taskId": name, "status": "working", "pollIntervalMs": 1000, **times}


METHODS = {
    "server/discover": method_discover,
    "initialize": method_initialize,
    "ping": lambda params: {},
    "tools/list": lambda params: {"tools": tools()},
    "prompts/list": lambda params: {"prompts": named("open", "hidden", "bobs")},
    "resources/list": lambda params: {
        "resources": named(*owned("note:///open", "note:///hidden", "note:///bobs"), key="uri")
    },
    "resources/templates/list": lambda params: {
        "resourceTemplates": named(*owned("shelf:///open/{id}", "shelf:///hidden/{id}"), key="uriTemplate")
    },
    "tools/call": call,
    "prompts/get": lambda params: {"messages": []},
    "resources/read": lambda params: {"contents": [{"uri": params["uri"], "text": "read"}]},
    "resources/subscribe": lambda params: {},
    "resources/unsubscribe": lambda params: {},
    "completion/complete": lambda params: {"completion": {"values": ["one"]}},
    "logging/setLevel": lambda params: {},
    "tasks/get": lambda params: {"resultType": "complete", **job(params["taskId"])},
    "tasks/update": lambda params: {"resultType": "complete"},
    "tasks/cancel": lambda params: {"resultType": "complete"},
}


def storm():
    while True:
        time.sleep(0.05)
        send(method="notifications/tools/list_changed")


def main():
    if "storm" in HABITS:
        threading.Thread(target=storm, daemon=True).start()
    for line in sys.stdin:
        message = json.loads(line)
        LOG.write(json.dumps(message) + "\n")
        if "id" not in message or "method" not in message:
            continue
        answer = METHODS.get(message["method"], lambda params: None)(message.get("params") or {})
        if message["method"] == "subscriptions/listen":
            told = {"notifications": message["params"].get("notifications", {}), "_meta": {}}
            told["_meta"]["io.modelcontextprotocol/subscriptionId"] = message["id"]
            send(method="notifications/subscriptions/acknowledged", params=told)
        elif answer is None:
            send(id=message["id"], error={"code": -32601, "message": "unknown"})
        else:
            send(id=message["id"], result=answer)


main()
