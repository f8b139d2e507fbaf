"""Everything that can go wrong, by whose fault it is.

    GatewayError
    ├── AgentError          the agent asked for something it may not have, or asked wrongly
    │   ├── NotAuthenticated    no identity, or one that no longer holds
    │   ├── NoAgent             verified, but the policy has no agent for it, or more than one
    │   ├── NotAvailable        unknown or forbidden: the agent cannot tell which, the audit can
    │   ├── BadRequest          the message itself is wrong (parse error, bad params, bad cursor)
    │   ├── BadArguments        arguments that the tool's own schema refuses: a tool result the model can act on
    │   ├── Blocked             a guard found in it what the policy does not let pass: a tool result, as BadArguments
    │   ├── Gone                a plain route that has been retired
    │   ├── OverLimit           too large, too many, too often
    │   ├── NotNow              the agent's to use, but not at this moment: the message says what has to happen first
    │   ├── ConsentNeeded       a person has to log in to an upstream first
    │   └── AgentRefused        its side answered a question with an error
    ├── UpstreamError       something behind us failed
    │   ├── Unreachable         no connection, or it broke before an answer
    │   ├── TimedOut            no answer in time
    │   ├── Misbehaved          an answer that breaks the protocol or a bound
    │   └── LoginNeeded         its lists cannot be asked for until somebody has logged in to it
    └── OperatorError       whoever runs the gateway has to act
        ├── ConfigInvalid       servers.toml: complaints with file:line and what to do
        ├── PolicyInvalid       policies/*.toml: the same
        ├── StoreUnavailable    the audit or key store cannot be read or written: nothing is dispatched
        │   └── StoreBusy           somebody writes to it at this moment: worth asking again very soon
        └── IdentityUnavailable an issuer's keys or answers cannot be had: nobody is let in on its word

A class exists only if someone catches it or `frontdoor/wire_errors` maps it differently. Foreign errors are
translated at the edge of the room that meets them, `from e`. Messages of AgentError and UpstreamError may reach an
agent: no secrets, no paths, no policy internals in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from mcp_gateway.domain import Decision, Finding


class GatewayError(Exception):
    """Root of everything this package raises on purpose."""

    code: ClassVar[str] = "GW-ERROR"


class AgentError(GatewayError):
    """The agent's fault."""

    code = "GW-AGENT"


class NotAuthenticated(AgentError):
    """No identity, or one that no longer holds.

    `fault` is for the audit; `error` is RFC 6750's or RFC 9449's word, empty where no credential was shown.
    """

    code = "GW-NOT-AUTHENTICATED"

    def __init__(self, message: str, fault: str = "", error: str = "invalid_token", nonce: str = "") -> None:
        super().__init__(message)
        self.fault = fault
        self.error = error
        self.nonce = nonce


class NoAgent(AgentError):
    """A verified identity for which the policy has no agent, or more than one; `fault` says which."""

    code = "GW-NO-AGENT"

    def __init__(self, fault: str) -> None:
        super().__init__("this identity may not use the gateway")
        self.fault = fault


class NotAvailable(AgentError):
    """Unknown or forbidden. The decision is for the audit and for operators; agents see only the name they sent, and
    the decision's `scopes` where there are any: what a token would need besides."""

    code = "GW-NOT-AVAILABLE"

    def __init__(self, name: str, decision: Decision) -> None:
        super().__init__(name)
        self.name = name
        self.decision = decision


class BadRequest(AgentError):
    """A message that cannot be acted on. `rpc_code` and `data` are what the JSON-RPC error says."""

    code = "GW-BAD-REQUEST"

    def __init__(self, message: str, rpc_code: int = -32602, data: Any = None) -> None:
        super().__init__(message)
        self.rpc_code = rpc_code
        self.data = data


class BadArguments(AgentError):
    """Arguments the tool's own schema refuses; the message names the place and the rule."""

    code = "GW-BAD-ARGUMENTS"


