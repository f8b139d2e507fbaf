"""The nouns every other file speaks in, and the interfaces between the rooms.

Imports nothing of ours. Everything here is immutable: state changes by replacing an object. Messages are raw JSON
dicts (`Json`), so that fields nobody knows yet survive the trip; nobody may edit a dict they did not make.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import partial
from math import inf
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from anyio import CancelScope

Json = dict[str, Any]

if TYPE_CHECKING:
    from dataclasses import dataclass as made_per_call
else:

    def made_per_call(*, frozen, slots):
        """`dataclass` for what every call makes anew: that it is frozen is the type checker's to see to.

        Freezing at run time makes the making take six times as long, which is a tenth of a call.
        """
        return partial(dataclass, slots=slots, unsafe_hash=frozen)


NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


MODELS: Final = "models"
"""The upstream of every model, by the names agents ask for: policies write `model:models/NAME`."""

PROVIDER_TOOLS: Final = "provider-tools"
"""The upstream of what a model's provider does by itself (web search, code execution, calls of MCP servers):
policies write `model:provider-tools/TYPE`. It passes every gate of ours, so it is a target of its own."""

DRAFTS: Final = "_drafts"
"""The upstream of every draft among the routes of plain APIs, which no server can be called: policies write
`route:_drafts/SERVER/ROUTE`, besides what lets the request itself pass."""


class Era(StrEnum):
    """The two kinds of MCP: stateless 2026-07-28 and later, and the handshake with sessions before it."""

    MODERN = "modern"
    LEGACY = "legacy"


class Transport(StrEnum):
    """How the agent reached us."""

    HTTP = "http"
    STDIO = "stdio"


class Kind(StrEnum):
    """What a target is. The values are also the prefixes that policies write (`prompt:crm/*`)."""

    TOOL = "tool"
    PROMPT = "prompt"
    RESOURCE = "resource"
    TEMPLATE = "template"
    MODEL = "model"
    ROUTE = "route"


class Verb(StrEnum):
    """What is asked of a target; the audit's `kind` column."""

    LIST = "list"  # what there is of one kind
    SEARCH = "search"  # tools found by words, or one of them described (`search_tools`, `describe_tool`)
    CALL = "call"  # a tool
    GET = "get"  # a prompt
    READ = "read"  # a resource
    SUBSCRIBE = "subscribe"  # to be told when a resource changes; judged as a read of it
    COMPLETE = "complete"  # suggestions for an argument
    TASK_GET = "task_get"  # how a tool is doing that went on by itself (MCP's tasks extension)
    TASK_UPDATE = "task_update"  # answers to what such a tool asked meanwhile
    TASK_CANCEL = "task_cancel"  # that such a tool may stop
    MODEL = "model"  # a model, over the OpenAI or the Anthropic wire
    ROUTE = "route"  # a plain HTTP API, passed through
    SAMPLE = "sample"  # a model, on behalf of an upstream in the middle of a call (MCP sampling)


class Strength(StrEnum):
    """How the agent's identity was established."""

    API_KEY = "api-key"  # a key that the gateway issued
    STDIO = "stdio"  # bound by how the process was started
    TASK_TOKEN = "task-token"  # the token of a started task, by itself
    TOKEN = "token"  # an access token of an issuer that the operator trusts
    BOUND_TOKEN = "bound-token"  # the same, shown to be its holder's own (DPoP, or a client certificate)
    CERTIFICATE = "certificate"  # a client certificate that a trusted proxy verified
    ANONYMOUS = "anonymous"  # only where an operator wrote `anonymous = "AGENT"` down


@dataclass(frozen=True, slots=True)
class Budget:
    """How much one started task may use up in all. None: as much as it likes."""

    calls: int | None = None
    concurrent: int | None = None
    """Calls under way at once."""
    bytes: int | None = None
    """Arguments and results together."""
    tokens: int | None = None
    cost: int | None = None
    """In millionths of `currency`."""
    currency: str = ""

    def __bool__(self) -> bool:
        """Whether anything is bounded."""
        return any(bound is not None for bound in (self.calls, self.concurrent, self.bytes, self.tokens, self.cost))


