"""Access tokens: verified once, remembered by digest until they end, and turned into who is calling.

A token is verified by its issuer's keys (`jwt`) or by asking the issuer (`introspection`). What is remembered never
outlives it, is bounded, and holds no token where a digest will do. What can change between two requests of one token is
looked at each time: which endpoint it is for, the proof that it is its holder's, and the agent the policy has for it.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from base64 import urlsafe_b64encode
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

from mcp_gateway.domain import Json, Strength
from mcp_gateway.errors import IdentityUnavailable, NoAgent, NotAuthenticated
from mcp_gateway.identity.certificates import Certificate, Certificates
from mcp_gateway.identity.dpop import Asked, NonceNeeded, Proofs
from mcp_gateway.identity.faults import Fault
from mcp_gateway.identity.introspection import Introspection
from mcp_gateway.identity.jwt import (
    Rules,
    TokenRefused,
    audiences_of,
    check_claims,
    check_header,
    check_signature,
    looks_like_jwt,
    read_jwt,
    text_of,
)
from mcp_gateway.identity.key_source import KeySource
from mcp_gateway.identity.resource import Resource
from mcp_gateway.identity.shown import Identity, Shown
from mcp_gateway.jsonrpc import canonical

MAX_KNOWN: Final = 10_000
"""Tokens remembered. One more is verified again each time it comes."""

MAX_HEADER_CHARACTERS: Final = 8192
MAX_PRINCIPALS: Final = 50_000
MAX_REFUSED: Final = 10_000
REFUSED_FOR_S: Final = 10.0
"""How long an opaque token is refused without asking its issuer again."""

STALE_OK_S: Final = 120.0
"""How long streams go on when their issuer cannot be asked again."""

REFUSED: Final = "the access token is not valid"

_CREDENTIAL: Final = re.compile(r"(?P<scheme>bearer|dpop) +(?P<token>[A-Za-z0-9._~+/-]+=*)", re.IGNORECASE | re.ASCII)
_CLIENT_CLAIMS: Final = ("client_id", "azp", "appid", "cid")
_DPOP_FAULTS: Final = (Fault.PROOF, Fault.REPLAYED)


class Matcher(Protocol):
    """The policy, as far as it says which agent somebody is."""

    def agents_for(self, claims: Mapping[str, Any]) -> tuple[str, ...]:
        """Every agent whose `match` holds for verified claims."""
        ...


@dataclass(frozen=True, slots=True)
class Issuer:
    """One authorization server whose tokens are believed."""

    name: str
    rules: Rules
    audiences: frozenset[str]
    """What its tokens are issued for when they are for every endpoint; empty: the gateway's own addresses."""
    person: str
    keys: KeySource | None = None
    introspection: Introspection | None = None
    cache_s: float = 60.0
    is_revoked: Callable[[Mapping[str, Any]], bool] | None = None
    """Whether a token of these claims has been taken back, where that can be known at once."""


@dataclass(slots=True, eq=False)
class _Known:
    """One verified token."""

    issuer: Issuer
    claims: Json
    expires_at: float
    good_until: float
    """Before `expires_at` where the issuer has to be asked again."""
    tasks: frozenset[str] | None
    """The endpoints it is for; None: all."""
    binding: Mapping[str, str]
    credential_id: str
    person: str | None
    token: str = ""
    """Only where the issuer has to be asked again."""
    is_over: bool = False
    matched_by: Matcher | None = None
    agents: tuple[str, ...] = ()
    """What `matched_by` said."""
    identity: Identity | None = None

    def is_for(self, task: str | None) -> bool:
        """Whether it was issued for this endpoint."""
        return self.tasks is None or (task is not None and task in self.tasks)

    def agents_by(self, matcher: Matcher) -> tuple[str, ...]:
        """The agents that the policy has for it, asked once of each policy."""
        if self.matched_by is not matcher:
            self.agents, self.matched_by, self.identity = matcher.agents_for(self.claims), matcher, None
        return self.agents


