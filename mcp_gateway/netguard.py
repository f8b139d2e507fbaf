"""Addresses the gateway dials on somebody else's word: checked when connected to, and what is fetched is bounded.

Issuers, key sets, metadata documents and token endpoints are named by operators, by upstreams or by strangers. Every
address is looked at after DNS has answered and is the one that is connected to, so that no name can lead elsewhere in
between (rebinding). Loopback, private, link-local and translated addresses (NAT64, 6to4, Teredo) are refused unless an
operator allowed them. Redirects are not followed, nothing is read from the environment (no proxies, no .netrc), no
compressed answer is taken, and time and size end. Knows nothing of OAuth.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from socket import SOCK_STREAM
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, urlencode, urlsplit

if TYPE_CHECKING:
    import httpcore2

MAX_BYTES: Final = 1024 * 1024
TIMEOUT_S: Final = 10.0
CONNECT_S: Final = 5.0
MAX_CONNECTIONS: Final = 100
KEEPALIVE_S: Final = 4.0

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_NAT64: Final = ip_network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address
_LOCAL_NAT64: Final = ip_network("64:ff9b:1::/48")  # RFC 8215: whatever the network at hand makes of it
_HOST_NAME: Final = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]*[a-z0-9])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9])?)*")
_URL: Final = re.compile(r"[!-~]{1,2048}")


class FetchFailed(Exception):
    """Nothing usable came back. The text names the fault and no secret; never show it to agents."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One whole HTTP answer."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case; the last value of each."""
    body: bytes


@dataclass(frozen=True, slots=True)
class Allowed:
    """What an operator allows beyond public addresses."""

    networks: tuple[Network, ...] = ()
    hosts: frozenset[str] = field(default_factory=frozenset)
    """Names that may resolve to any address, and be spoken to over plain http."""

    @classmethod
    def of(cls, entries: Iterable[str]) -> Allowed:
        """Read networks ("10.0.0.0/8", "127.0.0.1") and host names ("idp.internal"). Raises `ValueError`.

        >>> Allowed.of(["10.0.0.0/8", "idp.internal"]).hosts
        frozenset({'idp.internal'})
        """
        networks, hosts = [], []
        for entry in entries:
            try:
                networks.append(ip_network(entry))
            except ValueError:
                if entry[-1:].isdigit() or not _HOST_NAME.fullmatch(entry.lower()):
                    raise ValueError(f"{entry!r} is neither a network nor a host name") from None
                hosts.append(entry.lower())
        return cls(tuple(networks), frozenset(hosts))

    def admits(self, address: str, host: str = "") -> bool:
        """Whether `address` (text), which `host` resolved to, may be connected to.

        >>> Allowed().admits("169.254.169.254"), Allowed().admits("64:ff9b::a9fe:a9fe"), Allowed().admits("9.9.9.9")
        (False, False, True)
        """
        try:
            found = ip_address(address)
        except ValueError:
            return False
        if host.lower() in self.hosts:
            return True
        return is_public(found) or any(found in network for network in self.networks)

    def admits_written(self, address: str, host: str) -> bool:
        """Whether `address` may be connected to for a URL with `host` that the operator wrote.

        An address in a URL is what they meant, and `localhost` is this machine. What a name leads to is said by
        whoever answers for it, at the moment of asking: only to public addresses, or where `allow_addresses` says.

        >>> Allowed().admits_written("10.0.0.7", "10.0.0.7"), Allowed().admits_written("10.0.0.7", "crm.example")
        (True, False)
        """
        if host.lower() == "localhost":
            return ip_address(address).is_loopback
        return is_address(host) or self.admits(address, host)


def is_address(host: str) -> bool:
    """Whether the host of a URL is an address, in the one usual way of writing them.

    >>> is_address("127.0.0.1"), is_address("127.1"), is_address("crm.example")
    (True, False, False)
    """
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public internet, whatever it is translated to on the way.

    >>> is_public(ip_address("::ffff:10.0.0.1")), is_public(ip_address("2002:7f00:1::")), is_public(ip_address("::1"))
    (False, False, False)
    """
    if isinstance(address, IPv6Address):
        if address.teredo is not None or address.is_site_local or address in _LOCAL_NAT64:
            return False
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def url_problem(url: str, allowed: Allowed | None = None) -> str | None:
    """Why a URL is not one to be fetched, in words that do not repeat it; None: nothing.

    https always is; http only towards this machine itself or a host that the operator named.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return "is not a URL"
    if not _URL.fullmatch(url) or not parts.hostname:
        return "is not a URL"
    if "@" in parts.netloc or parts.fragment or "\\" in url:
        return "holds a user name, a fragment or a backslash"
    if parts.scheme == "https" or (parts.scheme == "http" and _may_be_plain(parts, allowed or Allowed())):
        return None
    return "does not begin with https://"


def _may_be_plain(parts: SplitResult, allowed: Allowed) -> bool:
    host = (parts.hostname or "").lower()
    try:
        return host == "localhost" or host in allowed.hosts or ip_address(host).is_loopback
    except ValueError:
        return False


class Fetcher:
    """Fetches from addresses that `allowed` admits. Belongs to one event loop; `aclose` in the end."""

    def __init__(
        self, allowed: Allowed | None = None, *, timeout_s: float = TIMEOUT_S, tls: ssl.SSLContext | None = None
    ) -> None:
        """`timeout_s` is for a whole request; `tls` stands for the system's usual one."""
        self._allowed = allowed or Allowed()
        self._timeout_s = timeout_s
        self._tls = tls
        self._pool: httpcore2.AsyncConnectionPool | None = None

    async def get(self, url: str, *, accept: str = "application/json", max_bytes: int = MAX_BYTES) -> Answer:
        """GET; raises `FetchFailed`. Any status is an answer, redirects too."""
        return await self.request("GET", url, {"Accept": accept}, max_bytes=max_bytes)

    async def post_form(
        self, url: str, form: Mapping[str, str], headers: Mapping[str, str] | None = None, *, max_bytes: int = MAX_BYTES
    ) -> Answer:
        """POST an HTML form and want JSON; raises `FetchFailed`."""
        content = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        body = urlencode(form).encode()
        return await self.request("POST", url, {**content, **(headers or {})}, body, max_bytes=max_bytes)

    async def request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes = b"", *, max_bytes: int = MAX_BYTES
    ) -> Answer:
        """One request and its whole answer. Raises `FetchFailed`."""
        problem = url_problem(url, self._allowed)
        if problem is not None:
            raise FetchFailed(f"the URL {problem}")
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._exchange(method, url, headers, body, max_bytes)
        except TimeoutError as e:
            raise FetchFailed(f"no whole answer within {self._timeout_s:g} s") from e
        except _failures() as e:
            raise FetchFailed(f"no answer: {type(e).__name__}") from e

    async def aclose(self) -> None:
        """Close what connections are left."""
        if self._pool is not None:
            await self._pool.aclose()
            self._pool = None

    async def _exchange(self, method: str, url: str, headers: Mapping[str, str], body: bytes, max_bytes: int) -> Answer:
        # An answer that is compressed may be a bomb: none is asked for, and none is taken.
        lines = [("Host", urlsplit(url).netloc), ("Accept-Encoding", "identity"), *headers.items()]
        if body or method != "GET":
            lines.append(("Content-Length", str(len(body))))
        async with self._pooled().stream(method, url, headers=_sent(lines), content=body or None) as response:
            found = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
            if found.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
                raise FetchFailed("a compressed answer, which was not asked for")
            content = bytearray()
            async for piece in response.aiter_stream():
                content += piece
                if len(content) > max_bytes:
                    raise FetchFailed(f"an answer of more than {max_bytes} bytes")
            return Answer(response.status, found, bytes(content))

    def _pooled(self) -> httpcore2.AsyncConnectionPool:
        if self._pool is None:
            self._pool = _httpcore().AsyncConnectionPool(
                ssl_context=self._tls or _usual_tls(),
                max_connections=MAX_CONNECTIONS,
                keepalive_expiry=KEEPALIVE_S,
                network_backend=_CheckedNetwork(self._allowed),
            )
        return self._pool