@dataclass(frozen=True, slots=True)
class StartedTask:
    """One task that somebody started for an agent: it knows what it is about, and ends by itself."""

    id: str
    """Public; the audit and operators name it so."""
    agent: str
    task: str
    expires: datetime
    context: Mapping[str, Any] = field(default_factory=lambda: NOTHING)
    """What whoever started it said it is about; conditions see it as `task.NAME`."""
    person: str | None = None
    """Whom it is done for, as whoever started it said."""
    budget: Budget = field(default_factory=Budget)


@made_per_call(frozen=True, slots=True)
class Caller:
    """An agent, the person it acts for when known, and the task it is on; passed explicitly, never ambient."""

    agent: str
    task: str | None
    person: str | None = None
    strength: Strength = Strength.API_KEY
    claims: Mapping[str, Any] = field(default_factory=lambda: NOTHING)
    credential_id: str = ""
    """What proved the identity (an API key's public id; of tokens, whose they are): revoking it ends everything that
    hangs on it, and whoever comes with another one is somebody else."""
    started: StartedTask | None = None
    """The started task the request came with; ending it ends everything that hangs on it."""
    expires_at: float = inf
    """When what proved it ends by itself, in seconds since the epoch: streams end then, calls under way finish."""
    token: str = field(default="", repr=False)
    """The access token that proved the person, where one did: only ever sent to its own issuer, to be exchanged."""

    @property
    def started_id(self) -> str:
        """The started task's id; empty where there is none."""
        return "" if self.started is None else self.started.id

    @property
    def scopes(self) -> frozenset[str] | None:
        """The scopes of its token; None: it came with something that has none and can get none.

        >>> sorted(Caller("a", None, claims={"scope": "read write"}).scopes or ())
        ['read', 'write']
        """
        if not self.claims or "certificate" in self.claims:
            return None
        written = self.claims.get("scope", self.claims.get("scp", ""))
        found = written.split() if isinstance(written, str) else written if isinstance(written, list) else ()
        return frozenset(scope for scope in found if isinstance(scope, str))


@dataclass(frozen=True, slots=True)
class Assignment:
    """Which tasks one agent may be on, as the policy says."""

    agent: str
    tasks: tuple[str, ...]
    default_task: str | None


@dataclass(frozen=True, slots=True)
class Target:
    """One thing that can be asked for, as one upstream defined it and as agents see it."""

    kind: Kind
    upstream: str
    name: str
    """The upstream's own name; for a resource its URI, for a template its URI template. Policies use this one."""
    public_name: str
    """What agents see and ask for; for resources and templates the URI (template) agents use."""
    definition: Mapping[str, Any]
    """The definition as agents get it: the upstream's, with the public name put in."""
    definition_hash: str
    """SHA-256 (hex) over the upstream's own definition as canonical JSON."""
    tags: frozenset[str] = frozenset()
    raw: Mapping[str, Any] = field(default_factory=lambda: NOTHING)
    """The upstream's own definition, as it sent it."""

    @property
    def key(self) -> str:
        """How policies and the audit write it: `upstream/name`."""
        return f"{self.upstream}/{self.name}"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call, the same way for every provider; cost in US dollars."""

    input: int = 0
    """All of it, what came from or went into a provider's cache included."""
    output: int = 0
    """All of it, reasoning included."""
    cache_read: int = 0
    cache_write: int = 0
    reasoning: int = 0
    is_estimated: bool = False
    """The provider did not say, or was not listened to until the end."""
    cost: float | None = None
    """None: nobody knows the price. That is never the same as free."""
    model: str = ""
    """What answered, as `provider/model`."""


