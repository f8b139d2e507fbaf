"""`[servers.NAME.route.ROUTE]`: what holds for some requests of a plain API, in the order written.

    [servers.orders.route.v1]
    match = ["* /v1/**"]
    deprecated = 2026-01-01
    sunset = 2026-12-31
    rewrite = { from = "/v1", to = "/v2" }

    [servers.orders.route.v1.request]
    set_query = { limit = "50" }
    body = [{ op = "move", from = "/name", path = "/customer/name" }]

    [servers.orders.route.v1.answer]
    remove_headers = ["warning"]

Everything is checked here, with its line, so that a request meets only what can be done with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time
from typing import Any, Final, cast

import orjson

from mcp_gateway.config.table import ConfigCode, Table
from mcp_gateway.errors import BadRequest
from mcp_gateway.jsonrpc import dump
from mcp_gateway.rest.editing import UNTOUCHED, AnswerEdits, HeaderEdits, QueryEdits, RequestEdits, Rewrite, is_place
from mcp_gateway.rest.lifecycle import Life, State
from mcp_gateway.rest.matching import RoutePattern, read_pattern
from mcp_gateway.rest.paths import canonical_path
from mcp_gateway.rest.pointers import WORDS, Edit, Pointer, Word, read_pointer
from mcp_gateway.rest.routing import BALANCES, Balance, Route

MAX_ROUTES: Final = 200
MAX_EDITS: Final = 64
"""Of one body, and of the headers or parameters of one list."""
MAX_CONCURRENT: Final = 100_000

Targets = tuple[tuple[str, float], ...]

_ROUTE_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_HEADER: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_HOST: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,252}[a-z0-9])?|\[[0-9a-f:.]+\]")
_PLACE: Final = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]{0,63}\}")
_LINK: Final = re.compile(r"(https?://|/)[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]{0,500}")
_LONGEST_VALUE: Final = 4096
_EDIT_KEYS: Final[Mapping[str, frozenset[str]]] = {
    "add": frozenset({"path", "value"}),
    "replace": frozenset({"path", "value"}),
    "remove": frozenset({"path"}),
    "move": frozenset({"path", "from"}),
}


def read_routes(table: Table, read_targets: Callable[[Table], Targets]) -> tuple[Route, ...]:
    """Every route of one server; complaints go to the table's findings."""
    written = table.table("route")
    routes = tuple(_read_route(name, each, read_targets) for name, each in (written.tables() if written else ()))
    if len(routes) > MAX_ROUTES:
        table.refuse("route", f"at most {MAX_ROUTES} routes", "leave some out")
    return routes


def read_balance(table: Table) -> Balance:
    """How a request's address is chosen among several."""
    return table.choice("balance", BALANCES, "weight")


def read_max_concurrent(table: Table) -> int | None:
    """How many requests may be under way at once; None: any."""
    return table.count("max_concurrent", 0, 1, MAX_CONCURRENT) or None


def read_patterns(table: Table, key: str) -> tuple[RoutePattern, ...]:
    """Lines such as `GET /v1/orders/*`."""
    patterns = []
    for index, text in enumerate(table.texts(key)):
        try:
            patterns.append(read_pattern(text))
        except ValueError as e:
            fix = "write a method and a path, such as 'GET /v1/orders/*'"
            table.findings.refuse((*table.path, key, index), str(e), fix, ConfigCode.BAD_VALUE)
    return tuple(patterns)


def _read_route(name: str, table: Table, read_targets: Callable[[Table], Targets]) -> Route:
    if not _ROUTE_NAME.fullmatch(name):
        fix = "lower-case letters, digits, '.', '_' and '-', at most 64"
        table.findings.refuse(table.path, f"{name!r} is no name of a route", fix, ConfigCode.BAD_VALUE)
    match = read_patterns(table, "match")
    _check_spelling(table, match)
    if "match" not in table:
        fix = 'write match = ["* /v1/**"]; ["* **"] is everything'
        table.findings.refuse(table.path, f"the route {name!r} has no 'match'", fix, ConfigCode.BAD_VALUE)
    request, answer = table.table("request"), table.table("answer")
    route = Route(
        name=name,
        match=match,
        hosts=_hosts(table),
        headers=_wanted_headers(table),
        life=_life(table),
        request=RequestEdits(
            headers=_header_edits(request) if request else HeaderEdits(),
            query=_query_edits(request) if request else QueryEdits(),
            body=_body_edits(request) if request else (),
            rewrite=_rewrite(table),
        ),
        answer=AnswerEdits(_header_edits(answer), _body_edits(answer)) if answer else AnswerEdits(),
        targets=read_targets(table),
        balance=read_balance(table),
        max_concurrent=read_max_concurrent(table),
    )
    for each in (request, answer, table):
        if each is not None:
            each.finish()
    return route


