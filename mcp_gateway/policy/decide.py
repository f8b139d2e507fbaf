"""The one question every list and every call asks: may this caller use this target, for these arguments?

1. Unknown agent, no task, or a task that is not the agent's: denied. Unknown target: denied.
2. Any deny that matches and holds: denied. One that cannot be evaluated denies too: it fails closed.
3. Any grant that matches and holds: allowed. A condition that cannot be evaluated is not true.
4. Otherwise denied; where nothing but scopes of the caller's token is missing, with the scopes that would do.

What an allowed call still has to meet at its moment (limits, order, approvals, what its task has read, its budget) goes
along as the decision's `terms`; a started task's end is the policy's business, for time is an argument.

In a list the arguments are not known, so the answer can be that it depends on them; lists show that. What a list hides
is denied for all arguments. Pure: time is an argument, nothing is read or written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from mcp_gateway.domain import (
    NOTHING,
    Caller,
    Decision,
    Effect,
    Kind,
    Offer,
    Reason,
    Request,
    StartedTask,
    Target,
    Verb,
)
from mcp_gateway.policy import terms
from mcp_gateway.policy.compile import Candidate, Candidates, Policy
from mcp_gateway.policy.conditions import ERROR, FALSE, TRUE, Scope, Values, read
from mcp_gateway.policy.patterns import Match

_METHOD_OF_USE: Final = {
    Kind.TOOL: "tools/call",
    Kind.PROMPT: "prompts/get",
    Kind.RESOURCE: "resources/read",
    Kind.TEMPLATE: "resources/read",
    Kind.MODEL: "model",
    Kind.ROUTE: "route",
}
_AFTER_A_CALL: Final = (Verb.TASK_GET, Verb.TASK_UPDATE, Verb.TASK_CANCEL)
"""About a call whose arguments were judged when it was made, and are not sent again."""

_WITHOUT_ARGUMENTS: Final = (Verb.LIST, Verb.SEARCH, Verb.COMPLETE, *_AFTER_A_CALL)
_JUDGED_AS_USE: Final = (*_WITHOUT_ARGUMENTS, Verb.SUBSCRIBE)


def decide(policy: Policy, caller: Caller, request: Request, target: Target | None, now: datetime) -> Decision:
    """What `policy` says; `target` is None where the catalog knows none by that name.

    A list itself (`Verb.LIST` without a target) is allowed with `Reason.LIST`: each entry is decided by itself. What
    is in shadow has no say; its verdict stands beside the decision of a call where a line of it speaks of the target.
    """
    if policy.shadow is not None and target is not None and request.verb is not Verb.LIST:
        return _beside(decide(policy.live, caller, request, target, now), policy.shadow, caller, request, target, now)
    refused = refusal(policy, caller, now)
    if refused is not None:
        return policy.refusal(refused)
    if target is None:
        if request.verb is Verb.LIST:
            return Decision(Effect.ALLOWED, Reason.LIST, policy_version=policy.version)
        return policy.refusal(Reason.UNKNOWN_TARGET)
    candidates = policy.candidates(caller.task or "", target.kind, target.upstream, target.name)
    decision, scope = candidates.settled, None
    if decision is None:
        scope = scope_of(caller, request, target, now)
        decision = for_verb(policy, request.verb, weigh(policy, candidates, scope))
    has_more = caller.started is not None or (policy.has_terms and (target.tags or candidates.bears_terms))
    if not has_more or not decision.visible:
        return decision
    return _with_terms(policy, decision, candidates, caller, request, target, scope)


def visible_of(
    policy: Policy, caller: Caller, request: Request, targets: Iterable[Target], now: datetime
) -> tuple[Target, ...]:
    """Those of one kind that `decide` says some call could be allowed; `request` is the list.

    Asked for each target, and once for those that the very same lines speak of, where no condition looks at the target.
    """
    if refusal(policy, caller, now) is not None:
        return ()
    shown, known = [], dict[Hashable, bool]()
    for target in targets:
        lines = policy.candidates(caller.task or "", target.kind, target.upstream, target.name).alike
        alike = None if lines is None else (lines, target.tags)
        is_visible = None if alike is None else known.get(alike)
        if is_visible is None:
            is_visible = decide(policy, caller, request, target, now).visible
            if alike is not None:
                known[alike] = is_visible
        if is_visible:
            shown.append(target)
    return tuple(shown)


def seen_alike(policy: Policy, caller: Caller, request: Request, now: datetime) -> Hashable | None:
    """All that a list hangs on besides the targets there are: callers for whom it is equal see the same of a kind.

    None: on more than can be told, as the time.
    """
    refused = refusal(policy, caller, now)
    if refused is not None:
        return refused
    task = caller.task or ""
    looks = policy.looks_at(task)
    if "now" in looks.names:
        return None
    # Conditions are handed what they name and nothing else, so that they cannot come out otherwise for the same.
    values = _asking(caller, request, _METHOD_OF_USE[request.kind], now)
    try:
        seen = repr([(name, read(values[name], fields)) for name, fields in looks.names.items()])
    except RecursionError:
        return None
    return task, request.kind, caller.scopes if looks.at_scopes else None, hashlib.sha256(seen.encode()).digest()


def _beside(
    decision: Decision, shadow: Policy, caller: Caller, request: Request, target: Target, now: datetime
) -> Decision:
    """The decision, with what it would be were nothing in shadow."""
    if refusal(shadow, caller, now) is not None:
        return decision
    candidates = shadow.candidates(caller.task or "", target.kind, target.upstream, target.name)
    agent = shadow.agents[caller.agent]
    if not (agent.is_shadow or any(line.grant.is_shadow for line in (*candidates.denies, *candidates.grants))):
        return decision
    verdict = decide(shadow, caller, request, target, now)
    return replace(decision, shadow=verdict.effect.value, shadow_at=verdict.grant)


def refusal(policy: Policy, caller: Caller, now: datetime) -> Reason | None:
    """Why this caller gets nothing at all, whatever the target; None if it may get something."""
    assignment = policy.assignments.get(caller.agent)
    if assignment is None:
        return Reason.UNKNOWN_AGENT
    if caller.task is None:
        return Reason.NO_TASK
    if caller.task not in assignment.tasks:
        return Reason.TASK_NOT_ASSIGNED
    if caller.started is not None:
        return None if _is_under_way(caller, now) else Reason.TASK_OVER
    return Reason.TASK_NOT_STARTED if caller.task in policy.tasks_to_start else None


def _is_under_way(caller: Caller, now: datetime) -> bool:
    started = caller.started
    is_its_own = started is not None and (started.agent, started.task) == (caller.agent, caller.task)
    return is_its_own and started is not None and now < started.expires


def _with_terms(
    policy: Policy,
    decision: Decision,
    candidates: Candidates,
    caller: Caller,
    request: Request,
    target: Target,
    scope: Scope | None,
) -> Decision:
    """A decision that allows (or may), with what still has to be met; or the denial that this comes to."""
    task = caller.task or ""
    rules = policy.flows(task)
    forbidden = terms.forbidding(rules, target) if target.tags else None
    if forbidden is not None:
        return Decision(Effect.DENIED, Reason.FLOW, str(forbidden.at), policy.version, forbidden.reason)
    if not decision.allowed or request.verb in (Verb.LIST, Verb.SEARCH):
        return decision
    offers: tuple[Offer, ...] = ()
    if scope is not None and candidates.demanding and request.verb in terms.USES and request.inputs is None:
        found = _offers(candidates, task, caller, scope)
        if found is None:
            return Decision(Effect.DENIED, Reason.CONDITION_UNEVALUABLE, decision.grant, policy.version)
        offers = found
    found_terms = terms.terms(
        caller,
        offers,
        terms.bearing(rules, request, target),
        terms.reads(rules, request, target),
        terms.marks(candidates.first_calls, request),
        terms.budget(policy.tasks[task].budget, caller, request),
    )
    return decision if found_terms is None else replace(decision, terms=found_terms)


def _offers(candidates: Candidates, task: str, caller: Caller, scope: Scope) -> tuple[Offer, ...] | None:
    """What the grants that hold ask for, the fewer people the earlier; none where one asks for nothing.

    None: what they ask for cannot be worked out for this call.
    """
    holding = [candidate.grant for candidate in candidates.grants if holds(candidate, scope) == TRUE]
    if any(grant.demands is None for grant in holding):
        return ()
    offers = [made for grant in holding if (made := terms.offer(grant, task, caller, scope)) is not None]
    return tuple(sorted(offers, key=lambda made: (made.needs_approval, not made.agent_side))) or None


def scope_of(caller: Caller, request: Request, target: Target, now: datetime) -> Scope:
    """What conditions see of one request for one target."""
    annotations = target.definition.get("annotations")
    # A list asks what calls could do: were its own method seen, a condition could tell lists and calls apart. Likewise
    # a subscription: whoever may not read a resource is not told of it, and whoever may could look all the time.
    method = _METHOD_OF_USE[target.kind] if request.verb in _JUDGED_AS_USE else request.method
    values = _asking(caller, request, method, now)
    values["tool"] = {
        "name": target.name,
        "annotations": annotations if isinstance(annotations, Mapping) else NOTHING,
        "upstream": target.upstream,
        "tags": target.tags,
    }
    return Scope(values, _arguments(request, target), caller.scopes)


def _asking(caller: Caller, request: Request, method: str, now: datetime) -> dict[str, Any]:
    """What conditions see of whoever asks, and when; all but the target and its arguments."""
    return {
        "agent": {"name": caller.agent},
        "person": caller.person,
        "task": {"name": caller.task} if caller.started is None else _context(caller.started),
        "claims": caller.claims,
        "request": {"era": str(request.era), "transport": str(request.transport), "method": method},
        "now": now,
    }


def _context(started: StartedTask) -> Mapping[str, Any]:
    return {**started.context, "name": started.task, "id": started.id}


def holds(candidate: Candidate, scope: Scope) -> Values:
    """Every truth value that "this line speaks of the target, and its condition is true" could have."""
    if not has_scopes(candidate, scope):
        return FALSE
    return holds_with_scopes(candidate, scope)


def has_scopes(candidate: Candidate, scope: Scope) -> bool:
    """Whether the caller's token has what the line asks for."""
    return candidate.grant.scopes <= (scope.granted or frozenset())


