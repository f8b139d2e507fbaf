"""Programs that want tokens of the embedded authorization server: what they say of themselves, checked.

A program either registers (RFC 7591) or is known by an address where its own metadata stands (Client ID Metadata
Documents). What it says is shown to people as its own words and proves nothing; what counts are its redirect
addresses, compared byte by byte, but for the port of one on this machine (RFC 8252 section 7.3).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from mcp_gateway.domain import Json

MAX_REDIRECTS: Final = 20
MAX_URI: Final = 512
MAX_NAME: Final = 80

_URI: Final = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]{1,40}):[!-~]{1,500}")
_NEVER: Final = frozenset({"javascript", "data", "vbscript", "file", "blob", "about", "ftp", "ws", "wss", "mailto"})


class ClientInvalid(Exception):
    """What a program says of itself cannot be used; the text may be shown to it."""


@dataclass(frozen=True, slots=True)
class Client:
    """One program."""

    id: str
    name: str
    redirect_uris: tuple[str, ...]

    def admits(self, redirect_uri: str) -> bool:
        """Whether its people may be sent there."""
        if redirect_uri in self.redirect_uris:
            return True
        plain = _without_port(redirect_uri)
        return plain is not None and any(plain == _without_port(known) for known in self.redirect_uris)


def client_of(client_id: str, document: Mapping[str, Any]) -> Client:
    """A program from its metadata. Raises `ClientInvalid`."""
    uris = document.get("redirect_uris")
    if not isinstance(uris, list) or not 0 < len(uris) <= MAX_REDIRECTS:
        raise ClientInvalid(f"redirect_uris must be a list of 1 to {MAX_REDIRECTS} addresses")
    for uri in uris:
        _check_redirect(uri)
    if document.get("token_endpoint_auth_method", "none") != "none":
        raise ClientInvalid("token_endpoint_auth_method must be none: clients are public, PKCE is required")
    for name, needed in (("grant_types", "authorization_code"), ("response_types", "code")):
        if needed not in document.get(name, [needed]):
            raise ClientInvalid(f"{name} must hold {needed}")
    return Client(client_id, _name(document.get("client_name")), tuple(uris))


def registered(client: Client) -> Json:
    """The answer to a registration (RFC 7591 section 3.2.1)."""
    return {
        "client_id": client.id,
        "client_name": client.name,
        "redirect_uris": list(client.redirect_uris),
        "token_endpoint_auth_method": "none",
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
    }


def is_address(client_id: str) -> bool:
    """Whether a client id is the address of a metadata document: https, with a path, and nothing ambiguous in it."""
    parts = urlsplit(client_id)
    return (
        parts.scheme == "https"
        and len(client_id) <= MAX_URI
        and len(parts.path) > 1
        and not (parts.fragment or "@" in parts.netloc or "/." in parts.path or "\\" in client_id)
    )


def _check_redirect(uri: Any) -> None:
    match = _URI.fullmatch(uri) if isinstance(uri, str) and len(uri) <= MAX_URI else None
    if match is None or "#" in match[0] or "\\" in match[0] or match["scheme"] in _NEVER:
        raise ClientInvalid("a redirect address is not one")
    if match["scheme"] in ("http", "https"):
        parts = urlsplit(uri)
        if not parts.hostname or "@" in parts.netloc:
            raise ClientInvalid("a redirect address names no host, or a user")
        if match["scheme"] == "http" and _without_port(uri) is None:
            raise ClientInvalid("a redirect address must be https, or http on the person's own machine")


def _without_port(uri: str) -> str | None:
    """A redirect address on the person's own machine without its port; None for any other."""
    match = re.fullmatch(r"http://(127\.0\.0\.1|\[::1\]|localhost)(:\d{1,5})?(/[!-~]*)?", uri)
    return None if match is None else f"{match[1]}{match[3] or ''}"


def _name(written: Any) -> str:
    """What it calls itself, as far as it can be shown."""
    text = written if isinstance(written, str) else ""
    return "".join(c for c in text if c.isprintable())[:MAX_NAME] or "a program without a name"
