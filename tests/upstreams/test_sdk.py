"""Borrowing from the SDK: late, and with its refusals as our errors."""

import subprocess
import sys

import pytest

from mcp_gateway.revisions import META_VERSION
from mcp_gateway.upstreams import sdk

ANNOTATED = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}


def test_a_start_does_not_import_the_sdk() -> None:
    code = "import sys, mcp_gateway.cli.main; sys.exit(bool({'mcp', 'mcp_types'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def test_it_is_imported_beside_the_event_loop_and_once() -> None:
    await sdk.loaded()
    assert "mcp.shared.inbound" in sys.modules
    await sdk.loaded()
    assert sdk._inbound.cache_info().misses == 1


@pytest.mark.parametrize("value", ["plain", "grün", " space at the end ", ""])
def test_a_value_survives_its_header(value: str) -> None:
    assert sdk.decode_header_value(sdk.encode_header_value(value)) == value


def test_annotated_arguments_become_headers() -> None:
    assert sdk.find_invalid_x_mcp_header(ANNOTATED) is None
    header_map = sdk.x_mcp_header_map(ANNOTATED)
    assert sdk.mcp_param_headers(header_map, {"region": "eu"}) == {"Mcp-Param-Region": "eu"}


def test_what_does_not_fit_is_an_error_of_ours() -> None:
    assert sdk.refuse_param_headers(ANNOTATED, {"region": "eu"}, {"mcp-param-region": "eu"}) is None
    refusal = sdk.refuse_param_headers(ANNOTATED, {"region": "eu"}, {"mcp-param-region": "us"})
    assert refusal is not None and refusal.code == -32020


def test_a_version_nobody_serves_is_refused_and_names_those_that_are() -> None:
    assert sdk.refuse_version("2026-07-28") is None
    refusal = sdk.refuse_version("2031-01-01")
    assert refusal is not None and "2026-07-28" in refusal.data["supported"]


def test_an_envelope_without_a_version_is_refused() -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {"_meta": {META_VERSION: 7}}}
    assert sdk.refuse_envelope(body, None) is not None
