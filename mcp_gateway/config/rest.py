"""`rest` in a `[servers.NAME]` table: a plain HTTP API, passed through under `/rest/NAME/` and offered as tools.

    [servers.orders]
    rest = "https://orders.internal"
    openapi = "specs/orders.yaml"
    include = ["GET /v1/orders/*"]

`include` says which operations exist for agents at all, by method and path; what an agent may do with them is for the
policy. Without it nothing is offered: a document of somebody else's is no list of what is meant to be reachable.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from mcp_gateway.config.rest_routes import read_balance, read_max_concurrent, read_patterns, read_routes
from mcp_gateway.config.secrets import Secrets
from mcp_gateway.config.settings import DAY_S
from mcp_gateway.config.table import ConfigCode, Table
from mcp_gateway.rest.caching import CACHED, CacheRules
from mcp_gateway.rest.headers import NEVER
from mcp_gateway.rest.matching import METHODS, Method, RoutePattern
from mcp_gateway.rest.operations import BODY, JSON_TYPE, Operation, Parameter
from mcp_gateway.rest.routing import Balance, Route

MAX_TARGETS: Final = 32

Checking = Literal["off", "described", "all"]
CHECKINGS: Final[tuple[Checking, ...]] = ("off", "described", "all")

_TOOL_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_PLACE: Final = re.compile(r"\{([^{}]+)\}")
_TEMPLATE: Final = re.compile(r"/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/%]|\{[A-Za-z_][A-Za-z0-9_]{0,63}\})*")
_HEADER: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


@dataclass(frozen=True, slots=True)
class RestConfig:
    """What a table with `rest` says beyond how the API is reached."""

    targets: tuple[tuple[str, float], ...]
    """Base URLs without a trailing slash, with their weights."""
    include: tuple[RoutePattern, ...] = ()
    openapi: Path | None = None
    tools: tuple[Operation, ...] = ()
    """Written by hand."""
    send_headers: tuple[str, ...] = ()
    """Of an agent's, beside the usual ones."""
    return_headers: tuple[str, ...] = ()
    retries: int = 1
    """How often a request that may be repeated is sent again when its connection fails."""
    cache: CacheRules | None = None
    """Which answers are kept for who asked; None: none."""
    secrets: frozenset[str] = field(default_factory=frozenset, repr=False)
    routes: tuple[Route, ...] = ()
    """What holds for some requests; of those that speak of one, the first."""
    balance: Balance = "weight"
    max_concurrent: int | None = None
    """Requests passed through at once."""
    check_requests: Checking = "off"
    """Which requests have to fit the document: none, those it describes, or all, so that others are refused."""

    def admits(self, method: str, path: str) -> bool:
        """Whether this method on this path (or path template) exists for agents."""
        return any(pattern.matches(method, path) for pattern in self.include)


def read_rest(table: Table, secrets: Secrets, url: str) -> RestConfig:
    """The keys of a table with `rest`, whose URL has been read; complaints go to the table's findings."""
    return RestConfig(
        targets=_targets(table, secrets, url),
        include=_include(table),
        openapi=_file(table, secrets),
        tools=_tools(table),
        send_headers=_header_names(table, "send_headers"),
        return_headers=_header_names(table, "return_headers"),
        retries=table.count("retries", 1, 0, 5) if "retries" in table else 1,
        cache=_cache(table),
        routes=read_routes(table, lambda route: _targets(route, secrets)),
        balance=read_balance(table),
        max_concurrent=read_max_concurrent(table),
        check_requests=_checking(table),
    )


def _checking(table: Table) -> Checking:
    checking = table.choice("check_requests", CHECKINGS, "off")
    if checking != "off" and table.raw("openapi") is None:
        table.refuse("check_requests", "there is no document to check requests against", "name it with 'openapi'")
    return checking


