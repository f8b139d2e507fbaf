"""Where the tests find node and the npm packages they hold the gateway against.

`.ci/run` installs them and says where with MCP_GATEWAY_TEST_NODE_MODULES; `.ci/node .node` puts them where they are
found without it. Tests that need them carry `requires_node` and are skipped where there are none.
"""

import os
import platform
from pathlib import Path
from typing import Final

import pytest

VARIABLE: Final = "MCP_GATEWAY_TEST_NODE_MODULES"
_DEFAULT: Final = Path(__file__).parents[2] / ".node" / "node_modules"
_ARCHITECTURES: Final = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}


def node_modules() -> Path | None:
    """The folder of the installed npm packages, None where there is none."""
    folder = Path(os.environ.get(VARIABLE) or _DEFAULT)
    return folder if folder.is_dir() else None


def node_binary() -> Path | None:
    """The node (22 or later) that came as an npm package, whatever the machine's own node is; None where it did not."""
    folder = node_modules()
    if folder is None:
        return None
    architecture = _ARCHITECTURES.get(platform.machine().lower(), platform.machine())
    packages = ("node", f"node-{platform.system().lower()}-{architecture}", f"node-bin-darwin-{architecture}")
    return next((file for package in packages if (file := folder / package / "bin" / "node").is_file()), None)


def npm_command(package: str, *arguments: str) -> list[str]:
    """The command that runs the one program of an npm package, e.g. `@modelcontextprotocol/server-memory`.

    >>> npm_command("@modelcontextprotocol/server-everything", "stdio")  # doctest: +SKIP
    ['.../bin/node', '.../@modelcontextprotocol/server-everything/dist/index.js', 'stdio']
    """
    folder, node = node_modules(), node_binary()
    assert folder is not None and node is not None, "mark the test with requires_node"
    return [str(node), str(folder / package / _PROGRAMS[package]), *arguments]


def node_program(file: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """The command that runs one of the `.mjs` files beside this one, and what its environment needs."""
    folder, node = node_modules(), node_binary()
    assert folder is not None and node is not None, "mark the test with requires_node"
    # Packages are looked for beside the file that imports them, not where NODE_PATH says: the file gets the folder.
    return [str(node), str(Path(__file__).with_name(file)), *arguments], {"NODE_MODULES": str(folder)}


_PROGRAMS: Final = {
    "@modelcontextprotocol/conformance": "dist/index.js",
    "@modelcontextprotocol/inspector": "clients/launcher/build/index.js",
    "@modelcontextprotocol/server-everything": "dist/index.js",
    "@modelcontextprotocol/server-filesystem": "dist/index.js",
    "@modelcontextprotocol/server-memory": "dist/index.js",
}

requires_node: Final = pytest.mark.skipif(
    node_binary() is None, reason=f"no npm packages: run `.ci/node .node`, or set {VARIABLE}"
)
