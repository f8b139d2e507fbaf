"""A real gateway process in a folder of its own, started as its operator would, on a port the system chose."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

MCP_GATEWAY = [sys.executable, "-m", "mcp_gateway"]

START_S = 30.0

WORKERS = int(os.environ.get("MCP_GATEWAY_TEST_WORKERS", "1"))
"""With 2, every test that starts a gateway holds several workers to what it claims."""


@dataclass
class GatewayProcess:
    """One running `mcp-gateway serve`."""

    folder: Path
    process: subprocess.Popen[str]
    url: str
    _keys: dict[str, str] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        return self.folder / "servers.toml"

    @property
    def origin(self) -> str:
        return self.url.removesuffix("/mcp")

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run another command on the same configuration."""
        return run_command(self.folder, *words, check=check)

    def key(self, agent: str) -> str:
        """A new API key for `agent`."""
        return str(json.loads(self.run("key", "create", agent, "--json").stdout)["key"])

    def headers(self, agent: str) -> dict[str, str]:
        """How `agent` proves who it is, always with the same key."""
        if agent not in self._keys:
            self._keys[agent] = self.key(agent)
        return {"Authorization": f"Bearer {self._keys[agent]}"}

    @property
    def workers(self) -> dict[int, dict[str, object]]:
        """How each worker is doing, as the gateway writes it down."""
        return {told["number"]: told for told in json.loads((self.folder / ".mcp-gateway/workers.json").read_text())}

    def wait_for_workers(self, count: int) -> None:
        """Wait until so many serve."""
        deadline = time.monotonic() + START_S
        while [told["state"] for told in self.workers.values()] != ["ready"] * count:
            assert time.monotonic() < deadline, f"the workers did not come up: {self.workers}"
            time.sleep(0.02)

    def next_event(self) -> dict[str, object]:
        """The next line `serve --json` prints."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the gateway ended: {self._errors()}"
        return dict(json.loads(line))

    def stop(self) -> int:
        """End it as a service manager would; returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(START_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            for stream in (self.process.stdout, self.process.stderr):
                if stream is not None:
                    stream.close()

    def _errors(self) -> str:
        return self.process.stderr.read() if self.process.stderr is not None else ""


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write `files` (relative path: text) below `folder`."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def run_command(folder: Path, *words: str, check: bool = True, **kwargs: object) -> subprocess.CompletedProcess[str]:
    """Run one command of the gateway in `folder` and return what it printed."""
    done = subprocess.run(
        [*MCP_GATEWAY, *words], cwd=folder, capture_output=True, text=True, timeout=60, env=_environ()
    )
    if check and done.returncode != 0:
        raise AssertionError(f"{words} exited {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


@contextmanager
def serving(
    folder: Path,
    files: Mapping[str, str],
    *,
    settled: bool = True,
    options: Sequence[str] = (),
    descriptors: int | None = None,
    env: Mapping[str, str] | None = None,
    workers: int = WORKERS,
) -> Iterator[GatewayProcess]:
    """A gateway serving the configuration in `files`; with `settled` its upstreams have come up (or failed once).

    `options` are more of the command's, `descriptors` how many files it may open, `env` what its environment has more.
    Of several `workers`, all are up.
    """
    write_files(folder, files)
    limit = [] if descriptors is None else ["sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh"]
    process = subprocess.Popen(
        [*limit, *MCP_GATEWAY, "serve", "--json", "--listen", "127.0.0.1:0", "--workers", str(workers), *options],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**_environ(), **(env or {})},
    )
    gateway = GatewayProcess(folder, process, "")
    try:
        gateway.url = str(gateway.next_event()["url"])
        if settled:
            gateway.next_event()
        if workers > 1:
            gateway.wait_for_workers(workers)
        yield gateway
    finally:
        if process.poll() is None:
            code = gateway.stop()
            assert code in (0, -signal.SIGTERM), f"the gateway ended with {code}"


def _environ() -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1", "COLUMNS": "200"}
