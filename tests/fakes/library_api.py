"""A plain HTTP API that says how long its answers are good for, and knows its own again."""

import json
from collections import Counter
from dataclasses import dataclass, field

import anyio
from starlette.types import Receive, Scope, Send


@dataclass
class LibraryApi:
    """ASGI. GET tells a book's edition, anything else makes a new one; `status` is what it fails with, if it does."""

    cache_control: str = "public, max-age=60"
    more: dict[str, str] = field(default_factory=dict)
    """More headers."""
    status: int = 0
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path and `If-None-Match` of each request."""
    editions: Counter[str] = field(default_factory=Counter)
    note: str = ""
    """Stands in every answer."""
    is_silent: bool = False
    """Changes are made and never answered."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        method, path, known = scope["method"], scope["raw_path"].decode(), headers.get("if-none-match", "")
        self.asked.append((method, path, known))
        if method not in ("GET", "HEAD"):
            self.editions[path] += 1
            if self.is_silent:
                await anyio.sleep_forever()
        tag = f'"{self.editions[path]}"'
        status = self.status or (304 if known == tag else 200)
        said = {"content-type": "application/json", "cache-control": self.cache_control, "etag": tag, **self.more}
        body = json.dumps({"path": path, "edition": self.editions[path], "note": self.note}).encode()
        body = b"" if status == 304 or method == "HEAD" else body
        lines = [(name.encode(), value.encode()) for name, value in said.items()]
        lines += [(b"content-length", str(len(body)).encode())] if status != 304 else []
        await send({"type": "http.response.start", "status": status, "headers": lines})
        await send({"type": "http.response.body", "body": body})