class Tokens:
    """Who comes with a token, or with a client certificate. Belongs to one event loop."""

    def __init__(
        self,
        issuers: Sequence[Issuer],
        resource: Resource,
        matcher: Callable[[], Matcher],
        proofs: Proofs,
        *,
        needs_proof: bool = False,
        certificates: Certificates | None = None,
    ) -> None:
        """`matcher` gives the policy in force. `needs_proof`: tokens that are bound to no key are refused."""
        self._issuers = {issuer.rules.issuer: issuer for issuer in issuers}
        self._resource = resource
        self._matcher = matcher
        self._proofs = proofs
        self._needs_proof = needs_proof
        self._certificates = certificates
        self._opaque = next((issuer for issuer in issuers if issuer.introspection), None)
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._latest: OrderedDict[str, _Known] = OrderedDict()
        self._refused: OrderedDict[bytes, tuple[float, Fault]] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[_Known]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    @asynccontextmanager
    async def kept_fresh(self) -> AsyncIterator[None]:
        """Fetch the issuers' keys, now and again and again, while the block runs."""
        sources = [issuer.keys for issuer in self._issuers.values() if issuer.keys is not None]
        tasks = [asyncio.create_task(source.keep_fresh()) for source in sources]
        try:
            yield
        finally:
            for task in (*tasks, *self._tasks):
                task.cancel()
            await asyncio.gather(*tasks, *self._tasks, return_exceptions=True)
            for source in sources:
                await source.aclose()

    def concerns(self, shown: Shown) -> bool:
        """Whether there is anything to look at: a token, or a certificate from a trusted proxy."""
        return bool(shown.authorization) or self._has_certificate(shown)

    async def identify(self, shown: Shown, now: datetime) -> Identity:
        """Who it is. Raises `NotAuthenticated` (401), `NoAgent` (403), `IdentityUnavailable` (503)."""
        now_s = now.timestamp()
        try:
            certificate = self._certificate(shown, now)
            if not shown.authorization and certificate is not None:
                return self._holder_of(certificate)
            known = await self._known_for(shown.authorization, now_s)
            strength = self._checked(known, shown, certificate, now_s)
        except NonceNeeded as e:
            raise NotAuthenticated(REFUSED, e.fault, "use_dpop_nonce", e.nonce) from e
        except TokenRefused as e:
            error = "invalid_dpop_proof" if e.fault in _DPOP_FAULTS else "invalid_token"
            raise NotAuthenticated(REFUSED, e.fault, error) from e
        return self._identity_of(known, strength)

    def at_hand(self, shown: Shown, now: datetime) -> Identity | None:
        """Who it is, where the token was verified before and nothing but its digest has to be looked at."""
        if len(shown.authorization) != 1 or self._has_certificate(shown):
            return None
        known = self._known.get(_digest(shown.authorization[0]))
        if known is None or now.timestamp() >= known.good_until or known.binding or self._needs_proof:
            return None
        is_dpop = shown.authorization[0][:4].lower() == "dpop"
        if is_dpop or _is_revoked(known) or not known.is_for(shown.task):
            return None
        return self._identity_of(known, Strength.TOKEN) if len(known.agents_by(self._matcher())) == 1 else None

    def still_holds(self, identity: Identity, now: datetime) -> bool:
        """Whether an identity given out here stands: nobody took the token back, and the policy has not moved it.

        That a token has merely ended is `Identity.expires_at`'s to say.
        """
        if identity.strength is Strength.CERTIFICATE:
            return True
        known = self._latest.get(identity.credential_id)
        if known is None or known.is_over or _is_revoked(known):
            return False
        now_s = now.timestamp()
        if known.token and now_s >= known.good_until and not self._is_being_asked(known):
            self._ask_again(known)
        is_stale = bool(known.token) and now_s >= known.good_until + STALE_OK_S
        return not is_stale and known.agents_by(self._matcher()) == (identity.agent,)

    async def _known_for(self, authorization: Sequence[str], now_s: float) -> _Known:
        """The token behind all `Authorization` values of a request, verified now or before."""
        if len(authorization) != 1 or len(authorization[0]) > MAX_HEADER_CHARACTERS:
            raise TokenRefused(Fault.MALFORMED)
        digest = _digest(authorization[0])
        known = self._known.get(digest)
        if known is not None and now_s < known.good_until:
            if _is_revoked(known):
                raise TokenRefused(Fault.REVOKED)
            self._known.move_to_end(digest)
            return known
        token = _token(authorization[0])
        known = await (self._verified(token, now_s) if looks_like_jwt(token) else self._asked(token, digest, now_s))
        _remember(self._known, digest, known, MAX_KNOWN)
        _remember(self._latest, known.credential_id, known, MAX_PRINCIPALS)
        return known

    async def _verified(self, text: str, now_s: float) -> _Known:
        """A JWT. What it says is believed once its issuer's own key is found to have signed it."""
        token = read_jwt(text)
        issuer = self._issuers.get(str(token.claims.get("iss")))
        if issuer is None or issuer.keys is None:
            raise TokenRefused(Fault.ISSUER)
        algorithm, kid = check_header(token, issuer.rules)
        # Before any key is looked for: an old token is no reason to ask for new keys.
        expires_at = check_claims(token.claims, issuer.rules, now_s)
        keys = await issuer.keys.keys_for(algorithm, kid)
        if not keys:
            raise TokenRefused(Fault.KEY)
        for number, key in enumerate(keys, start=1):
            try:
                check_signature(token, key)
                break
            except TokenRefused:
                if number == len(keys):
                    raise
        return self._read(issuer, token.claims, expires_at, expires_at)

    async def _asked(self, token: str, digest: bytes, now_s: float) -> _Known:
        """An opaque token. Those who come with the same one at once wait for one answer."""
        until, fault = self._refused.get(digest, (0.0, Fault.MALFORMED))
        if self._opaque is None or until > now_s:
            raise TokenRefused(fault)
        asking = self._asking.get(digest)
        if asking is None:
            asking = self._asking[digest] = self._start(self._introspected(self._opaque, token, now_s))
            asking.add_done_callback(lambda _: self._asking.pop(digest, None))
        try:
            return await asyncio.shield(asking)
        except TokenRefused as e:
            _remember(self._refused, digest, (now_s + REFUSED_FOR_S, e.fault), MAX_REFUSED)
            raise

    async def _introspected(self, issuer: Issuer, token: str, now_s: float) -> _Known:
        introspection = issuer.introspection
        if introspection is None:
            raise TokenRefused(Fault.MALFORMED)
        said = await introspection.claims_of(token)
        claims = {"iss": issuer.rules.issuer, "exp": int(now_s + issuer.cache_s), **said}
        expires_at = check_claims(claims, issuer.rules, now_s)
        if "sub" not in claims and "client_id" in claims:  # RFC 7662 leaves `sub` out where nobody but a client is
            claims["sub"] = claims["client_id"]
        known = self._read(issuer, claims, expires_at, min(expires_at, now_s + issuer.cache_s))
        known.token = token
        return known

    def _read(self, issuer: Issuer, claims: Json, expires_at: float, good_until: float) -> _Known:
        """What a verified token says, as far as identities are made of it."""
        tasks = self._resource.tasks_of(audiences_of(claims), issuer.audiences)
        subject = text_of(claims, "sub")
        if subject is None:
            raise TokenRefused(Fault.CLAIMS)
        client = next((found for name in _CLIENT_CLAIMS if (found := text_of(claims, name)) is not None), "")
        # What a certificate said is nothing that a token may say.
        kept = {name: value for name, value in claims.items() if name != "certificate"}
        known = _Known(
            issuer=issuer,
            claims=kept,
            expires_at=expires_at,
            good_until=good_until,
            tasks=tasks,
            binding=_binding_of(claims),
            credential_id=_principal(issuer.name, subject, client, claims.get("act")),
            person=_person(issuer, claims, subject, client),
        )
        if _is_revoked(known):
            raise TokenRefused(Fault.REVOKED)
        return known

    def _checked(self, known: _Known, shown: Shown, certificate: Certificate | None, now_s: float) -> Strength:
        """That the token is for this endpoint and comes from its holder. Raises `TokenRefused`."""
        if not known.is_for(shown.task):
            raise TokenRefused(Fault.AUDIENCE)
        scheme, _, rest = shown.authorization[0].partition(" ")
        is_dpop = scheme.lower() == "dpop"
        if not known.binding and not is_dpop and not self._needs_proof:
            return Strength.TOKEN
        thumbprint = known.binding.get("jkt")
        # RFC 9449 section 7.1: a bound token as a bearer token is what a thief would send.
        if is_dpop is not (thumbprint is not None) or (self._needs_proof and thumbprint is None):
            raise TokenRefused(Fault.BINDING)
        if thumbprint is not None:
            asked = Asked(shown.method, self._resource.url_of(shown.task))
            self._proofs.check(shown.values("dpop"), rest.strip(" "), thumbprint, asked, now_s)
        bound_to = known.binding.get("x5t#S256")
        if bound_to is not None and (certificate is None or certificate.thumbprint != bound_to):
            raise TokenRefused(Fault.BINDING)
        return Strength.BOUND_TOKEN

    def _identity_of(self, known: _Known, strength: Strength) -> Identity:
        agent = _only(known.agents_by(self._matcher()))
        identity = known.identity
        if identity is None or identity.strength is not strength:
            identity = known.identity = Identity(
                agent, strength, known.credential_id, known.claims, person=known.person, expires_at=known.expires_at
            )
        return identity

    def _holder_of(self, certificate: Certificate) -> Identity:
        agent = _only(self._matcher().agents_for(certificate.claims))
        credential_id = f"certificate:{certificate.thumbprint}"
        return Identity(
            agent, Strength.CERTIFICATE, credential_id, certificate.claims, expires_at=certificate.expires_at
        )

    def _has_certificate(self, shown: Shown) -> bool:
        certificates = self._certificates
        return certificates is not None and certificates.trusts(shown.peer) and bool(shown.values(certificates.header))

    def _certificate(self, shown: Shown, now: datetime) -> Certificate | None:
        if self._certificates is None or not self._has_certificate(shown):
            return None
        return self._certificates.certificate_in(shown.values(self._certificates.header), now)

    def _is_being_asked(self, known: _Known) -> bool:
        return known.credential_id.encode() in self._asking

    def _ask_again(self, known: _Known) -> None:
        """A stream hangs on an opaque token that nobody has asked about for a while."""
        name = known.credential_id.encode()
        self._asking[name] = asking = self._start(self._introspected(known.issuer, known.token, known.good_until))

        def heard(done: asyncio.Task[_Known]) -> None:
            self._asking.pop(name, None)
            if done.cancelled() or isinstance(done.exception(), IdentityUnavailable):
                return
            if done.exception() is not None:
                known.is_over = True
            elif self._latest.get(known.credential_id) is known:
                self._latest[known.credential_id] = done.result()

        asking.add_done_callback(heard)

    def _start(self, work: Any) -> asyncio.Task[_Known]:
        task: asyncio.Task[_Known] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # whoever asked may have gone
        return task


