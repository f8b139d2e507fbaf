"""Where it attaches to no other, `stdio` is a gateway by itself, and leaves none behind."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from fakes.gateway_process import MCP_GATEWAY, write_files
from fakes.operator_files import FILES


@pytest.mark.slow
@pytest.mark.parametrize(("words", "shared"), [(("--alone",), "linger"), ((), "off")])
def test_it_answers_by_itself_and_no_other_gateway_is_started(
    tmp_path: Path, words: tuple[str, ...], shared: str
) -> None:
    write_files(tmp_path, FILES)
    config = tmp_path / "servers.toml"
    config.write_text(config.read_text() + f'\n[gateway]\nshared = "{shared}"\n')
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "pipe", "version": "1"}}
    asked = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}) + "\n"
    command = [*MCP_GATEWAY, "stdio", "--agent", "reader", *words]
    done = subprocess.run(
        command, cwd=tmp_path, input=asked, capture_output=True, text=True, timeout=30, env=os.environ, check=True
    )
    assert json.loads(done.stdout)["result"]["serverInfo"]["name"] == "mcp_gateway"
    assert not list(tmp_path.rglob("gateway.json"))
