"""A stdio server of the handshake era that offers whatever a JSON file says now, and tells when that changed.

python changing_stdio.py FILE       FILE: {"tools": [...], "prompts": [...], "instructions": "..."}
"""

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

FILE = Path(sys.argv[1])


def say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def offered() -> dict[str, Any]:
    return dict(json.loads(FILE.read_text()))


def tell_changes() -> None:
    seen = FILE.read_text()
    while True:
        time.sleep(0.02)
        if (now := FILE.read_text()) != seen:
            seen = now
            say({"method": "notifications/tools/list_changed"})


def answer(method: str, params: dict[str, Any]) -> dict[str, Any]:
    if method == "initialize":
        capabilities = {"tools": {"listChanged": True}, "prompts": {}}
        info = {"name": "changing", "version": "1"}
        return {
            "protocolVersion": params["protocolVersion"],
            "capabilities": capabilities,
            "serverInfo": info,
            "instructions": offered().get("instructions", ""),
        }
    if method == "tools/list":
        return {"tools": offered()["tools"]}
    if method == "prompts/list":
        return {"prompts": offered().get("prompts", [])}
    if method == "tools/call":
        return {"content": [{"type": "text", "text": json.dumps(params)}]}
    return {}


def main() -> None:
    threading.Thread(target=tell_changes, daemon=True).start()
    for line in sys.stdin:
        message = json.loads(line)
        if message.get("method") == "server/discover":
            say({"id": message["id"], "error": {"code": -32601, "message": "Method not found"}})
        elif "id" in message:
            say({"id": message["id"], "result": answer(message["method"], message.get("params") or {})})


if __name__ == "__main__":
    main()
