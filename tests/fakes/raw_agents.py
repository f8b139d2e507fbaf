"""Agents that say exactly what a test wants over either transport, and keep every byte they are sent."""

from __future__ import annotations

import http.client
import json
import os
import select
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fakes.gateway_process import MCP_GATEWAY

Json = dict[str, Any]

MODERN = "2026-07-28"
LEGACY = "2025-11-25"
ACCEPT = "application/json, text/event-stream"
WITHIN_S = 15.0
TASKS = {"extensions": {"io.modelcontextprotocol/tasks": {}}}
_NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}


@dataclass(frozen=True)
class Said:
    """What came back: the HTTP status (200 on stdio), the answer's own bytes."""

    status: int
    body: bytes

    @property
    def message(self) -> Json:
        return dict(json.loads(self.body))


def envelope(capabilities: Json) -> Json:
    return {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": capabilities,
        "io.modelcontextprotocol/clientInfo": {"name": "raw", "version": "1"},
    }


def request(era: str, method: str, params: Json, id_: Any, capabilities: Json) -> Json:
    """A request in its era's envelope."""
    if era == "modern":
        params = {**params, "_meta": {**envelope(capabilities), **params.get("_meta", {})}}
    return {"jsonrpc": "2.0", "id": id_, "method": method, "params": params}


class HttpAgent:
    """One agent with one key; a handshake in the legacy era. One connection for each request."""

    transport = "http"

    def __init__(self, url: str, key: str, era: str, *, path: str = "", capabilities: Json | None = None) -> None:
        parts = urlsplit(url)
        self.era = era
        self.heard = bytearray()
        self.session = ""
        self.capabilities = capabilities or {}
        self._host, self._port, self._path = parts.hostname or "", parts.port or 80, parts.path + path
        self._key = key
        if era == "legacy":
            hello = {"protocolVersion": LEGACY, "capabilities": self.capabilities, "clientInfo": {"name": "raw"}}
            self.hello = self.ask("initialize", hello)

    def ask(self, method: str, params: Json | None = None, id_: Any = 7, **headers: str) -> Said:
        """One request and its answer; `headers` are added or, where empty, left out."""
        message = request(self.era, method, params or {}, id_, self.capabilities)
        return self.post(json.dumps(message).encode(), {**self._mirrors(message), **headers})

    def end(self) -> int:
        """End its session, and what hangs in it; the HTTP status."""
        headers = {"authorization": f"Bearer {self._key}", "mcp-session-id": self.session}
        connection = http.client.HTTPConnection(self._host, self._port, timeout=WITHIN_S)
        try:
            connection.request("DELETE", self._path, headers=headers)
            return connection.getresponse().status
        finally:
            connection.close()

    def post(self, body: bytes, headers: Mapping[str, str]) -> Said:
        """POST bytes with the usual headers."""
        usual = {"authorization": f"Bearer {self._key}", "content-type": "application/json", "accept": ACCEPT}
        if self.session:
            usual["mcp-session-id"] = self.session
        sent = {name.replace("_", "-"): value for name, value in {**usual, **headers}.items()}
        connection = http.client.HTTPConnection(self._host, self._port, timeout=WITHIN_S)
        try:
            connection.request("POST", self._path, body, {name: value for name, value in sent.items() if value})
            response = connection.getresponse()
            self.session = self.session or response.getheader("mcp-session-id", "")
            data = response.read()
            self.heard += str(response.getheaders()).encode() + data
            if (response.getheader("content-type") or "").startswith("text/event-stream"):
                data = [line[6:] for line in data.splitlines() if line.startswith(b"data: ")][-1]
            return Said(response.status, data)
        finally:
            connection.close()

    def _mirrors(self, message: Json) -> dict[str, str]:
        method = message["method"]
        if self.era == "legacy":
            return {} if method == "initialize" else {"mcp_protocol_version": LEGACY}
        named = message["params"].get(_NAMED.get(method, ""), message["params"].get("taskId", ""))
        return {"mcp_protocol_version": MODERN, "mcp_method": method, "mcp_name": str(named)}


@dataclass
class StdioAgent:
    """One agent that started its gateway itself; both eras may share the process."""

    process: subprocess.Popen[bytes]
    era: str
    capabilities: Json = field(default_factory=dict)
    heard: bytearray = field(default_factory=bytearray)
    transport: str = "stdio"
    _held: bytes = b""

    def ask(self, method: str, params: Json | None = None, id_: Any = 7, **headers: str) -> Said:
        """One request and its answer; headers do not exist here."""
        message = request(self.era, method, params or {}, id_, self.capabilities)
        self.send(json.dumps(message).encode())
        while True:
            line = self.line()
            answer = json.loads(line)
            if answer.get("id") == id_ and "method" not in answer:
                return Said(200, line)

    def send(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def line(self, within_s: float = WITHIN_S) -> bytes:
        """The next line it is sent."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + within_s
        while b"\n" not in self._held:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "nothing more was said"
            chunk = os.read(self.process.stdout.fileno(), 65536)
            assert chunk, "the gateway ended"
            self.heard += chunk
            self._held += chunk
        line, _, self._held = self._held.partition(b"\n")
        return line


@contextmanager
def stdio_agent(folder: Path, agent: str, *, capabilities: Json | None = None) -> Iterator[StdioAgent]:
    """A gateway on the standard streams, its handshake done; set `era` to speak in."""
    words = [*MCP_GATEWAY, "stdio", "--agent", agent]
    process = subprocess.Popen(words, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        made = StdioAgent(process, "legacy", capabilities or {})
        hello = {"protocolVersion": LEGACY, "capabilities": made.capabilities, "clientInfo": {"name": "raw"}}
        made.ask("initialize", hello)
        yield made
    finally:
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            stream.close()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stderr is not None
        process.stderr.close()
