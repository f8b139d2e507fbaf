"""Commands run in a folder of their own, in this process; `serve` and `stdio` are run as processes elsewhere."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from fakes.gateway_process import write_files
from fakes.operator_files import FILES
from mcp_gateway.cli import output
from mcp_gateway.cli.main import app


@dataclass
class Operator:
    """Somebody at a terminal in a folder."""

    folder: Path

    def write(self, files: Mapping[str, str]) -> None:
        write_files(self.folder, files)

    def run(self, *words: str, exits: int = 0, stdin: str | None = None, **env: str) -> Result:
        """Run one command and see that it exits as it should."""
        result = CliRunner().invoke(app, words, input=stdin, env=env, prog_name="mcp-gateway")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == exits, result.output
        return result

    def feed(self, text: str, *words: str) -> Result:
        """Run one command with something on its stdin."""
        return CliRunner().invoke(app, words, input=text, prog_name="mcp-gateway")

    def json(self, *words: str, exits: int = 0) -> Any:
        """The one JSON document a command prints."""
        return json.loads(self.run(*words, "--json", exits=exits).stdout)

    def json_lines(self, *words: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.run(*words, "--json").stdout.splitlines()]


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Operator:
    """In a folder with a servers.toml and a policy, neither used yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "CODEX_HOME", "MCP_GATEWAY_AGENT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(output.out, "width", output.PIPED_WIDTH)
    write_files(tmp_path, FILES)
    return Operator(tmp_path)
