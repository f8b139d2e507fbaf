"""A handshake-era server over stdio that asks a person for a name in the middle of a call; no SDK, so it starts fast.

`--only-once FILE`: a second process of it ends at once, as servers do that hold a lock.
"""

import json
import os
import sys
from typing import Any


def command(*arguments: str) -> tuple[str, ...]:
    """How it is started."""
    return (sys.executable, "-S", __file__, *arguments)


def send(**message: Any) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["--only-once"]:
        os.close(os.open(arguments[1], os.O_CREAT | os.O_EXCL))
    asked_for: dict[str, Any] = {}
    for line in sys.stdin:
        message = json.loads(line)
        method, id_ = message.get("method"), message.get("id")
        if method is None:
            said(asked_for.pop(id_), str(message.get("result", {}).get("content", {}).get("name", "nobody")))
        elif method == "initialize":
            info = {"name": "asking", "version": "1"}
            send(
                id=id_,
                result={"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info},
            )
        elif method == "tools/call" and message["params"]["name"] == "ask":
            asked_for[f"q{id_}"] = id_
            form = {"type": "object", "properties": {"name": {"type": "string"}}}
            send(id=f"q{id_}", method="elicitation/create", params={"message": "Name?", "requestedSchema": form})
        elif method == "tools/call":
            said(id_, str(os.getpid()))
        elif id_ is not None:
            send(id=id_, error={"code": -32601, "message": "Method not found"})


def said(id_: Any, text: str) -> None:
    send(id=id_, result={"content": [{"type": "text", "text": text}]})


if __name__ == "__main__":
    main(sys.argv[1:])