def _check_spelling(table: Table, match: tuple[RoutePattern, ...]) -> None:
    """A pattern that no path is spelt like would never match, and what it was to retire would go on."""
    for index, pattern in enumerate(match):
        path = pattern.text.partition(" ")[2]
        if not path.startswith("/"):
            continue
        try:
            spelt = canonical_path(path.encode())
        except BadRequest as e:
            _refuse(table, ("match", index), f"no request has such a path: {e}", "write '*' for any segment")
            continue
        if spelt != path:
            _refuse(table, ("match", index), f"the path of {pattern.text!r} is never spelt so", f"write {spelt!r}")


def _hosts(table: Table) -> frozenset[str]:
    hosts = tuple(host.lower() for host in table.texts("hosts"))
    for index, host in enumerate(hosts):
        if not _HOST.fullmatch(host):
            path = (*table.path, "hosts", index)
            table.findings.refuse(path, f"{host!r} is no host", "write its name, without a port", ConfigCode.BAD_VALUE)
    return frozenset(hosts)


def _wanted_headers(table: Table) -> Mapping[str, frozenset[str]]:
    """`headers = { accept-version = "2" }`, or a list of values."""
    written = table.raw("headers")
    if written is not None and not isinstance(written, dict):
        table.refuse("headers", "'headers' must be a table", 'write headers = { accept-version = "2" }')
        return {}
    found = {}
    for name, value in (written or {}).items():
        values = value if isinstance(value, list) else [value]
        _check_header(table, ("headers", name), name.lower())
        if not values or not all(isinstance(each, str) and each for each in values):
            path = (*table.path, "headers", name)
            table.findings.refuse(path, "no value to compare with", 'write "2", or ["2", "2.1"]', ConfigCode.BAD_VALUE)
            continue
        found[name.lower()] = frozenset(values)
    return found


def _life(table: Table) -> Life:
    deprecated_at, sunset_at = _time(table, "deprecated"), _time(table, "sunset")
    usual = State.ACTIVE if deprecated_at is None else State.DEPRECATED
    state = table.choice("state", tuple(State), usual)
    if state is State.DEPRECATED and deprecated_at is None:
        table.refuse("state", "what is deprecated says since when", "write deprecated = 2026-01-01")
    if deprecated_at is not None and state in (State.DRAFT, State.ACTIVE):
        table.refuse("state", f"'deprecated' means nothing while it is {state.value}", "leave one of the two out")
    if deprecated_at is not None and sunset_at is not None and sunset_at < deprecated_at:
        # RFC 9745 section 4.
        table.refuse("sunset", "it would end before it is deprecated", "choose a later day")
    return Life(state, deprecated_at, sunset_at, _link(table, "link"), _link(table, "successor"))


def _time(table: Table, key: str) -> int | None:
    """A day, which begins at midnight UTC, or a time with its zone; in seconds since the epoch."""
    value = table.raw(key)
    if value is None:
        return None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time(), UTC)
    if not isinstance(value, datetime) or value.tzinfo is None:
        table.refuse(key, f"{key!r} is no day and no time with a zone", f"write {key} = 2026-12-31, without quotes")
        return None
    return int(value.timestamp())


def _link(table: Table, key: str) -> str:
    link = table.text(key) or ""
    if link and not _LINK.fullmatch(link):
        table.refuse(key, f"{key!r} is no link", 'write "https://example.com/why", or a path such as "/v2"')
    return link


def _rewrite(table: Table) -> Rewrite | None:
    """`rewrite = { from = "/v1/of/{id}", to = "/v2/{id}" }`."""
    written = table.raw("rewrite")
    if written is None:
        return None
    given = written if isinstance(written, dict) else {}
    old, new = _segments(given.get("from")), _segments(given.get("to"))
    if set(given) != {"from", "to"} or old is None or new is None:
        table.refuse("rewrite", "'rewrite' is no two beginnings of paths", 'write { from = "/v1", to = "/v2" }')
        return None
    places = [segment for segment in old if is_place(segment)]
    if len(set(places)) < len(places) or {segment for segment in new if is_place(segment)} - set(places):
        table.refuse("rewrite", "each place of 'to' has to stand in 'from', and none twice", "name them alike")
    return Rewrite(old, new)