def _digest(authorization: str) -> bytes:
    return hashlib.sha256(authorization.encode()).digest()


def _token(authorization: str) -> str:
    match = _CREDENTIAL.fullmatch(authorization)
    if match is None:
        raise TokenRefused(Fault.MALFORMED)
    return match["token"]


def _binding_of(claims: Mapping[str, Any]) -> Mapping[str, str]:
    """What the token is bound to (RFC 7800). A confirmation that is not understood is not one that may be skipped."""
    confirmation = claims.get("cnf", {})
    if not isinstance(confirmation, dict) or not confirmation.keys() <= {"jkt", "x5t#S256"}:
        raise TokenRefused(Fault.BINDING)
    if not all(isinstance(value, str) for value in confirmation.values()):
        raise TokenRefused(Fault.BINDING)
    return confirmation


def _person(issuer: Issuer, claims: Mapping[str, Any], subject: str, client: str) -> str | None:
    """The human behind the token, named together with who says so: two issuers may both have an `alice`."""
    if not issuer.person or subject in (client, f"{client}@clients"):
        return None  # RFC 9068 section 2.2: nobody but the program itself
    name = text_of(claims, issuer.person)
    return None if name is None else f"{issuer.name}:{name}"


def _principal(issuer: str, subject: str, client: str, actor: Any) -> str:
    """Who a token speaks for, the same for every token it is given: sessions stay theirs when tokens are renewed."""
    digest = hashlib.sha256(canonical([issuer, subject, client, actor])).digest()
    return f"token:{issuer}:{urlsafe_b64encode(digest[:16]).rstrip(b'=').decode()}"


def _is_revoked(known: _Known) -> bool:
    return known.issuer.is_revoked is not None and known.issuer.is_revoked(known.claims)


def _only(agents: tuple[str, ...]) -> str:
    if len(agents) != 1:
        raise NoAgent(Fault.AMBIGUOUS if agents else Fault.NO_AGENT)
    return agents[0]


def _remember(kept: OrderedDict[Any, Any], name: Any, value: Any, most: int) -> None:
    kept[name] = value
    kept.move_to_end(name)
    while len(kept) > most:
        kept.popitem(last=False)
