"""A legacy stdio server that misbehaves on request: `python hostile_stdio.py [HABIT...]`; its tools do the rest.

Only the standard library, so that it starts in some 20 ms. Habits: `exits`, `silent` (about server/discover),
`dies-of-probe`, `stubborn` (ignores SIGTERM and the end of its input), `banner`, `cursor-loop`, `endless-pages`,
`bad-tools`, `asks` (a question with each call), `no-ping`, `no-levels`, `lists-all` (its tools, besides `echo`). Each
tool is a function `tool_NAME`; any other name echoes its arguments.
"""

import json
import os
import signal
import sys
import time

HABITS = set(sys.argv[1:])
METHODS_SEEN = []
CANCELLED = []


def send(**message):
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def send_bytes(data):
    sys.stdout.buffer.write(data)
    sys.stdout.flush()


def send_text(request_id, said):
    send(id=request_id, result={"content": [{"type": "text", "text": said}]})


def send_progress(token, value):
    send(method="notifications/progress", params={"progressToken": token, "progress": value})


def sleep_for_ever():
    while True:
        time.sleep(60)


def tool_die(request_id, token):
    sys.stderr.write(f"dying with {os.environ.get('SECRET_TOKEN')}\n")
    sys.stderr.flush()
    os._exit(3)


def tool_stop(request_id, token):
    os.kill(os.getpid(), signal.SIGSTOP)


def tool_close_stdout(request_id, token):
    os.close(1)
    sleep_for_ever()


def tool_flood_stdout(request_id, token):
    while True:
        send_bytes(b"this is no message " * 50 + b"\n")


def tool_flood_stderr(request_id, token):
    for _ in range(200):
        os.write(2, b"x" * 65536)
    send_text(request_id, "flooded")


def tool_giant_line(request_id, token):
    while True:
        send_bytes(b"x" * 65536)


def tool_never(request_id, token):
    pass


def tool_deaf(request_id, token):
    send_text(request_id, "not listening any more")
    sleep_for_ever()


def tool_progress_forever(request_id, token):
    for step in range(1, 10**9):
        send_progress(token, step)
        time.sleep(0.005)


def tool_odd_progress(request_id, token):
    for value in (1, 1, 0.5, True, "2", None, 2):
        send_progress(token, value)
    for strange in (token + 1000, str(token), True, None, token * 1.0):
        send_progress(strange, 99)
    send_text(request_id, "done")
    send_progress(token, 100)


def tool_wrong_ids(request_id, token):
    for wrong in (request_id + 1000, str(request_id), True, None, request_id * 1.0, [request_id]):
        send_text(wrong, "wrong")
    send_text(request_id, "right")
    send_text(request_id, "twice")


def tool_bad_utf8(request_id, token):
    send_bytes(b'{"jsonrpc":"2.0","id":%d,"result":{"x":"\xff\xfe"}}\n' % request_id)


def tool_twice_named(request_id, token):
    send_bytes(b'{"jsonrpc":"2.0","id":%d,"result":{"a":1,"a":2}}\n' % request_id)


def tool_result_is_list(request_id, token):
    send(id=request_id, result=[])


def tool_error(request_id, token):
    send(id=request_id, error={"code": -32602, "message": "no such thing", "data": {"x": None}})


def tool_tool_error(request_id, token):
    send(id=request_id, result={"content": [], "isError": True})


def tool_odd_fields(request_id, token):
    send(id=request_id, result={"content": [], "x-unknown": {"a": None}, "structuredContent": None})


def tool_env(request_id, token):
    send_text(request_id, json.dumps(dict(os.environ)))


def tool_fds(request_id, token):
    send_text(request_id, json.dumps(sorted(int(fd) for fd in os.listdir("/proc/self/fd"))))  # noqa: PTH208


def tool_pids(request_id, token):
    send_text(request_id, json.dumps([os.getpid(), os.getpgid(0), os.getcwd()]))  # noqa: PTH109


def tool_fork(request_id, token):
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sleep_for_ever()
    send_text(request_id, str(pid))


def tool_logs(request_id, token):
    for level in ("debug", "error"):
        send(method="notifications/message", params={"level": level, "data": level})
    send_text(request_id, "logged")


def tool_changed(request_id, token):
    send(method="notifications/tools/list_changed")
    send_text(request_id, "changed")


def tool(name):
    return {"name": name, "inputSchema": {"type": "object"}}


def method_discover(request_id, params):
    if "dies-of-probe" in HABITS:
        os._exit(4)
    if "silent" not in HABITS:
        refuse(request_id, params)


def method_initialize(request_id, params):
    capabilities = {"tools": {"listChanged": True}, "logging": {}}
    info = {"name": "hostile", "version": "1"}
    about = {"protocolVersion": "2025-06-18", "serverInfo": info, "instructions": "beware"}
    send(id=request_id, result={**about, "capabilities": capabilities})


def method_list(request_id, params):
    page = {"tools": [tool(name) for name in ["echo", *CANCELLED]]}
    if "lists-all" in HABITS:
        page["tools"] += [tool(name.removeprefix("tool_")) for name in globals() if name.startswith("tool_")]
    elif "cursor-loop" in HABITS:
        page = {"tools": [tool(f"t{params.get('cursor', '')}")], "nextCursor": "same"}
    elif "endless-pages" in HABITS:
        number = int(params.get("cursor", "0"))
        page = {"tools": [tool(f"t{number}")], "nextCursor": str(number + 1)}
    elif "bad-tools" in HABITS:
        bad = [{"inputSchema": {"type": "object"}}, {"name": "no schema"}, {"name": "noschema"}, "tool", tool("a b")]
        page = {"tools": [*bad, tool("good"), tool("good"), {**tool("odd"), "x-new": None}]}
    send(id=request_id, result=page)


def method_call(request_id, params):
    if "asks" in HABITS:
        send(id="q1", method="sampling/createMessage", params={"messages": []})
    act = globals().get(f"tool_{params['name']}")
    if act is None:
        send_text(request_id, json.dumps(params.get("arguments", {})))
    else:
        act(request_id, params.get("_meta", {}).get("progressToken"))


def method_ping(request_id, params):
    if "no-ping" not in HABITS:
        send(id=request_id, result={})


def method_set_level(request_id, params):
    METHODS_SEEN.append(params["level"])
    if "no-levels" in HABITS:
        return
    send(id=request_id, result={})


def method_seen(request_id, params):
    send(id=request_id, result={"methods": METHODS_SEEN})


def method_cancelled(request_id, params):
    CANCELLED.append(f"cancelled-{params['requestId']}")


def refuse(request_id, params):
    if request_id is not None:
        send(id=request_id, error={"code": -32601, "message": "unknown"})


METHODS = {
    "server/discover": method_discover,
    "initialize": method_initialize,
    "tools/list": method_list,
    "tools/call": method_call,
    "ping": method_ping,
    "logging/setLevel": method_set_level,
    "notifications/cancelled": method_cancelled,
    "test/methods": method_seen,
}


def main():
    if "exits" in HABITS:
        sys.exit(5)
    if "stubborn" in HABITS:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "banner" in HABITS:
        sys.stdout.write('Welcome!\n\n{not json}\n[1,2]\n"text"\n')
    for line in sys.stdin:
        message = json.loads(line)
        if "method" in message:
            METHODS_SEEN.append(message["method"])
            METHODS.get(message["method"], refuse)(message.get("id"), message.get("params", {}))
        else:
            METHODS_SEEN.append(json.dumps(message.get("error") or message.get("result")))
    if "stubborn" in HABITS:
        sleep_for_ever()


main()
