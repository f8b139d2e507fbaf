"""The MCP SDK's pure helpers for headers that mirror a body, loaded when the first of them is needed.

Importing anything of the SDK imports all of it: more than half a second, and a quarter of a gateway's memory. What
nearly every request needs (plain names, plain versions) is decided without it by whoever calls; these functions are for
the rest, and most gateways never need one. `loaded` does the waiting beside the event loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from mcp_gateway.domain import RpcError

if TYPE_CHECKING:
    from mcp.shared.inbound import InboundLadderRejection


async def loaded() -> None:
    """Import the SDK on a thread, so that nobody else waits for it meanwhile; done at once if it is there."""
    if _inbound.cache_info().currsize == 0:
        await anyio.to_thread.run_sync(_inbound)


def encode_header_value(value: str) -> str:
    """A value as a header can carry it (streamable-http "Value Encoding")."""
    encoded: str = _inbound().encode_header_value(value)
    return encoded


def decode_header_value(value: str | None) -> str | None:
    """What a header's value stands for; None for a malformed one."""
    decoded: str | None = _inbound().decode_header_value(value)
    return decoded


def find_invalid_x_mcp_header(schema: Any) -> str | None:
    """What is wrong with the header annotations of a tool's input schema; None: nothing."""
    fault: str | None = _inbound().find_invalid_x_mcp_header(schema)
    return fault


def x_mcp_header_map(schema: Any) -> dict[tuple[str, ...], str]:
    """Which argument goes into which header, of a schema that has been found valid."""
    header_map: dict[tuple[str, ...], str] = _inbound().x_mcp_header_map(schema)
    return header_map


def mcp_param_headers(header_map: Mapping[tuple[str, ...], str], arguments: Mapping[str, Any]) -> dict[str, str]:
    """The `Mcp-Param-*` headers of one call."""
    headers: dict[str, str] = _inbound().mcp_param_headers(header_map, arguments)
    return headers


def refuse_envelope(body: Mapping[str, Any], headers: Mapping[str, str] | None) -> RpcError | None:
    """Why a modern request's envelope cannot be accepted, headers included where there are any; None: it can."""
    verdict = _inbound().classify_inbound_request(body, headers=headers)
    return _as_error(verdict) if isinstance(verdict, _inbound().InboundLadderRejection) else None


def refuse_version(version: str) -> RpcError | None:
    """Why a modern protocol version is not served; None: it is."""
    return _as_error(_inbound().unsupported_protocol_version_rejection(version))


def refuse_param_headers(schema: Any, arguments: Mapping[str, Any], headers: Mapping[str, str]) -> RpcError | None:
    """Why a call's `Mcp-Param-*` headers do not fit its arguments; None: they do."""
    return _as_error(_inbound().validate_mcp_param_headers(schema, arguments, headers))


def _as_error(rejection: InboundLadderRejection | None) -> RpcError | None:
    return None if rejection is None else RpcError(rejection.code, rejection.message, rejection.data)


@cache
def _inbound() -> Any:
    return import_module("mcp.shared.inbound")
