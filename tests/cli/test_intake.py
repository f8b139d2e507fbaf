"""Descriptions are fetched with bounds and never from just anywhere; secrets go where the references point."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest

from mcp_gateway.cli.intake import MAX_DESCRIPTION_BYTES, description, keep_secrets, referring, switched_off_without
from mcp_gateway.config.found import FoundServer
from mcp_gateway.config.moved_secrets import Moved
from mcp_gateway.errors import ConfigInvalid

ENTRY = json.dumps({"name": "a/clock", "packages": [{"registryType": "pypi", "identifier": "clock"}]}).encode()


class Registry(BaseHTTPRequestHandler):
    answers: ClassVar[dict[str, tuple[int, bytes]]] = {
        "/good": (200, ENTRY),
        "/large": (200, b" " * (MAX_DESCRIPTION_BYTES + 1)),
        "/gone": (404, b""),
        "/moved": (302, b""),
        "/page": (200, b"<html>"),
    }

    def do_GET(self) -> None:
        status, body = self.answers[self.path.partition("?")[0]]
        self.send_response(status)
        self.send_header("Location", "/good")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture(scope="module")
def registry() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_description_is_fetched_and_read(registry: str) -> None:
    assert description(f"{registry}/good?token=x").command == ("uvx", "clock")
    assert "token" not in description(f"{registry}/good?token=x").origin


@pytest.mark.parametrize(
    ("path", "said"),
    [("/large", "larger than"), ("/gone", "HTTP 404"), ("/moved", "HTTP 302"), ("/page", "not JSON")],
)
def test_an_answer_that_is_no_description_is_refused(registry: str, path: str, said: str) -> None:
    with pytest.raises(ConfigInvalid, match=said):
        description(registry + path)


@pytest.mark.parametrize(
    "source", ["http://example.com/server.json", "http://127.0.0.1:1/x", "nothing.json", "bundle.mcpb"]
)
def test_a_source_that_cannot_be_used_is_refused_with_a_code(source: str) -> None:
    with pytest.raises(ConfigInvalid) as raised:
        description(source)
    assert raised.value.complaints[0].code == "GW-INIT-DESCRIPTION"


@pytest.mark.parametrize(
    ("keep", "whole", "part"),
    [("env", "${A}", "${A}"), ("keyring", "keyring:A", "${keyring:A}"), ("file", "file:secrets/A", "${A}")],
)
def test_each_place_has_its_reference(keep: Any, whole: str, part: str) -> None:
    assert (referring(keep)("A", True), referring(keep)("A", False)) == (whole, part)


def test_a_secret_in_a_file_is_its_owner_s_alone(tmp_path: Path) -> None:
    keep_secrets([Moved("A", "s", "x", "")], "file", tmp_path)
    assert (tmp_path / "secrets/A").stat().st_mode & 0o077 == 0
    assert (tmp_path / "secrets").stat().st_mode & 0o077 == 0
    keep_secrets([Moved("B", "s", "x", "")], "env", tmp_path)
    assert not (tmp_path / "secrets/B").exists()


def test_a_server_is_off_until_its_variables_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    server = FoundServer("a", "", command=("x", "${UNSET_ONE}", "$${TEXT}", "${OTHER:-y}"))
    off = switched_off_without(server)
    assert (off.enabled, off.needs) == (False, ("UNSET_ONE",))
    monkeypatch.setenv("UNSET_ONE", "1")
    assert switched_off_without(server) == server
