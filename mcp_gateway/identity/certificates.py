"""Client certificates that a trusted proxy has verified and hands on in a header.

The header counts only when the connection comes from a proxy on the operator's list; from anybody else it is as if it
were not there. Both usual forms are read: `:BASE64 DER:` (RFC 9440) and PEM with percent escapes (nginx, Traefik).
The proxy has checked the chain; here the validity dates are checked again, and the names become claims.
"""

from __future__ import annotations

import hashlib
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address, ip_network
from typing import Final
from urllib.parse import unquote

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from mcp_gateway.domain import Json
from mcp_gateway.identity.faults import Fault
from mcp_gateway.identity.jwt import TokenRefused

MAX_HEADER_CHARACTERS: Final = 16 * 1024
MAX_NAMES: Final = 100


@dataclass(frozen=True, slots=True)
class Certificate:
    """One client certificate, as far as identities need it."""

    claims: Json
    """`{"certificate": {subject, issuer, sha256, dns, uri, email}}`."""
    thumbprint: str
    """SHA-256 over the DER, base64url: what tokens are bound to (RFC 8705 section 3.1)."""
    expires_at: float


class Certificates:
    """Reads the header of one kind of proxy."""

    def __init__(self, header: str, proxies: Sequence[str]) -> None:
        """`proxies` are addresses and networks. Raises `ValueError` for anything else."""
        self.header = header.lower()
        self._proxies = tuple(ip_network(proxy) for proxy in proxies)

    def trusts(self, peer: str) -> bool:
        """Whether the other side of the connection may say who is behind it."""
        try:
            address = ip_address(peer)
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in proxy for proxy in self._proxies)

    def certificate_in(self, values: Sequence[str], now: datetime) -> Certificate:
        """The one certificate in a trusted proxy's header. Raises `TokenRefused`."""
        if len(values) != 1 or len(values[0]) > MAX_HEADER_CHARACTERS:
            raise TokenRefused(Fault.CERTIFICATE)
        try:
            certificate = _parsed(values[0].strip())
            names = _names(certificate)
        except (ValueError, x509.UnsupportedGeneralNameType, x509.DuplicateExtension) as e:
            raise TokenRefused(Fault.CERTIFICATE) from e
        if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
            raise TokenRefused(Fault.EXPIRED)
        digest = hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest()
        described = {
            "subject": certificate.subject.rfc4514_string(),
            "issuer": certificate.issuer.rfc4514_string(),
            "sha256": digest.hex(),
            **names,
        }
        thumbprint = urlsafe_b64encode(digest).rstrip(b"=").decode()
        return Certificate({"certificate": described}, thumbprint, certificate.not_valid_after_utc.timestamp())


def _parsed(text: str) -> x509.Certificate:
    if text.startswith(":") and text.endswith(":"):
        return x509.load_der_x509_certificate(b64decode(text[1:-1], validate=True))
    return x509.load_pem_x509_certificate(unquote(text).encode("ascii"))


def _names(certificate: x509.Certificate) -> Json:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return {"dns": [], "uri": [], "email": []}
    return {
        "dns": names.get_values_for_type(x509.DNSName)[:MAX_NAMES],
        "uri": names.get_values_for_type(x509.UniformResourceIdentifier)[:MAX_NAMES],
        "email": names.get_values_for_type(x509.RFC822Name)[:MAX_NAMES],
    }
