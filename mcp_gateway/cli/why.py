"""`mcp-gateway why`: why an agent may or may not use something, or why it could at the time of an audit entry."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import anyio
import orjson
import typer

from mcp_gateway.audit.query import escaped
from mcp_gateway.cli.output import DEFAULT_CONFIG, EXIT_NO, AsJson, ConfigPath, out, print_json, warn
from mcp_gateway.config.servers import Configuration, load
from mcp_gateway.config.toml_lines import did_you_mean
from mcp_gateway.domain import (
    DRAFTS,
    MODELS,
    NOTHING,
    PROVIDER_TOOLS,
    Caller,
    Json,
    Kind,
    Request,
    StartedTask,
    Target,
    Verb,
)
from mcp_gateway.errors import Unreachable
from mcp_gateway.guards.transactions import Transactions
from mcp_gateway.identity.started import StartedRecord
from mcp_gateway.identity.task import task_for
from mcp_gateway.models.sender import targets_of
from mcp_gateway.policy.compile import Policy, compile_policy, sources_of
from mcp_gateway.policy.document import from_sources
from mcp_gateway.policy.explain import Explanation, explain
from mcp_gateway.policy.golden import as_if_started
from mcp_gateway.policy.patterns import Pattern, PatternError, parse_pattern
from mcp_gateway.telemetry import setup_logging
from mcp_gateway.wiring import apis_of, audit_reader, catalog_of, policy_of, started_tasks_of, utc_now

ASK_UPSTREAM_S: Final = 10.0
MAX_DIGITS: Final = 18
"""SQLite's integers have no more."""

_CALLS: Final[Mapping[Kind, tuple[Verb, str]]] = {
    Kind.TOOL: (Verb.CALL, "tools/call"),
    Kind.PROMPT: (Verb.GET, "prompts/get"),
    Kind.RESOURCE: (Verb.READ, "resources/read"),
    Kind.MODEL: (Verb.MODEL, "model"),
    Kind.ROUTE: (Verb.ROUTE, "route"),
}

_METHODS: Final[Mapping[str, str]] = {
    **{verb.value: method for verb, method in _CALLS.values()},
    Verb.SAMPLE.value: "model",
    Verb.COMPLETE.value: "completion/complete",
    Verb.SUBSCRIBE.value: "resources/subscribe",
    Verb.TASK_GET.value: "tasks/get",
    Verb.TASK_UPDATE.value: "tasks/update",
    Verb.TASK_CANCEL.value: "tasks/cancel",
}

_TOLD: Final[Mapping[str, tuple[str, ...]]] = {
    "decided": ("seq", "at", "request_id", "kind", "agent", "task", "person", "upstream", "name", "args"),
    "finished": ("outcome", "error", "result_preview", "result_bytes", "upstream_ms"),
    "event": ("seq", "at", "kind", "name", "agent", "reason", "args"),
}


@dataclass(frozen=True, slots=True)
class _Found:
    """What a name on the command line stands for."""

    target: Target
    is_offered: bool
    """False: there certainly is no such target, whatever the policy says of its name."""


