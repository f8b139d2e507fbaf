"""Requests of plain routes against the OpenAPI document of their API, before they are sent.

The same engine and the same bounds as for the arguments of tools: the request is read as arguments of the operation it
is, and those are checked against the schema that the operation has as a tool. A document is read when the first request
needs it, beside the event loop, and again when its file has changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from mcp_gateway.config.rest import RestConfig
from mcp_gateway.domain import Request
from mcp_gateway.errors import BadArguments, Misbehaved
from mcp_gateway.guards.limits import measure
from mcp_gateway.guards.schema import Compiled, compile_schema
from mcp_gateway.guards.schema_cost import UnusableSchemaError
from mcp_gateway.rest.described import Described, Sent, arguments_of
from mcp_gateway.rest.headers import PASSED_ON, passing
from mcp_gateway.rest.openapi import NotOpenApiError, read_openapi
from mcp_gateway.rest.operations import Operation


@dataclass(slots=True)
class _Document:
    """One document as it was read."""

    described: Described | None
    fault: str = ""
    """Why it cannot be used."""
    stamp: int = 0
    schemas: dict[tuple[str, str], Compiled | UnusableSchemaError] = field(default_factory=dict)
    """By method and path template: filled as requests come."""


class Documents:
    """The documents that requests are checked against. Belongs to one event loop."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[RestConfig, _Document]] = {}
        self._reading = asyncio.Lock()

    async def check(self, name: str, rest: RestConfig, request: Request) -> None:
        """Refuse a request that does not fit the document of the API called `name`.

        Raises `BadArguments` with what does not fit, `OverLimit` for what would take too long to check, `Misbehaved`
        where the document cannot be used: then nothing passes.
        """
        document = await self._document(name, rest)
        if document.described is None:
            raise Misbehaved(name, f"requests to {name!r} cannot be checked: {document.fault}")
        sent = _sent(rest, request)
        found = document.described.find(sent.method, sent.path)
        if found is None:
            if rest.check_requests == "all":
                raise BadArguments(f"{sent.method} on this path is not in the document of {name!r}")
            return
        operation, places = found
        _check(name, _schema_of(document, operation), operation, places, sent)

    async def _document(self, name: str, rest: RestConfig) -> _Document:
        kept = self._kept(name, rest)
        if kept is None:
            async with self._reading:
                kept = self._kept(name, rest)
                if kept is None:
                    kept = await anyio.to_thread.run_sync(_read, rest)
                    self._read[name] = rest, kept
        return kept

    def _kept(self, name: str, rest: RestConfig) -> _Document | None:
        before, document = self._read.get(name, (None, None))
        if document is None or (before is not rest and before != rest):
            return None
        return document if document.stamp == _stamp_of(rest.openapi) else None


def _read(rest: RestConfig) -> _Document:
    path, stamp = rest.openapi, _stamp_of(rest.openapi)
    if path is None:
        return _Document(None, "there is no document")
    try:
        api = read_openapi(path.read_bytes(), lambda method, template: True)
    except (OSError, NotOpenApiError) as e:
        reason = e.strerror if isinstance(e, OSError) else str(e)
        return _Document(None, f"{path.name} cannot be used: {reason}", stamp)
    may_pass = PASSED_ON | frozenset(rest.send_headers)
    return _Document(Described(api.operations, may_pass.__contains__), stamp=stamp)


def _stamp_of(path: Path | None) -> int:
    try:
        return 0 if path is None else path.stat().st_mtime_ns
    except OSError:
        return 0


def _sent(rest: RestConfig, request: Request) -> Sent:
    if request.http is None:
        raise BadArguments("there is no request")
    path, _, query = request.http.path.partition("?")
    headers = passing(request.http.headers, PASSED_ON, rest.send_headers)
    method = str(request.arguments["method"])
    return Sent(method, path, query, headers, request.http.body, request.http.json)


def _schema_of(document: _Document, operation: Operation) -> Compiled | UnusableSchemaError:
    key = operation.method, operation.template
    found = document.schemas.get(key)
    if found is None:
        try:
            found = compile_schema(operation.input_schema())
        except UnusableSchemaError as e:
            found = e
        document.schemas[key] = found
    return found


def _check(
    name: str,
    schema: Compiled | UnusableSchemaError,
    operation: Operation,
    places: Mapping[str, str],
    sent: Sent,
) -> None:
    if isinstance(schema, UnusableSchemaError):
        which = f"{operation.method} {operation.template}"
        raise Misbehaved(name, f"requests to {which} of {name!r} cannot be checked: its schema {schema}")
    arguments = arguments_of(operation, places, sent)
    if violations := schema.check(arguments, measure(arguments)):
        lines = "; ".join(violations)
        raise BadArguments(f"the request does not fit the document of {name!r}: {lines}")