def holds_with_scopes(candidate: Candidate, scope: Scope) -> Values:
    """The same as `holds`, if the caller had every scope."""
    condition = candidate.grant.condition
    values = TRUE if condition is None else condition.values(scope)
    return values if candidate.match is Match.ALL else values | FALSE


def _arguments(request: Request, target: Target) -> Mapping[str, Any] | None:
    """What conditions see as `args`; None where it is not known yet."""
    if target.kind is Kind.RESOURCE:
        return {"uri": target.name}  # known in lists too, so that lists and reads judge the same
    if target.kind is Kind.TEMPLATE or request.verb in _WITHOUT_ARGUMENTS:
        return None
    return request.arguments


def weigh(policy: Policy, candidates: Candidates, scope: Scope) -> Decision:
    """What the lines that speak of a target come to; `DEPENDS` where that hangs on what `scope` does not know."""
    denies = [(deny, holds(deny, scope)) for deny in candidates.denies]
    # A deny that cannot be false denies, whether it is true or cannot be evaluated.
    certain = [(deny, values) for deny, values in denies if not values & FALSE]
    if certain:
        deny, values = next((pair for pair in certain if pair[1] & TRUE), certain[0])
        return policy.decided(Effect.DENIED, Reason.DENY if values & TRUE else Reason.DENY_UNEVALUABLE, deny)
    may_be_denied = any(values & (TRUE | ERROR) for _, values in denies)
    grants = [(grant, holds(grant, scope)) for grant in candidates.grants]
    allowing = next((grant for grant, values in grants if values == TRUE), None)
    if allowing is not None and not may_be_denied:
        return policy.decided(Effect.ALLOWED, Reason.GRANT, allowing)
    possible = allowing or next((grant for grant, values in grants if values & TRUE), None)
    if possible is not None:
        return policy.decided(Effect.DEPENDS, Reason.GRANT_DEPENDS, possible)
    return _step_up(policy, candidates, scope) or _none_holds(policy, grants)


