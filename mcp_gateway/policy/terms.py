"""What one call has to meet besides the policy's conditions: pure values, made for `guards` to hold against the state.

Nothing here knows what has happened so far. What cannot be worked out (an amount that is no number, an argument that
has to be the same and is missing) makes its grant hold no more: it fails closed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from mcp_gateway import jsonrpc
from mcp_gateway.domain import After, Budget, Caller, Flow, Offer, Request, Target, Terms, Verb, Window
from mcp_gateway.policy.conditions import Scope, plain
from mcp_gateway.policy.demands import Demands, FirstCall, FlowRule, Limit, tightest
from mcp_gateway.policy.document import Grant

USES: Final = (Verb.CALL, Verb.GET, Verb.READ, Verb.MODEL, Verb.SAMPLE)
"""What counts against limits. Everything else is about a call that was counted, or gets no content."""

_SENDS: Final = (*USES, Verb.COMPLETE, Verb.TASK_UPDATE)
_READS: Final = (*_SENDS, Verb.TASK_GET)


def scope_id(caller: Caller) -> str:
    """Whose state it is: the started task's; else the agent's on this task for this person."""
    return caller.started_id or _digest("standing", caller.agent, caller.task, caller.person)


def offer(grant: Grant, task: str, caller: Caller, scope: Scope) -> Offer | None:
    """What a grant that holds asks of this call; None where that cannot be worked out."""
    demands = grant.demands or Demands()
    window = None if demands.limit is None else _window(grant, demands.limit, task, caller, scope)
    after = None if demands.after is None else _after(demands.after, scope.args)
    if (demands.limit is None) != (window is None) or (demands.after is None) != (after is None):
        return None
    approval = demands.approval
    return Offer(str(grant.at), window, after, bool(approval), approval == "agent-side")


def bearing(rules: Sequence[FlowRule], request: Request, target: Target) -> tuple[Flow, ...]:
    """The rules that speak of this target, each with what would have to have been read besides its own tags."""
    if request.verb not in _SENDS:
        return ()
    is_new = request.verb in USES and request.inputs is None  # later rounds of a call were approved with it
    found = []
    for rule in rules:
        if rule.no_more & target.tags and (is_new or not rule.approval or request.verb not in USES):
            can_wait = bool(rule.approval) and is_new
            agent_side = can_wait and rule.approval == "agent-side"
            found.append(Flow(str(rule.at), rule.once - target.tags, can_wait, agent_side, rule.reason))
    return tuple(found)


def forbidding(rules: Sequence[FlowRule], target: Target) -> FlowRule | None:
    """The rule that rules a target out by its own tags, whatever was read before; None: there is none."""
    return next((r for r in rules if not r.approval and r.no_more & target.tags and r.once <= target.tags), None)


def reads(rules: Sequence[FlowRule], request: Request, target: Target) -> frozenset[str]:
    """The tags of a target that some rule waits for."""
    if request.verb not in _READS or not target.tags:
        return frozenset()
    return target.tags & frozenset[str]().union(*(rule.once for rule in rules))


def marks(first_calls: Sequence[FirstCall], request: Request) -> tuple[str, ...]:
    """What a call that succeeds leaves behind for those that have to come after it."""
    if request.verb not in USES:
        return ()
    found = (_mark(first, {theirs: theirs for _, theirs in first.same}, request.arguments) for first in first_calls)
    return tuple(mark for mark in found if mark)


def budget(policys: Budget, caller: Caller, request: Request) -> Budget | None:
    """The started task's budget, where the request counts against it."""
    if caller.started is None or request.verb not in USES:
        return None
    return tightest(policys, caller.started.budget) or None


def terms(
    caller: Caller,
    offers: tuple[Offer, ...],
    flows: tuple[Flow, ...],
    read: frozenset[str],
    left: tuple[str, ...],
    spent: Budget | None,
) -> Terms | None:
    """The terms; None where nothing has to be met and nothing has to be kept."""
    if not (offers or flows or read or left or spent):
        return None
    return Terms(scope_id(caller), offers, flows, read, left, spent)


def _window(grant: Grant, limit: Limit, task: str, caller: Caller, scope: Scope) -> Window | None:
    amount = 0 if limit.amount is None else limit.amount.of(scope)
    if amount is None:
        return None
    # Not the line: an edit above it must not forget what was used.
    patterns = sorted(pattern.text for pattern in grant.patterns)
    condition = grant.condition.text if grant.condition else ""
    key = _digest("limit", task, patterns, condition, caller.agent, caller.person)
    return Window(key, limit.per_s, limit.calls, limit.at_most, amount)


def _after(first: FirstCall, args: Mapping[str, Any] | None) -> After | None:
    mark = _mark(first, {theirs: mine for mine, theirs in first.same}, args or {})
    return After(mark, first.within_s, first.pattern.text) if mark else None


def _mark(first: FirstCall, names: Mapping[str, str], args: Mapping[str, Any]) -> str:
    """One text for "this call, with these values"; empty where a value is missing. `names`: theirs to those in args."""
    if not all(name in args for name in names.values()):
        return ""
    values = [plain(args[names[theirs]]) for _, theirs in first.same]
    return _digest("after", first.pattern.text, [theirs for _, theirs in first.same], values)


def _digest(*parts: Any) -> str:
    return hashlib.sha256(jsonrpc.canonical(list(parts))).hexdigest()