class Relay(Protocol):
    """The way back to an agent that speaks plain HTTP."""

    scope: CancelScope
    """Cancelled when the agent has hung up or may not have the answer any more. Whoever works on it enters this scope,
    so that an answer nobody wants ends and still is accounted for."""

    async def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Commit to an answer. Once, before anything else."""
        ...

    async def write(self, piece: bytes) -> None:
        """Send part of the body now; waits while the agent does not read."""
        ...

    def hold(self, piece: bytes) -> None:
        """The end of the body: sent when the audit has written down what it was."""
        ...

    def hold_error(self, error: Exception) -> None:
        """The end of a body that breaks off: what went wrong, in the words of the agent's wire."""
        ...

    def afterwards(self, do: Callable[[], None]) -> None:
        """Do this once the whole answer may go out: guards have let it pass, and the audit has it. Else never."""
        ...


@dataclass(frozen=True, slots=True)
class Kept:
    """Something a model provider keeps for one agent: a response, a conversation, a container."""

    provider: str
    id: str
    kind: str
    credential: str
    """By which key of ours it was made, as a keyed hash: under another one the same id is something else."""
    model: str
    """The name the agent asked for when it was made."""
    target: str
    """The provider's own name of that model."""
    tokens: int = 0
    """What going on from here takes as input, about."""
    is_open: bool = False
    """It goes on by itself, and what it takes is not known yet."""


@dataclass(frozen=True, slots=True)
class HttpPart:
    """The HTTP side of a request that is no MCP: a call of a model, or of a plain route."""

    path: str
    headers: Mapping[str, str]
    """Names in lower case, and no credential of the agent's among them."""
    body: bytes
    """Byte for byte what was judged."""
    json: Any
    """The parsed body; nobody may edit it."""
    relay: Relay
    route: str = ""
    """Of a plain API: the name of the route that the request is on; empty: none speaks of it."""
    fault: str = ""
    """Why it cannot be sent although it may be allowed: what the route edits is not there."""
    method: str = "POST"
    kept: tuple[Kept, ...] = ()
    """What the request refers to at a provider, its caller's own: nobody but that provider can be asked."""


@made_per_call(frozen=True, slots=True)
class Request:
    """One thing an agent asked, whichever era and transport it came by."""

    request_id: str
    """Ours, unique; the same id in logs, audit and traces. Never the agent's JSON-RPC id."""
    verb: Verb
    method: str
    """The MCP method, e.g. `tools/call`."""
    kind: Kind
    name: str
    """The public name or URI as the agent wrote it; empty for lists. With `upstream`, that upstream's own name."""
    params: Mapping[str, Any]
    """The agent's params as received, `_meta` included."""
    era: Era = Era.MODERN
    transport: Transport = Transport.HTTP
    client: str = ""
    """What the agent's program calls itself. For display only, it proves nothing."""
    session: str = ""
    inputs: Mapping[str, Any] | None = None
    """The agent's answers to what its upstream asked before (`inputResponses`); None: this is no retry."""
    state: str | None = None
    """The upstream's own `requestState` that goes back to it with `inputs`."""
    upstream: str = ""
    """The one upstream that can be meant, because it began what this is about; empty: whoever bears the name."""
    needs: tuple[Target, ...] = ()
    """Further targets it makes use of (the provider-side tools of a model), each decided by itself."""
    parent: str = ""
    """The request in whose course this one came up; empty: none."""
    http: HttpPart | None = None
    expects: Usage | None = None
    """What it will take at most, as far as can be told before: what budgets set aside for it."""
    is_paid: bool = False
    """What it is about was set aside by an earlier call, so that budgets do not count it again."""

    @property
    def arguments(self) -> Mapping[str, Any]:
        """What conditions see as `args`: tool and prompt arguments, or the URI of a resource."""
        if self.kind in (Kind.RESOURCE, Kind.TEMPLATE):
            return {"uri": self.name}
        arguments = self.params.get("arguments")
        return arguments if isinstance(arguments, (dict, Mapping)) else {}  # a dict: guards and audit write it as JSON