def _step_up(policy: Policy, candidates: Candidates, scope: Scope) -> Decision | None:
    """What more scopes would allow, if this caller can get any: of several ways the one that lacks the fewest."""
    if scope.granted is None:
        return None
    ways = [
        grant for grant in candidates.grants if not has_scopes(grant, scope) and holds_with_scopes(grant, scope) & TRUE
    ]
    if not ways:
        return None
    granted = scope.granted
    way = min(ways, key=lambda grant: (len(grant.grant.scopes - granted), grant.grant.at))
    return policy.decided(Effect.DEPENDS, Reason.INSUFFICIENT_SCOPE, way)


def _none_holds(policy: Policy, grants: Sequence[tuple[Candidate, Values]]) -> Decision:
    if not grants:
        return policy.refusal(Reason.NO_GRANT)
    failed = next((grant for grant, values in grants if values & ERROR), None)
    if failed is not None:
        return policy.decided(Effect.DENIED, Reason.CONDITION_UNEVALUABLE, failed)
    return policy.decided(Effect.DENIED, Reason.CONDITION_FALSE, grants[0][0])


def for_verb(policy: Policy, verb: Verb, decision: Decision) -> Decision:
    """`DEPENDS` is an answer for lists only. A completion reveals no more than the list does, and what comes after a
    call no more than that call, which the arguments then allowed."""
    if decision.effect is not Effect.DEPENDS or verb is Verb.LIST:
        return decision
    if decision.reason is Reason.INSUFFICIENT_SCOPE:
        return replace(decision, effect=Effect.DENIED)
    if verb in (Verb.COMPLETE, Verb.SEARCH) or verb in _AFTER_A_CALL:
        return Decision(Effect.ALLOWED, decision.reason, decision.grant, policy.version)
    return Decision(Effect.DENIED, Reason.CONDITION_UNEVALUABLE, decision.grant, policy.version)
