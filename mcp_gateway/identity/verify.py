"""From the Authorization header to a verified identity, or a refusal that says nothing an attacker could use.

Whatever is wrong (missing, malformed, twice, another scheme, unknown, expired, revoked) is the same refusal. A store
that cannot be asked is an error, never an identity. Credentials come from this header only: not from the query, not
from a header a proxy may add, not from anything in the message. Each kind of credential is one `TokenCheck`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final, Protocol

from mcp_gateway.domain import StartedTask, Strength
from mcp_gateway.errors import NotAuthenticated
from mcp_gateway.identity.keys import Keys
from mcp_gateway.identity.shown import Identity, Shown
from mcp_gateway.identity.task import CLAIMED, task_of_claims
from mcp_gateway.identity.tokens import Tokens
from mcp_gateway.storage.stamped import once_unlocked

__all__ = ["ApiKeyCheck", "Identity", "Shown", "TaskTokens", "TokenCheck", "Verifier"]

MAX_HEADER_CHARACTERS: Final = 8192

# RFC 6750 section 2.1; the scheme is case-insensitive (RFC 9110 section 11.1).
_BEARER: Final = re.compile(r"bearer +(?P<token>[A-Za-z0-9._~+/-]+=*)", re.IGNORECASE | re.ASCII)
_API_KEY: Final = re.compile(r"bearer +mg[wt]_", re.IGNORECASE | re.ASCII)
_FROM_ELSEWHERE: Final = (Strength.TOKEN, Strength.BOUND_TOKEN, Strength.CERTIFICATE)
_MISSING: Final = "a bearer token is required"
_REFUSED: Final = "the bearer token is not valid"


class TokenCheck(Protocol):
    """One kind of bearer token."""

    def identity_of(self, token: str, now: datetime) -> Identity | None:
        """Whose token this is; None where it is not a valid one of this kind.

        Raises `StoreUnavailable` where that cannot be found out.
        """
        ...

    def still_holds(self, identity: Identity, now: datetime) -> bool:
        """Whether an identity this check gave out stands at `now`; False for one it did not give out."""
        ...


class TaskTokens(Protocol):
    """Tokens of tasks that somebody started."""

    def verify(self, token: str, now: datetime) -> StartedTask | None:
        """The task under way whose token this is. Raises `StoreUnavailable`."""
        ...

    def holds(self, task_id: str, now: datetime) -> bool:
        """Whether a task is still under way. Raises `StoreUnavailable`."""
        ...


@dataclass(frozen=True, slots=True)
class ApiKeyCheck:
    """Bearer tokens that are API keys of this gateway."""

    keys: Keys

    def identity_of(self, token: str, now: datetime) -> Identity | None:
        record = self.keys.verify(token, now)
        return None if record is None else _identity_of(record.agent, record.public_id)

    def still_holds(self, identity: Identity, now: datetime) -> bool:
        return identity.strength is Strength.API_KEY and self.keys.holds(identity.credential_id, now)


class Verifier:
    """Finds out who is calling. `anonymous` names the agent that requests without any credential act as, if any."""

    def __init__(
        self,
        checks: Sequence[TokenCheck],
        anonymous: str | None = None,
        tasks: TaskTokens | None = None,
        task_claim: str = "",
        tokens: Tokens | None = None,
    ) -> None:
        """`checks` answer at once; `tokens` are those of other issuers, who may have to be asked first. `task_claim`:
        the claim of verified tokens that holds a task's name, if any."""
        self._checks = tuple(checks)
        self._anonymous = anonymous
        self._tasks = tasks
        self._task_claim = task_claim
        self._tokens = tokens

    @property
    def answers_at_once(self) -> bool:
        """Whether `identify` knows everybody there is to know: nobody's tokens but ours are believed."""
        return self._tokens is None

    async def admit(self, shown: Shown, now: datetime) -> Identity:
        """Who sent a request. Waits only for what was never seen before, and while a store is being written to.

        Raises `NotAuthenticated` (401), `NoAgent` (403), `StoreUnavailable` or `IdentityUnavailable` (503).
        """
        tokens = self._tokens
        if tokens is None or not tokens.concerns(shown) or _is_api_key(shown.authorization):
            return await once_unlocked(lambda: self.identify(shown.authorization, now))
        return await tokens.identify(shown, now)

    def at_hand(self, shown: Shown, now: datetime) -> Identity | None:
        """Who sent a request, where that is known without waiting and nothing of it is used up by asking.

        None for everybody else, whoever is to be refused included. Raises `NotAuthenticated`, `StoreUnavailable`.
        """
        tokens = self._tokens
        if tokens is None or not shown.authorization or _is_api_key(shown.authorization):
            return self.identify(shown.authorization, now) if tokens is None or shown.authorization else None
        return tokens.at_hand(shown, now)

    def identify(self, authorization: Sequence[str], now: datetime) -> Identity:
        """The identity behind all `Authorization` header values of one request.

        Raises `NotAuthenticated` (401), or `StoreUnavailable` (503) where it cannot be found out.
        """
        if not authorization:
            return self._anonymous_identity()
        token = _token(authorization)
        for check in self._checks:
            identity = check.identity_of(token, now)
            if identity is not None:
                return identity
        raise NotAuthenticated(_REFUSED)

    def started_task(self, who: Identity, tokens: Sequence[str], now: datetime) -> StartedTask | None:
        """The started task that a request is for: what its credential stands for, else its task token's, else what
        its claims say; None where it comes with none of these.

        Raises `NotAuthenticated` for a token that does not hold or is another agent's: nobody falls back to another
        task because of that. Raises `StoreUnavailable` where it cannot be found out.
        """
        if not tokens:
            if who.started is not None or not who.claims:
                return who.started
            return task_of_claims(who.agent, who.claims, self._task_claim)
        task = self._tasks.verify(tokens[0], now) if self._tasks is not None and len(tokens) == 1 else None
        if task is None or task.agent != who.agent or (who.started is not None and who.started.id != task.id):
            raise NotAuthenticated(_REFUSED)
        if None not in (task.person, who.person) and task.person != who.person:
            raise NotAuthenticated(_REFUSED)  # a task that is done for somebody else
        return task

    def task_holds(self, task: StartedTask, now: datetime) -> bool:
        """Whether a started task is still under way: what a stream asks before it sends on."""
        if task.id.startswith(CLAIMED):
            return now < task.expires
        return self._tasks is not None and self._tasks.holds(task.id, now)

    def still_holds(self, identity: Identity, now: datetime) -> bool:
        """Whether an identity stands at `now`: what a stream asks before it sends on. Raises `StoreUnavailable`."""
        if identity.strength is Strength.ANONYMOUS:
            return identity.agent == self._anonymous
        if self._tokens is not None and identity.strength in _FROM_ELSEWHERE:
            return self._tokens.still_holds(identity, now)
        return any(check.still_holds(identity, now) for check in self._checks)

    def _anonymous_identity(self) -> Identity:
        if self._anonymous is None:
            raise NotAuthenticated(_MISSING, error="")
        return Identity(self._anonymous, Strength.ANONYMOUS)


@lru_cache(maxsize=4096)
def _identity_of(agent: str, public_id: str) -> Identity:
    return Identity(agent, Strength.API_KEY, public_id)


def _token(authorization: Sequence[str]) -> str:
    """The one bearer token. Two headers are refused even if equal: which one counts must never be a question."""
    if len(authorization) != 1 or len(authorization[0]) > MAX_HEADER_CHARACTERS:
        raise NotAuthenticated(_REFUSED)
    match = _BEARER.fullmatch(authorization[0])
    if match is None:
        raise NotAuthenticated(_REFUSED)
    return match["token"]


def _is_api_key(authorization: Sequence[str]) -> bool:
    """Whether it means to be a key or a task token of ours: no other issuer hears of those."""
    return any(_API_KEY.match(value) for value in authorization)