class Effect(StrEnum):
    """The three values of a decision. `DEPENDS` exists only in lists, where arguments are not known yet."""

    ALLOWED = "allowed"  # a call goes ahead
    DENIED = "denied"  # for the agent there is no such target
    DEPENDS = "depends"  # lists show it; the arguments of a call decide


class Reason(StrEnum):
    """Why something was decided as it was. Audit rows and dashboards match on these."""

    GRANT = "grant"  # a grant matches and its condition holds
    GRANT_DEPENDS = "grant_depends"  # it would, for some arguments
    UNKNOWN_TARGET = "unknown_target"  # no upstream offers anything of that name
    HELD_BACK = "held_back"  # its definition is new or changed, and nobody has approved it (`mcp-gateway pins`)
    UNKNOWN_AGENT = "unknown_agent"  # the policy does not name this agent
    NO_TASK = "no_task"  # no task was asked for and the agent has no default
    TASK_NOT_ASSIGNED = "task_not_assigned"  # the policy does not let this agent be on that task
    DENY = "deny"  # a deny matches and its condition holds
    DENY_UNEVALUABLE = "deny_unevaluable"  # a deny matches and its condition cannot be evaluated: fails closed
    CONDITION_FALSE = "condition_false"  # grants match, no condition holds
    CONDITION_UNEVALUABLE = "condition_unevaluable"  # grants match, none could be evaluated to true
    INSUFFICIENT_SCOPE = "insufficient_scope"  # a grant would hold, if the token had the scopes the grant names
    NO_GRANT = "no_grant"  # nothing in the task matches the target
    TASK_NOT_STARTED = "task_not_started"  # the task exists only while somebody has started it, and nobody has
    TASK_OVER = "task_over"  # the started task has ended, or is not this agent's
    BUDGET_SPENT = "budget_spent"  # the started task has used up what it may
    LIMIT_REACHED = "limit_reached"  # grants hold, and their limits are used up for now
    OUT_OF_ORDER = "out_of_order"  # another call has to come first (`after`)
    APPROVAL_PENDING = "approval_pending"  # it waits for a person's answer
    APPROVAL_DENIED = "approval_denied"  # a person said no
    FLOW = "flow"  # not after (or not together with) what the task has read
    MISUSE = "misuse"  # a requestState, cursor, session or wire-task id that is not (any more) this caller's to use
    LIST = "list"  # a list: every entry of it was decided by itself


@dataclass(frozen=True, slots=True)
class Window:
    """How often, or how much in all, within a time that ends now."""

    key: str
    """What is counted together: one grant, one agent, one person."""
    per_s: float
    calls: int | None = None
    at_most: int | None = None
    amount: int = 0
    """Of this call. Amounts are millionths, so that sums are exact."""


@dataclass(frozen=True, slots=True)
class After:
    """Another call that must have succeeded before, with the same values."""

    mark: str
    """What such a call has left behind (`Terms.marks`)."""
    within_s: float
    first: str = ""
    """The call that has to come first, as the policy writes it."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What one grant that holds asks for besides its condition."""

    grant: str
    """`file:line`."""
    window: Window | None = None
    after: After | None = None
    needs_approval: bool = False
    agent_side: bool = False
    """Whether whoever sits at the agent's program may approve, too."""


