"""An operator's own detector behind a URL: finds a word of its own in what it is sent, and misbehaves on demand."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

WORD = "grumbleweed"


@dataclass
class Moderator:
    """An ASGI app. It finds `WORD`, with its place, and calls it `abuse`."""

    seen: list[dict[str, Any]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    status: int = 200
    answer: Any = None
    """What it answers in place of what it found."""
    score: float = 0.9
    gate: asyncio.Event | None = None
    """What it waits for before it answers."""
    at_once: int = 0
    most_at_once: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = await Request(scope, receive).body()
        self.headers.append({name.decode(): value.decode() for name, value in scope["headers"]})
        self.bodies.append(body)
        self.seen.append(json.loads(body))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        if self.gate is not None:
            await self.gate.wait()
        self.at_once -= 1
        answer = self.found(self.seen[-1]["texts"]) if self.answer is None else self.answer
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": data})

    def found(self, texts: list[str]) -> Any:
        findings = []
        for number, text in enumerate(texts):
            at = text.find(WORD)
            if at >= 0:
                place = {"start": at, "end": at + len(WORD)}
                findings.append({"text": number, "kind": "abuse", "score": self.score, **place})
        return {"findings": findings}

    @property
    def texts(self) -> list[str]:
        """All it was ever asked about."""
        return [text for asked in self.seen for text in asked["texts"]]
