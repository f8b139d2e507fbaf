"""Whose a credential is: a person's, an agent's, or the gateway's own. The vault and every table are kept by it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from mcp_gateway.config.upstream_auth import AuthKind
from mcp_gateway.domain import Caller

BY_PERSON: Final = frozenset({AuthKind.EXCHANGE, AuthKind.ID_JAG})
"""What is made of the token that a caller came with."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose login it will be."""

    id: str
    """As the vault has it."""
    person: str = ""
    """Whom the browser has to be proven to be; empty: nobody is known, the agent itself owns the login."""
    issuer: str = ""
    agent: str = ""
    """Who asked."""


@dataclass(frozen=True, slots=True)
class PersonsLogin:
    """The token that a caller came with, and who issued it."""

    token: str = field(default="", repr=False)
    issuer: str = ""


def owner_of(caller: Caller, kind: AuthKind) -> Owner:
    """Whose credential a caller's calls go out with.

    The person's, whichever agent acts for them; the agent's own where no person is known. What was exchanged belongs
    to both at once; the gateway's own accounts belong to nobody.
    """
    if kind in (AuthKind.CLIENT_CREDENTIALS, AuthKind.JWT_BEARER):
        return Owner("")
    if kind in BY_PERSON:
        return Owner(f"{_id_of(caller)} by {caller.agent}", caller.person or "", _issuer(caller), caller.agent)
    return Owner(_id_of(caller), caller.person or "", _issuer(caller), caller.agent)


def owner_id(person: str = "", issuer: str = "", agent: str = "") -> str:
    """How the vault names a person (of an issuer, which holds no space) or an agent.

    >>> owner_id(person="alice", issuer="https://idp.example"), owner_id(agent="bot")
    ('person:https://idp.example alice', 'agent:bot')
    """
    return f"person:{issuer} {person}" if person else f"agent:{agent}"


def name_of(owner: str) -> str:
    """The person's or agent's name in an owner."""
    kind, _, name = owner.partition(":")
    return name.partition(" ")[2] if kind == "person" else name


def option_for(owner: str) -> str:
    """The options of `mcp-gateway login` that mean an owner."""
    kind, _, name = owner.partition(":")
    if kind != "person":
        return f"--agent {name}"
    issuer, _, person = name.partition(" ")
    return f"--person {person}" + (f" --issuer {issuer}" if issuer else "")


def _id_of(caller: Caller) -> str:
    return owner_id(caller.person or "", _issuer(caller), caller.agent)


def _issuer(caller: Caller) -> str:
    issuer = caller.claims.get("iss") if caller.person else None
    return issuer if isinstance(issuer, str) else ""


def login_of(caller: Caller) -> PersonsLogin:
    """What a caller came with that can be exchanged."""
    return PersonsLogin(caller.token, _issuer(caller))