@dataclass(frozen=True, slots=True)
class Flow:
    """What a task may not do, or only with approval, once it has read what all of these tags are on."""

    at: str
    """`file:line`."""
    once: frozenset[str]
    """Without the tags that the target bears itself."""
    needs_approval: bool = False
    """False: it may not do it at all."""
    agent_side: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Terms:
    """What has to be so at the moment of a call, beyond what the policy alone can say; `guards` find it out."""

    scope: str
    """Whose state it is: a started task, or else an agent on a task for a person."""
    offers: tuple[Offer, ...] = ()
    """The first whose demands are met carries the call; none: a grant holds that demands nothing."""
    flows: tuple[Flow, ...] = ()
    reads: frozenset[str] = frozenset()
    """Tags that count as read in this scope from the moment of the call."""
    marks: tuple[str, ...] = ()
    """What the call leaves behind for others' `After` once it has succeeded."""
    budget: Budget | None = None
    """The started task's, as tight as both the policy and whoever started it made it."""


@made_per_call(frozen=True, slots=True)
class Decision:
    """What the policy said about one caller and one target, and which line of it said so."""

    effect: Effect
    reason: Reason
    grant: str = ""
    """`file:line` of the grant or deny that decided; empty when none did."""
    policy_version: str = ""
    message: str = ""
    """The deny's own `reason` text, for operators. Agents never see it."""
    terms: Terms | None = None
    """What still has to be found out before the call goes ahead; for most calls nothing."""
    approval: str = ""
    """The id of the person's approval it was allowed by, or that it waits for."""
    scopes: tuple[str, ...] = ()
    """All scopes that the grant names whose scopes are all that is missing. Agents are told them."""
    shadow: str = ""
    """What the effect would be were the lines in shadow enforced; empty where none of them speaks of the target."""
    shadow_at: str = ""
    """`file:line` of the line that would decide then."""

    @property
    def allowed(self) -> bool:
        """Whether a call may go ahead now. `DEPENDS` is not enough for a call."""
        return self.effect is Effect.ALLOWED

    @property
    def visible(self) -> bool:
        """Whether lists show the target."""
        return self.effect is not Effect.DENIED


class PastDecision(NamedTuple):
    """One decided request as the audit keeps it: what a policy can be tried on."""

    seq: int
    at: str
    verb: str
    agent: str
    task: str | None
    person: str | None
    strength: str
    upstream: str | None
    name: str
    target_hash: str | None
    """The audit's key of the target's definition; None where there was no such target."""
    effect: str
    reason: str
    args: str | None
    """JSON, redacted and bounded; None where only its digest is kept, or where there were none."""
    args_sha256: str | None
    redactions: str | None
    started: str | None = None
    """The id of the started task it belonged to."""


class Stage(StrEnum):
    """Which half of a call a guard looks at."""

    ARGUMENTS = "arguments"  # what the agent sends: arguments, prompts, bodies
    RESULTS = "results"  # what comes back


class Action(StrEnum):
    """What becomes of a call in which a guard finds something; the last is the strongest."""

    ALERT = "alert"  # it goes on; log and audit say what was found
    MASK = "mask"  # it goes on without what was found
    BLOCK = "block"  # it ends here


class Holding(StrEnum):
    """How much of a streamed answer is held back until a guard has looked at it."""

    WHOLE = "whole"  # all of it
    WINDOWS = "windows"  # the end of what has come so far; what has been let through cannot be called back


@dataclass(frozen=True, slots=True)
class Inspection:
    """One guard of the policy that applies to one call."""

    at: str
    """`file:line` of the guard."""
    find: tuple[str, ...]
    """Detectors by name, or `DETECTOR/KIND`."""
    stages: frozenset[Stage]
    action: Action
    min_score: float = 0.5
    """Findings that a detector is less sure of are passed over; from 0 to 1."""
    held: Holding = Holding.WHOLE


@dataclass(frozen=True, slots=True)
class Keeping:
    """What of one call is kept besides digests, because a policy says so."""

    for_s: Mapping[Stage, float]
    """For how long, by part."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one guard found in one half of a call. Never the text itself."""

    at: str
    """`file:line` of the guard."""
    stage: Stage
    action: Action
    counts: Mapping[str, int]
    """How often each `DETECTOR/KIND` was found."""
    score: float
    """The highest."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A secret for one upstream, as the headers that carry it. Never logged, never in an error."""

    headers: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    owner: str = ""
    """Whose it is, as the vault calls them: the same when the secret is renewed. Empty: everybody's."""

    def __repr__(self) -> str:
        return f"Credential({sorted(self.headers)})"