@cache
def _httpcore() -> Any:
    """The HTTP client, loaded with the first request: a tenth of a start, and most gateways fetch nothing."""
    return import_module("httpcore2")


def _failures() -> tuple[type[Exception], ...]:
    http = _httpcore()
    return http.NetworkError, http.ProtocolError, http.TimeoutException, OSError


@cache
def _usual_tls() -> ssl.SSLContext:
    """One for all: loading the system's certificates takes tens of milliseconds."""
    return ssl.create_default_context()


def _sent(lines: Iterable[tuple[str, str]]) -> list[tuple[bytes | str, bytes | str]]:
    return [(name.encode("ascii"), value.encode("latin-1")) for name, value in lines]


class _CheckedNetwork:
    """A network backend of the HTTP client: connects to addresses, each of which was looked at; never to a name."""

    def __init__(self, allowed: Allowed) -> None:
        self._allowed = allowed
        self._network: httpcore2.AnyIOBackend = _httpcore().AnyIOBackend()
        self.sleep = self._network.sleep

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  the interface's
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        addresses = await self._addresses_of(host, port)
        for number, address in enumerate(addresses, start=1):
            try:
                return await self._network.connect_tcp(address, port, CONNECT_S, local_address, socket_options)
            except (_httpcore().ConnectError, _httpcore().ConnectTimeout):
                if number == len(addresses):
                    raise
        raise FetchFailed("it has no address that may be connected to: see allow_addresses")

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109  the interface's
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        raise FetchFailed("no URL leads to a socket of this machine")

    async def _addresses_of(self, host: str, port: int) -> Sequence[str]:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=SOCK_STREAM)
        except (OSError, UnicodeError) as e:  # UnicodeError: a host name that cannot be one
            raise FetchFailed("its host name does not resolve") from e
        addresses = dict.fromkeys(str(place[0]) for *_, place in found)
        return [address for address in addresses if self._allowed.admits(address, host)]