class Blocked(AgentError):
    """A guard found in the call what the policy does not let pass. The message names the kinds, not the text."""

    code = "GW-BLOCKED"

    def __init__(self, message: str, findings: Sequence[Finding] = ()) -> None:
        super().__init__(message)
        self.findings = tuple(findings)


class Gone(AgentError):
    """A plain route that has been retired. `headers` say since when, and what there is instead."""

    code = "GW-GONE"

    def __init__(self, message: str, headers: Mapping[str, str]) -> None:
        super().__init__(message)
        self.headers = headers


class OverLimit(AgentError):
    """Too large, too many, too often. `retry_after_s` is when there will be room again, where that is known."""

    code = "GW-OVER-LIMIT"

    def __init__(self, message: str, retry_after_s: float | None = None, *, is_budget: bool = False) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.is_budget = is_budget


class NotNow(AgentError):
    """The agent's to use, but not now: not before another call or a person's approval, not after what was read."""

    code = "GW-NOT-NOW"


class ConsentNeeded(AgentError):
    """A person has to log in to an upstream first. `url` is the page to open; empty: the message says what to do."""

    code = "GW-CONSENT-NEEDED"

    def __init__(self, upstream: str, message: str, url: str = "") -> None:
        super().__init__(message)
        self.upstream = upstream
        self.url = url


class AgentRefused(AgentError):
    """The agent's side answered a question of an upstream's with a JSON-RPC error."""

    code = "GW-AGENT-REFUSED"

    def __init__(self, rpc_code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.rpc_code = rpc_code
        self.data = data


class UpstreamError(GatewayError):
    """Something behind us failed. `upstream` names it."""

    code = "GW-UPSTREAM"

    def __init__(self, upstream: str, message: str) -> None:
        super().__init__(message)
        self.upstream = upstream


class Unreachable(UpstreamError):
    """No connection, or it broke before an answer."""

    code = "GW-UPSTREAM-UNREACHABLE"


class TimedOut(UpstreamError):
    """No answer in time."""

    code = "GW-UPSTREAM-TIMEOUT"


class Misbehaved(UpstreamError):
    """An answer that breaks the protocol or a bound of ours."""

    code = "GW-UPSTREAM-MISBEHAVED"


class LoginNeeded(UpstreamError):
    """Its lists cannot be asked for until somebody has logged in to it."""

    code = "GW-UPSTREAM-NEEDS-LOGIN"


class OperatorError(GatewayError):
    """Whoever runs the gateway has to act."""

    code = "GW-OPERATOR"


@dataclass(frozen=True, slots=True)
class Complaint:
    """One thing wrong in a file an operator wrote: where, what, and the fix."""

    file: str
    line: int
    message: str
    fix: str = ""
    code: str = "GW-CONFIG"

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}" + (f" ({self.fix})" if self.fix else "")


class _Complaints(OperatorError):
    """Carries every complaint found, not only the first."""

    def __init__(self, complaints: Sequence[Complaint]) -> None:
        super().__init__("\n".join(str(complaint) for complaint in complaints))
        self.complaints = tuple(complaints)


class ConfigInvalid(_Complaints):
    """servers.toml cannot be used as it stands."""

    code = "GW-CONFIG-INVALID"


class PolicyInvalid(_Complaints):
    """policies/*.toml cannot be used as they stand; the policy in force stays."""

    code = "GW-POLICY-INVALID"


class StoreUnavailable(OperatorError):
    """The audit or key store cannot be read or written. Nothing is dispatched until it can."""

    code = "GW-STORE-UNAVAILABLE"


class StoreBusy(StoreUnavailable):
    """Somebody writes to the store at this moment: worth asking again very soon."""

    code = "GW-STORE-BUSY"


class IdentityUnavailable(OperatorError):
    """An issuer's keys or answers cannot be had at the moment: nobody is let in on its word, and is not to blame."""

    code = "GW-IDENTITY-UNAVAILABLE"