class OutcomeStatus(StrEnum):
    """How a call ended; the audit's `outcome` column."""

    OK = "ok"  # a result came back
    HTTP_ERROR = "http_error"  # a model provider or plain API answered with an error
    TOOL_ERROR = "tool_error"  # the tool ran and said isError
    RPC_ERROR = "rpc_error"  # the upstream answered with a JSON-RPC error
    BAD_ARGUMENTS = "bad_arguments"  # a guard refused the arguments, nothing was sent
    BLOCKED = "blocked"  # a guard found in it what the policy does not let pass
    OVER_LIMIT = "over_limit"  # too large, too many or too often
    UNREACHABLE = "unreachable"  # no connection to the upstream, or it broke before an answer
    TIMED_OUT = "timed_out"  # no answer of the upstream in time
    MISBEHAVED = "misbehaved"  # the upstream's answer broke the protocol or a bound
    CONSENT_NEEDED = "consent_needed"  # a person has to log in to the upstream first; nothing was sent
    CANCELLED = "cancelled"  # the agent cancelled it or went away
    GONE = "gone"  # the route has been retired; nothing was sent
    INPUT_REQUIRED = "input_required"  # the upstream asks the agent's side something before it goes on
    WIRE_TASK = "wire_task"  # the tool goes on by itself (MCP's tasks extension); the agent asks for its result later
    RESUMED = "resumed"  # answers were taken to a call that waits for them; that call has its own entry
    REFUSED = "refused"  # denied: nothing was sent
    FAILED = "failed"  # a fault of our own
    UNKNOWN = "unknown"  # the gateway died in between


@made_per_call(frozen=True, slots=True)
class RpcError:
    """A JSON-RPC error object."""

    code: int
    message: str
    data: Any = None


class CacheUse(StrEnum):
    """What a cache had to do with an answer; `use` in the audit's `cache` column."""

    HIT = "hit"  # it came from the cache, and nobody was asked
    REVALIDATED = "revalidated"  # the API said that what the cache had still holds
    STALE = "stale"  # it came from the cache although too old: the API failed
    WOULD_HIT = "would_hit"  # a cache in shadow would have answered; the provider did
    WOULD_MISS = "would_miss"  # a cache in shadow has looked, and would have left it to the provider


@dataclass(frozen=True, slots=True)
class Cached:
    """What a cache had to do with an answer."""

    use: CacheUse
    source: str
    """The request whose answer it is, or would be; of a cache in shadow that missed, the nearest, if there is one."""
    age_s: int
    similarity: float | None = None
    """Of the two prompts, where they need not be the same."""
    agreement: float | None = None
    """Of a cache in shadow: how alike the answer it would have given and the real one are, from 0 to 1."""


@made_per_call(frozen=True, slots=True)
class Outcome:
    """What came back: a result, or a JSON-RPC error; never both."""

    status: OutcomeStatus
    result: Json | None = None
    error: RpcError | None = None
    upstream_ms: float = 0.0
    target: Target | None = None
    """Whose answer it is; the walk says so where the agent will come back to it (`OutcomeStatus.WIRE_TASK`)."""
    usage: Usage | None = None
    """What a model call took; of one that failed or was hung up on, too."""
    findings: tuple[Finding, ...] = ()
    """What the policy's guards found in the call."""
    cached: Cached | None = None
    """None: no cache had anything to do with it."""
    kept: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    """The SHA-256 of what is kept of it because the policy says so, by part."""
    bill: str = ""
    """Under which name budgets hold what a response takes that goes on by itself: until a later call, which is paid
    for, comes with the usage. Mostly empty."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """How much all calls that are counted together may take within one window of time. None: no bound."""

    budget: str
    """The name of the policy's `[budgets.NAME]`."""
    subject: str
    """Who shares it, such as `agent=planner`; empty: everybody."""
    per_s: float
    calls: int | None = None
    concurrent: int | None = None
    tokens: int | None = None
    cost: int | None = None
    """Millionths of a US dollar."""
    alert_at: float | None = None
    """Which part of it has to be used up for operators to be told; None: they are not."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How much of one bound is left to a caller."""

    name: str
    unit: str
    """`calls`, `tokens` or `usd-micros`."""
    most: int
    left: int
    per_s: int
    resets_s: int
    """Until there is all of it again."""