def why(
    agent: Annotated[str, typer.Argument(help="The agent; or the number of an audit entry.")],
    target: Annotated[str, typer.Argument(help="upstream/tool, prompt:upstream/name or resource:upstream/URI.")] = "",
    task: Annotated[str | None, typer.Option(help="The task it is on; else its default task.")] = None,
    args: Annotated[str, typer.Option(help="The arguments as JSON; without them the answer may be: it depends.")] = "",
    claims: Annotated[str, typer.Option(help="Verified claims as JSON.")] = "",
    person: Annotated[str | None, typer.Option(help="The person the agent acts for.")] = None,
    context: Annotated[str, typer.Option(help="As if somebody had started the task with this, as JSON.")] = "",
    started: Annotated[str, typer.Option(help="On this started task: its id, as `task list` shows it.")] = "",
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Explain a decision: each grant and deny, whether it matches, and the part of a condition that decided.

    With the number of an entry of `mcp-gateway log` instead: what happened, and why it could. Exits 1 where the
    answer is no.

    Example: `mcp-gateway why support-bot billing/refund --args '{"amount": 40}'`
    """
    setup_logging("critical")  # what an upstream says while it is asked stands in our own words below
    configuration = load(Path(config), os.environ)
    if not target:
        _tell_entry(configuration, agent, as_json)
        return
    policy = policy_of(configuration)
    pattern, arguments, claimed = _pattern(target), _json(args, "--args"), _json(claims, "--claims")
    caller = Caller(agent, task_for(policy.assignments.get(agent), task), person, claims=claimed or NOTHING)
    caller = _on_a_started_task(configuration, caller, started, _json(context, "--context"))
    _warn_of_strangers(policy, caller)
    _tell(configuration, policy, caller, _find(configuration, pattern, target), arguments, as_json)


def _on_a_started_task(configuration: Configuration, caller: Caller, started: str, context: Json | None) -> Caller:
    if context is not None:
        return replace(caller, started=as_if_started(caller.agent, caller.task, context, utc_now()))
    if not started:
        return caller
    record = _record_of(configuration, started)
    if record is None:
        raise typer.BadParameter(f"no task has the id {started!r}: see mcp-gateway task list --all")
    # One that is over is told as it would be if it were not: what it may do, not when, is the question here.
    task = record.task if record.holds(utc_now()) else replace(record.task, expires=utc_now() + timedelta(hours=1))
    return replace(caller, task=task.task, person=caller.person or task.person, started=task)


def _record_of(configuration: Configuration, started: str) -> StartedRecord | None:
    with closing(started_tasks_of(configuration)) as tasks:
        return tasks.find(started)


def _tell(
    configuration: Configuration,
    policy: Policy,
    caller: Caller,
    found: _Found,
    args: Mapping[str, Any] | None,
    as_json: bool,
) -> None:
    target = found.target
    called = Request("why", *_CALLS[target.kind], target.kind, target.name, {"arguments": args or {}})
    is_whole = args is not None or target.kind is Kind.RESOURCE
    request = called if is_whole else replace(called, verb=Verb.LIST, method="")  # lists know no arguments either
    by_name = explain(policy, caller, request, target, utc_now())
    answer = by_name if found.is_offered else explain(policy, caller, called, None, utc_now())
    moment = _at_this_moment(configuration, caller, request, target, answer)
    if as_json:
        print_json({**answer.to_dict(), **({"now": moment} if moment else {})})
    else:
        _print_lines(answer)
        _print_moment(moment)
        if answer is not by_name:
            out.print("if it were offered:")
            _print_lines(by_name)
    if not answer.decision.visible:
        raise typer.Exit(EXIT_NO)


def _at_this_moment(
    configuration: Configuration, caller: Caller, request: Request, target: Target, answer: Explanation
) -> Json:
    """What limits, order, approvals, flows and the task's budget come to now; empty where nothing of it bears."""
    terms = answer.decision.terms
    if terms is None:
        return {}
    settings = configuration.settings
    with closing(Transactions(settings.state, utc_now, settings.approval_wait_s)) as transactions:
        found = transactions.foreseen(caller, request, target, terms)
        state = transactions.store.state(terms.scope, transactions.now())
    refused = found.refused or ""
    told: Json = {"allowed": not refused, "reason": str(refused), "by": found.grant, "wanted": found.wanted}
    return {**told, "retry_in_s": found.retry_in_s, "tags_read": state.tags, "calls_so_far": state.calls}


def _print_moment(moment: Json) -> None:
    if not moment:
        return
    by = f" by {moment['by']}" if moment["by"] else ""
    wanted = f": {moment['wanted']}" if moment["wanted"] else ""
    again = "" if moment["retry_in_s"] is None else f", again in {moment['retry_in_s']:.0f} s"
    said = "it goes ahead" if moment["allowed"] else f"it does not ({moment['reason']}{wanted}{again})"
    out.print(escaped(f"at this moment {said}{by}"))
    for tag, source in sorted(moment["tags_read"].items()):
        out.print(escaped(f"  the task has read {tag} ({source})"))


def _print_lines(explanation: Explanation) -> None:
    for line in explanation.to_lines():
        out.print(escaped(line))


def _warn_of_strangers(policy: Policy, caller: Caller) -> None:
    assignment = policy.assignments.get(caller.agent)
    if assignment is None:
        warn(f"no policy names the agent {caller.agent!r}", did_you_mean(caller.agent, policy.assignments))
    elif caller.task is not None and caller.task not in policy.tasks:
        warn(f"no policy has the task {caller.task!r}", did_you_mean(caller.task, assignment.tasks))


def _pattern(written: str) -> Pattern:
    try:
        return parse_pattern(written, any_upstream=False)
    except PatternError as e:
        raise typer.BadParameter(
            f"{e}: write upstream/tool, prompt:upstream/name, resource:upstream/URI or model:models/NAME"
        ) from e


def _find(configuration: Configuration, pattern: Pattern, written: str) -> _Found:
    """The target as its upstream defines it now; a bare one where the upstream cannot say."""
    name = (written.partition(":")[2] if pattern.kind is not Kind.TOOL else written).partition("/")[2]
    bare = Target(pattern.kind, pattern.upstream, name, name, {}, "")
    if pattern.kind is Kind.MODEL:
        return _find_model(configuration, bare)
    if pattern.kind is Kind.ROUTE:
        return _find_route(configuration, bare)
    enabled = [server.name for server in configuration.servers if server.enabled]
    if pattern.upstream not in enabled:
        warn(
            f"{configuration.path} has no enabled server {pattern.upstream!r}", did_you_mean(pattern.upstream, enabled)
        )
        return _Found(bare, is_offered=False)
    try:
        catalog, held = anyio.run(catalog_of, configuration, pattern.upstream, ASK_UPSTREAM_S)
    except Unreachable as e:
        warn(f"upstream {pattern.upstream!r} cannot be asked ({e}): the policy is asked about the bare name")
        return _Found(bare, is_offered=True)
    known = catalog.find(Kind.RESOURCE, name) if pattern.kind is Kind.RESOURCE else None
    offered = {target.name: target for target in catalog.targets(pattern.kind)}
    found = known or offered.get(name)
    if found is None and (why := next((each.why for each in held if each.target == written), None)) is not None:
        warn(f"{written} is held back ({why}) until somebody approves it", f"mcp-gateway pins diff {written} --ask")
    elif found is None:
        warn(f"upstream {pattern.upstream!r} offers no {pattern.kind} {name!r}", did_you_mean(name, offered))
    return _Found(found or bare, is_offered=found is not None)


def _find_model(configuration: Configuration, bare: Target) -> _Found:
    """A model as servers.toml offers it; what providers do by themselves is listed nowhere."""
    offered = {target.name: target for target in targets_of(configuration.models)}
    is_offered = bare.upstream == PROVIDER_TOOLS or (bare.upstream == MODELS and bare.name in offered)
    if not is_offered:
        warn(f"{configuration.path} offers no model {bare.name!r}", did_you_mean(bare.name, offered))
    return _Found(offered.get(bare.name, bare), is_offered)


def _find_route(configuration: Configuration, bare: Target) -> _Found:
    """A request to a plain API, as it would be sent; or a draft among the routes of one."""
    apis = apis_of(configuration)
    server, _, route = bare.name.partition("/")
    if bare.upstream == DRAFTS:
        is_offered = server in apis and route in (each.name for each in apis[server].routes)
    else:
        method, _, path = bare.name.partition(" ")
        is_offered = bare.upstream in apis and apis[bare.upstream].admits(method, path)
    if not is_offered:
        warn(f"{configuration.path} has no route {bare.key!r}", did_you_mean(bare.upstream, apis))
    return _Found(bare, is_offered)


def _tell_entry(configuration: Configuration, number: str, as_json: bool) -> None:
    """A past entry, and the decision explained again under the policy that stood then."""
    if not number.isascii() or not number.isdigit():
        raise typer.BadParameter("write an agent and a target, or the number of an audit entry")
    with audit_reader(configuration) as audit:
        entry = audit.entry(int(number)) if len(number) <= MAX_DIGITS else None
    if entry is None:
        raise typer.BadParameter(f"there is no entry {number} in {configuration.settings.audit}")
    explanation = explained_again(entry, _started_then(configuration, entry))
    if as_json:
        print_json({**entry, "explanation": explanation.to_dict() if explanation else None})
        return
    for row, columns in _rows(entry):
        for column in columns:
            if row.get(column) is not None:
                out.print(f"{column:>14}  {escaped(str(row[column]))}")
    if explanation is not None:
        _print_lines(explanation)
        _warn_of_difference(entry["decided"], explanation)
    elif entry["decided"]:
        out.print(_why_not_explained(entry["decided"]))


def _rows(entry: Json) -> Iterator[tuple[Json, tuple[str, ...]]]:
    if entry["decided"] is None:
        yield entry["finished"], _TOLD["event"]
        return
    yield entry["decided"], _TOLD["decided"]
    yield entry["finished"] or {"outcome": "under way"}, _TOLD["finished"]


def _why_not_explained(decided: Json) -> str:
    if decided["kind"] == Verb.LIST:
        return "a list: each entry of it was decided by itself"
    return f"{decided['decision']} ({decided['reason']}); the policy of that time is not kept"


def _warn_of_difference(decided: Json, explanation: Explanation) -> None:
    """The audit keeps arguments redacted and bounded, or not at all, and no claims: what is kept may not suffice."""
    now = explanation.decision
    if (now.effect, now.grant) != (decided["decision"], decided["grant_at"] or ""):
        by = f" by {decided['grant_at']}" if decided["grant_at"] else ""
        warn(
            f"what was decided then is {decided['decision']} ({decided['reason']}){by}; the explanation is another "
            "because the audit does not hold all that the decision was made of (redacted arguments, claims)"
        )


def _started_then(configuration: Configuration, entry: Json) -> StartedTask | None:
    """The started task of an entry; None where there was none, or it is forgotten."""
    started = (entry["decided"] or {}).get("started")
    record = _record_of(configuration, started) if started else None
    return None if record is None else record.task


def explained_again(entry: Json, started: StartedTask | None = None) -> Explanation | None:
    """The decision of an entry, from what the audit keeps of it; None for lists, events, and without a policy.

    `started` is the task it was under, as it was started; what had been used and read then is not known any more.
    """
    decided, policy, target = entry["decided"], entry["policy"], entry["target"]
    if decided is None or policy is None or policy["text"] is None or decided["kind"] not in _METHODS:
        return None
    then = compile_policy(from_sources(sources_of(policy["text"])))
    at = datetime.fromisoformat(decided["at"])
    if started is not None and started.expires <= at:
        started = replace(started, expires=at + timedelta(seconds=1))  # it was shortened since
    caller = Caller(decided["agent"], decided["task"], decided["person"], started=started)
    verb, kind = Verb(decided["kind"]), Kind(target["kind"]) if target else Kind.TOOL
    args = {"arguments": orjson.loads(decided["args"] or "{}")}
    request = Request(decided["request_id"], verb, _METHODS[verb], kind, decided["name"], args)
    known = None
    if target is not None:
        definition = orjson.loads(target["definition"])
        known = Target(kind, target["upstream"], target["name"], target["name"], definition, target["hash"])
    return explain(then, caller, request, known, at)


def _json(text: str, option: str) -> dict[str, Any] | None:
    if not text:
        return None
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as e:
        raise typer.BadParameter(f"{option} is not JSON: {e}") from e
    if not isinstance(value, dict):
        raise typer.BadParameter(f"{option} must be a JSON object")
    return value