def _segments(path: Any) -> tuple[str, ...] | None:
    """The segments of a beginning of a path in its one spelling; None for what is none. `/` has none."""
    if not isinstance(path, str) or not path.startswith("/") or (path != "/" and path.endswith("/")):
        return None
    segments = tuple(path[1:].split("/")) if path != "/" else ()
    if any(("{" in segment or "}" in segment) and not _PLACE.fullmatch(segment) for segment in segments):
        return None
    plain = "/" + "/".join("x" if is_place(segment) else segment for segment in segments)
    try:
        return segments if canonical_path(plain.encode()) == plain else None
    except BadRequest:
        return None


def _header_edits(table: Table) -> HeaderEdits:
    removed = table.texts("remove_headers")
    for index, name in enumerate(removed):
        _check_header(table, ("remove_headers", index), name.lower())
    put = {key: _texts_by_name(table, key) for key in ("set_headers", "add_headers")}
    for key, values in put.items():
        for name, value in values.items():
            _check_header(table, (key, name), name.lower())
            if not (value.isascii() and value.isprintable()):
                _refuse(table, (key, name), "the value cannot stand in a header", "use printable ASCII")
    lowered = {key: {name.lower(): value for name, value in values.items()} for key, values in put.items()}
    gone = frozenset(name.lower() for name in removed)
    return HeaderEdits(gone, lowered["set_headers"], lowered["add_headers"])


def _query_edits(table: Table) -> QueryEdits:
    removed = frozenset(table.texts("remove_query"))
    return QueryEdits(removed, _texts_by_name(table, "set_query"), _texts_by_name(table, "add_query"))


def _texts_by_name(table: Table, key: str) -> Mapping[str, str]:
    values = table.texts_by_name(key)
    if len(values) > MAX_EDITS or any(len(value) > _LONGEST_VALUE for value in values.values()):
        table.refuse(key, f"at most {MAX_EDITS} values of at most {_LONGEST_VALUE} characters", "leave some out")
    if any("\0" in text for pair in values.items() for text in pair):
        table.refuse(key, "a value may not hold NUL", "leave it out")
    return values


def _check_header(table: Table, key: tuple[str | int, ...], name: str) -> None:
    if name in UNTOUCHED or not _HEADER.fullmatch(name):
        path = (*table.path, *key)
        message = f"the header {name!r} is not a route's to speak of"
        fix = "credentials go into 'auth' or 'headers' of the server"
        table.findings.refuse(path, message, fix, ConfigCode.HEADER)


def _body_edits(table: Table) -> tuple[Edit, ...]:
    written = table.raw("body")
    if written is None:
        return ()
    if not isinstance(written, list) or len(written) > MAX_EDITS:
        table.refuse("body", f"'body' is a list of at most {MAX_EDITS} edits", 'write [{ op = "remove", path = "/a" }]')
        return ()
    found = [_edit(table, index, given if isinstance(given, dict) else {}) for index, given in enumerate(written)]
    return tuple(edit for edit in found if edit is not None)


def _edit(table: Table, index: int, given: Mapping[str, Any]) -> Edit | None:
    key, word = ("body", index), given.get("op")
    wanted = _EDIT_KEYS.get(word) if isinstance(word, str) else None
    if wanted is None:
        _refuse(table, key, f"'op' is none of: {', '.join(WORDS)}", 'write op = "add"')
        return None
    is_optional = given.get("optional", False)
    if set(given) - {"optional", "op"} != wanted or not isinstance(is_optional, bool):
        fix = f"write {', '.join(sorted(wanted))}" + "; optional = true, where it may be missing"
        _refuse(table, key, f"{word!r} takes other keys", fix)
        return None
    path, origin = _pointer(table, key, given["path"]), _pointer(table, key, given.get("from", "/x"))
    if path is None or origin is None or not _is_json(table, key, given.get("value")):
        return None
    if word == "move" and path[: len(origin)] == origin:
        _refuse(table, key, "nothing can be moved into itself", "move it elsewhere")  # RFC 6902 section 4.4
        return None
    return Edit(cast(Word, word), path, given.get("value"), origin if word == "move" else (), is_optional)


def _pointer(table: Table, key: tuple[str | int, ...], written: Any) -> Pointer | None:
    try:
        return read_pointer(written if isinstance(written, str) else "")
    except ValueError as e:
        _refuse(table, key, str(e), "write path = '/customer/name' (RFC 6901)")
        return None


def _is_json(table: Table, key: tuple[str | int, ...], value: Any) -> bool:
    """TOML has values that JSON has none for: days, times, infinity."""
    try:
        if orjson.loads(dump(value)) == value:
            return True
    except TypeError:
        pass
    _refuse(table, key, "the value is none that JSON has", "write a string, a number, true, false, a list or a table")
    return False


def _refuse(table: Table, key: tuple[str | int, ...], message: str, fix: str) -> None:
    table.findings.refuse((*table.path, *key), message, fix, ConfigCode.BAD_VALUE)