@made_per_call(frozen=True, slots=True)
class UpstreamRequest:
    """One request as an upstream gets it: its own names, none of the agent's envelope."""

    method: str
    params: Mapping[str, Any]
    """Params with the upstream's own names and URIs; `_meta` holds only keys that are not the protocol's own
    (no `progressToken`, no `io.modelcontextprotocol/*`), the upstream's connection adds what its era needs."""
    headers: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    """Credential headers, for upstreams reached over HTTP."""
    definition: Mapping[str, Any] = field(default_factory=lambda: NOTHING)
    """The upstream's own definition of the target (its schema names the `Mcp-Param-*` headers)."""
    timeout_s: float | None = None
    """None: the upstream's configured timeout."""
    owner: str = ""
    """Whose credential that is (`Credential.owner`): a legacy session belongs to one owner."""


class Reply(Protocol):
    """The channel back to the agent of one request, whichever era it speaks."""

    @property
    def wants_progress(self) -> bool: ...

    @property
    def log_level(self) -> str | None:
        """The lowest level of log lines the agent asked for; None: it wants none."""
        ...

    @property
    def capabilities(self) -> Mapping[str, Any]:
        """What the agent said *it* can do (sampling, elicitation, roots, extensions) for this request."""
        ...

    @property
    def side(self) -> object:
        """Whose side is asked: equal for two requests if who made them may know what the other one is asked."""
        ...

    @property
    def takes_input_required(self) -> bool:
        """Whether an `input_required` result can be given to this agent as it is (it retries with the answers).

        Otherwise `ask` is the way.
        """
        ...

    @property
    def waited_s(self) -> float:
        """How long `ask` has waited for the agent's side so far: time that no upstream is to blame for."""
        ...

    @property
    def lacking(self) -> Mapping[str, Any]:
        """The capabilities that the agent would have had to declare for what `ask` refused so far; mostly nothing."""
        ...

    def can_be_asked(self, method: str, params: Json) -> bool:
        """Whether the agent said, for this request, that its side can answer such a question."""
        ...

    async def progress(self, params: Json) -> None:
        """Relay `notifications/progress` params. The token in them is replaced by the agent's own."""
        ...

    async def log(self, params: Json) -> None:
        """Relay `notifications/message` params, if the agent asked for that level."""
        ...

    def elicited(self, link_id: str) -> None:
        """Say that what went on behind a link the agent's person was sent to is done; also after the request is over.

        Only handshake-era agents can be told.
        """
        ...

    async def ask(self, method: str, params: Json) -> Json:
        """Ask the agent's side (elicitation, sampling, roots) and return its result.

        Raises `LookupError` where this agent cannot be asked, `errors.AgentRefused` where its side answers with an
        error.
        """
        ...


@dataclass(frozen=True, slots=True)
class Listing:
    """Everything one upstream offers, as it said it: raw definitions in its own order, already bounded."""

    upstream: str
    tools: tuple[Json, ...] = ()
    prompts: tuple[Json, ...] = ()
    resources: tuple[Json, ...] = ()
    templates: tuple[Json, ...] = ()
    capabilities: Mapping[str, Any] = field(default_factory=lambda: NOTHING)
    instructions: str = ""
    ttl_ms: int = 0
    problems: tuple[str, ...] = ()
    """What was left out and why, for operators."""
    extensions: frozenset[str] = frozenset()
    """The protocol extensions it offers and we can carry."""
    notes: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    """What the operator has to say about tools, by the upstream's own name: put behind their descriptions, and no part
    of any definition that is approved."""


