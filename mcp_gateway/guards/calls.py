"""Which parts of a call the content guards look at, and how a masked part is put back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from mcp_gateway.domain import Action, Finding, Holding, HttpPart, Inspection, Outcome, Request, RpcError, Stage, Target
from mcp_gateway.errors import Blocked
from mcp_gateway.guards.content import Content
from mcp_gateway.guards.held import HeldRelay
from mcp_gateway.guards.windows import WindowedRelay
from mcp_gateway.jsonrpc import dump

_NOT_CONTENT: Final = frozenset({"_meta", "name", "ref", "taskId"})
"""Members of params that name what is asked for or belong to the protocol."""
_NOT_RESULT: Final = frozenset({"_meta", "requestState", "resultType", "taskId", "nextCursor", "ttlMs", "cacheScope"})
"""Members of results that come back to us or their upstream and must not be touched."""
_FORM: Final = "application/x-www-form-urlencoded"


async def look_at_request(
    content: Content, inspections: Sequence[Inspection], target: Target, request: Request, max_bytes: int
) -> tuple[Request, tuple[Finding, ...]]:
    """The request that goes on, masked where a guard says so, and what was found. Raises `Blocked`.

    Where a guard will look at an HTTP answer, that is held back from now on, if it has at most `max_bytes`; a stream
    only in part where all of them say so (`windows`).
    """
    if request.http is not None:
        http, findings = await _look_at_http(content, inspections, request.http)
        of_results = [inspection for inspection in inspections if Stage.RESULTS in inspection.stages]
        if of_results and all(inspection.held is Holding.WINDOWS for inspection in of_results):
            http = replace(http, relay=WindowedRelay(http.relay, target, max_bytes, content, of_results))
        elif of_results:
            http = replace(http, relay=HeldRelay(http.relay, target, max_bytes))
        return request if http is request.http else replace(request, http=http), findings
    carried: dict[str, Any] = {key: part for key, part in request.params.items() if key not in _NOT_CONTENT}
    looked = await content.look(inspections, Stage.ARGUMENTS, {"params": carried, "inputs": request.inputs})
    masked: Mapping[str, Any] = looked.value
    if masked["params"] is carried and masked["inputs"] is request.inputs:
        return request, looked.findings
    if masked["params"].get("uri") != carried.get("uri"):
        raise Blocked("the address asked for holds what may not pass here", looked.findings)
    return replace(request, params={**request.params, **masked["params"]}, inputs=masked["inputs"]), looked.findings


async def _look_at_http(
    content: Content, inspections: Sequence[Inspection], http: HttpPart
) -> tuple[HttpPart, tuple[Finding, ...]]:
    """Path, query and body. A body goes on byte for byte as it came, unless something in it is masked."""
    path, _, query = http.path.partition("?")
    body = http.json if http.json is not None else _text_of(http, inspections)
    carried = {"path": path, "query": _plain(query), "body": _plain(body) if _is_form(http) else body}
    looked = await content.look(inspections, Stage.ARGUMENTS, carried)
    masked: Mapping[str, Any] = looked.value
    if masked is carried:
        return http, looked.findings
    if _is_form(http) or any(masked[part] is not carried[part] for part in ("path", "query")):
        raise Blocked("the address or the form holds what may not pass here", looked.findings)
    if http.json is None:
        return replace(http, body=masked["body"].encode()), looked.findings
    return replace(http, json=masked["body"], body=dump(masked["body"])), looked.findings


def _text_of(http: HttpPart, inspections: Sequence[Inspection]) -> str:
    """A body that is no JSON. Raises `Blocked` for one that nobody can read, where a guard does more than alert."""
    text = http.body.decode("utf-8", "replace")
    is_readable = "\ufffd" not in text and "\0" not in text
    if not is_readable and any(
        Stage.ARGUMENTS in inspection.stages and inspection.action is not Action.ALERT for inspection in inspections
    ):
        raise Blocked("what was sent is no text: nobody can say what it holds")
    return text


def _is_form(http: HttpPart) -> bool:
    return http.json is None and http.headers.get("content-type", "").lower().startswith(_FORM)


def _plain(text: str) -> str:
    """A query or form with its spaces; percent escapes are read by whoever looks at it."""
    return text.replace("+", " ")


async def look_at_outcome(
    content: Content,
    inspections: Sequence[Inspection],
    request: Request,
    outcome: Outcome,
    found: tuple[Finding, ...],
) -> Outcome:
    """The outcome that the agent hears of, with all findings of the call: `found` are those of its request.

    Raises `Blocked`.
    """
    if request.http is not None:
        relay = request.http.relay
        held = await relay.release(content, inspections) if isinstance(relay, HeldRelay) else ()
        return replace(outcome, findings=(*found, *held))
    carried = {key: part for key, part in (outcome.result or {}).items() if key not in _NOT_RESULT}
    error = None if outcome.error is None else {"message": outcome.error.message, "data": outcome.error.data}
    looked = await content.look(inspections, Stage.RESULTS, {"result": carried, "error": error})
    findings = (*found, *looked.findings)
    masked: Mapping[str, Any] = looked.value
    if masked["result"] is not carried:
        outcome = replace(outcome, result={**(outcome.result or {}), **masked["result"]})
    if outcome.error is not None and masked["error"] is not error:
        outcome = replace(outcome, error=RpcError(outcome.error.code, **masked["error"]))
    return replace(outcome, findings=findings) if findings else outcome
