"""`asking_stdio`, but for what it lists: `python asking_listed.py TOOL` offers that tool, written as JSON."""

import json
import sys
from typing import Any

from asking_stdio import said, send


def main(tool: dict[str, Any]) -> None:
    asked_for: dict[str, Any] = {}
    for line in sys.stdin:
        message = json.loads(line)
        method, id_ = message.get("method"), message.get("id")
        if method is None:
            said(asked_for.pop(id_), str(message.get("result", {}).get("content", {}).get("name", "nobody")))
        elif method == "initialize":
            about = {"capabilities": {"tools": {}}, "serverInfo": {"name": "asking", "version": "1"}}
            send(id=id_, result={"protocolVersion": "2025-11-25", **about})
        elif method == "tools/list":
            send(id=id_, result={"tools": [tool]})
        elif method == "tools/call":
            asked_for[f"q{id_}"] = id_
            form = {"type": "object", "properties": {"name": {"type": "string"}}}
            send(id=f"q{id_}", method="elicitation/create", params={"message": "Name?", "requestedSchema": form})
        elif id_ is not None:
            send(id=id_, error={"code": -32601, "message": "Method not found"})


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