class Sender(Protocol):
    """What calls of one kind of target leave by that is no MCP server: models, plain routes."""

    async def send(self, caller: Caller, target: Target, request: Request) -> Outcome:
        """Send `request` (its `http` part is there), relay the answer as it comes, return what it was.

        Raises `GatewayError` only while nothing has been relayed. The credential goes in here, last, for each attempt.
        """
        ...


class Answering(Protocol):
    """Answers some of what one upstream asks the agent's side, instead of that side."""

    def reply(self, caller: Caller, request: Request, reply: Reply) -> Reply:
        """The channel back for one call, in place of `reply`."""
        ...


class UpstreamState(StrEnum):
    """Where one upstream stands."""

    STARTING = "starting"
    READY = "ready"
    DOWN = "down"  # it will be tried again
    NEEDS_LOGIN = "needs_login"  # nobody has logged in to it yet, or their login is over
    DISABLED = "disabled"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class UpstreamStatus:
    """How one upstream is doing, for operators."""

    name: str
    state: UpstreamState
    era: Era | None = None
    protocol_version: str = ""
    transport: str = ""
    detail: str = ""
    """The last error, in words an operator can act on; no secrets."""
    retry_in_s: float | None = None
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class Challenge:
    """An upstream's refusal of a credential: the HTTP status, and its `WWW-Authenticate` line as it came."""

    status: int
    text: str = ""


class Broker(Protocol):
    """What finds the credential for a call."""

    async def credential_for(self, caller: Caller, upstream: str) -> Credential:
        """What to send to `upstream` on behalf of `caller`.

        Raises `errors.ConsentNeeded` where a person has to log in first, `UpstreamError` where none can be had now.
        """
        ...

    async def after_refusal(self, caller: Caller, upstream: str, used: Credential, why: Challenge) -> Credential | None:
        """Another credential to try once, after the upstream refused `used`; None: there is no better one.

        Raises as `credential_for` does.
        """
        ...


class OwnCredentials(Protocol):
    """What the gateway's own requests to an upstream carry: its lists, its subscriptions."""

    async def own(self, upstream: str) -> Credential:
        """What to send; nothing (no headers) where nothing is known to be needed. Raises `UpstreamError`."""
        ...

    async def own_after_refusal(self, upstream: str, used: Credential, why: Challenge) -> Credential:
        """Another one, after the upstream refused `used`.

        Raises `errors.LoginNeeded` where a person has to log in first, `UpstreamError` where none can be had now.
        """
        ...


class Upstream(Protocol):
    """One MCP server behind us."""

    @property
    def name(self) -> str: ...

    @property
    def status(self) -> UpstreamStatus: ...

    async def send(self, request: UpstreamRequest, reply: Reply) -> Outcome:
        """Send one request and wait for its answer; progress and log lines go to `reply` meanwhile.

        A JSON-RPC error of the upstream is an `Outcome`; `errors.UpstreamError` (Unreachable, TimedOut, Misbehaved)
        is raised when there is no answer. Cancelling the awaiting task cancels the call upstream.
        """
        ...

    def watch(self, uris: frozenset[str]) -> None:
        """From now on be told of changes of exactly these resources, through every reconnect; waits for nothing."""
        ...

    def follow(self, task_ids: frozenset[str]) -> None:
        """From now on be told how exactly these wire tasks (its own ids) are doing, if it tells; waits for nothing."""
        ...

    async def declined(self, uris: frozenset[str]) -> frozenset[str]:
        """Which of these watched resources it will not tell of.

        Waits, some seconds at most, until the server has answered; one that has not is taken to be willing.
        """
        ...