def _targets(table: Table, secrets: Secrets, url: str = "") -> tuple[tuple[str, float], ...]:
    """`rest` itself (a route's own targets stand alone), and what else `targets` names."""
    found = [(url.rstrip("/"), 1.0)] if url else []
    written = table.raw("targets")
    for index, item in enumerate(written if isinstance(written, list) else []):
        given = item if isinstance(item, dict) else {}
        other = table.resolve(("targets", index), str(given.get("url", "")), secrets.expand) or ""
        weight = given.get("weight", 1.0)
        is_weight = isinstance(weight, (int, float)) and not isinstance(weight, bool) and 0 < weight <= 1e6
        if set(given) - {"url", "weight"} or not is_weight or not other.startswith(("https://", "http://")):
            fix = 'write { url = "https://other.internal", weight = 1 }'
            table.findings.refuse((*table.path, "targets", index), "no target", fix, ConfigCode.BAD_VALUE)
            continue
        found.append((other.rstrip("/"), float(weight)))
    if len(found) > MAX_TARGETS or len({address for address, _ in found}) < len(found):
        table.refuse("targets", f"at most {MAX_TARGETS} targets, none of them twice", "leave some out")
    return tuple(found[:MAX_TARGETS])


def _cache(table: Table) -> CacheRules | None:
    """`cache` and `cache_stale_s`."""
    routes = read_patterns(table, "cache")
    if any(route.methods - set(CACHED) for route in routes):
        table.refuse("cache", "only answers to GET and HEAD can be kept", 'write cache = ["GET /v1/orders/*"]')
    stale_s = table.count("cache_stale_s", 0, 0, int(DAY_S))
    return CacheRules(tuple(routes), stale_s) if routes else None


def _include(table: Table) -> tuple[RoutePattern, ...]:
    patterns = read_patterns(table, "include")
    if not patterns and "include" not in table:
        fix = 'write include = ["GET /v1/orders/*"]; include = ["* **"] is everything'
        table.findings.warn(table.path, "nothing is included: agents will see nothing", fix, ConfigCode.NO_SERVERS)
    return patterns


def _file(table: Table, secrets: Secrets) -> Path | None:
    written = table.text("openapi")
    if written is None:
        return None
    if written.startswith(("http://", "https://")):
        fix = "download it, look at it, and name the file"
        table.refuse("openapi", "'openapi' is a file, not a URL", fix)
        return None
    path = secrets.base / written
    if not path.is_file():
        table.refuse("openapi", f"there is no file {written!r}", "its path counts from the folder of this file")
    return path


def _header_names(table: Table, key: str) -> tuple[str, ...]:
    names = tuple(name.lower() for name in table.texts(key))
    for index, name in enumerate(names):
        if name in NEVER or not _HEADER.fullmatch(name):
            path = (*table.path, key, index)
            table.findings.refuse(path, f"the header {name!r} cannot pass", "leave it out", ConfigCode.HEADER)
    return names


def _tools(table: Table) -> tuple[Operation, ...]:
    written = table.table("tool")
    return tuple(
        operation
        for name, each in (written.tables() if written else ())
        if (operation := _tool(name, each)) is not None
    )


def _tool(name: str, table: Table) -> Operation | None:
    """One `[servers.NAME.tool.TOOL]` table: a method, a path with `{arguments}`, and a schema for each argument."""
    method = table.choice("method", METHODS, "GET")
    template = table.text("path") or ""
    description = table.text("description") or ""
    arguments = table.raw("arguments")
    required = table.texts("required")
    table.finish()
    places = _PLACE.findall(template)
    if not _TOOL_NAME.fullmatch(name) or not _TEMPLATE.fullmatch(template) or "//" in template:
        fix = 'write path = "/v1/orders/{id}"'
        table.findings.refuse(table.path, f"the tool {name!r} has no usable name or path", fix, ConfigCode.BAD_VALUE)
        return None
    schemas: Mapping[str, Any] = arguments if isinstance(arguments, dict) else {}
    if set(places) - set(schemas) or not all(isinstance(schema, dict) for schema in schemas.values()):
        fix = 'write arguments = { id = { type = "string" } }'
        message = "'arguments' needs a schema for each argument of the path"
        table.findings.refuse((*table.path, "arguments"), message, fix, ConfigCode.BAD_VALUE)
        return None
    return Operation(name, method, template, _parameters(method, places, schemas, required), JSON_TYPE, description)


def _parameters(
    method: Method, places: list[str], schemas: Mapping[str, Any], required: tuple[str, ...]
) -> tuple[Parameter, ...]:
    """What is no part of the path goes into the query, or, where the method has a body, as `body` into that."""
    return tuple(
        Parameter(
            name,
            name,
            "path" if name in places else "body" if name == BODY and method in ("POST", "PUT", "PATCH") else "query",
            is_required=name in places or name in required,
            schema=schema,
        )
        for name, schema in schemas.items()
    )
