"""Where an issuer's keys come from, and how they are kept: fetched beside the requests, refreshed, and not forever.

Keys are fetched when the gateway starts and every `REFRESH_S` from then on. A request waits for a fetch only where
nothing usable is there, or where its token names a key nobody has heard of; unknown keys cause at most one fetch every
`LEAST_BETWEEN_S`, however many come. Keys that can no longer be fetched are used for `STALE_OK_S`; after that nothing
is accepted, and it is our fault (503), not the agent's.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from joserfc.jwk import Key

from mcp_gateway.errors import BadRequest, IdentityUnavailable
from mcp_gateway.identity.key_ring import MAX_SET_BYTES, KeyRing, KeySetInvalid, read_key_set
from mcp_gateway.jsonrpc import parse
from mcp_gateway.netguard import Fetcher, FetchFailed

REFRESH_S: Final = 600.0
"""How long a key that its issuer took back may still be accepted."""

RETRY_S: Final = 30.0
LEAST_BETWEEN_S: Final = 10.0
STALE_OK_S: Final = 6 * 3600.0
WAIT_S: Final = 5.0
"""How long a request waits for a fetch."""

_log: Final = logging.getLogger(__name__)

Load = Callable[[], Awaitable[bytes]]
"""Gets the key set's document. Raises `FetchFailed`."""


class KeySource:
    """The keys of one issuer, as they were last seen. Belongs to one event loop."""

    def __init__(self, issuer: str, load: Load, clock: Callable[[], float] = time.monotonic) -> None:
        """`issuer` names it in the log; `clock` is in seconds and never goes back."""
        self._issuer = issuer
        self._load = load
        self._clock = clock
        self._ring: KeyRing | None = None
        self._loaded_at = 0.0
        self._tried_at: float | None = None
        self._is_failing = False
        self._loading: asyncio.Task[None] | None = None

    async def keys_for(self, algorithm: str, kid: str | None) -> tuple[Key, ...]:
        """The keys that may have made a signature; empty: the issuer has none such.

        Raises `IdentityUnavailable` where that cannot be said, because its keys cannot be fetched.
        """
        ring = self._usable()
        found = () if ring is None else ring.keys_for(algorithm, kid)
        if found:
            return found
        if self._may_try():
            await self._wait_for(self.refresh())
        elif self._loading is not None:
            await self._wait_for(self._loading)
        ring = self._usable()
        if ring is None:
            raise IdentityUnavailable(f"the keys of {self._issuer} cannot be fetched")
        found = ring.keys_for(algorithm, kid)
        if not found and self._is_failing:
            raise IdentityUnavailable(f"the keys of {self._issuer} cannot be fetched anew")
        return found

    async def keep_fresh(self) -> None:
        """Fetch now, and again and again; runs until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(RETRY_S if self._is_failing else REFRESH_S)

    def refresh(self) -> asyncio.Task[None]:
        """The fetch that is under way, or one that is begun now; it never fails, it only leaves things as they are."""
        if self._loading is None or self._loading.done():
            self._tried_at = self._clock()
            self._loading = asyncio.create_task(self._reload())
        return self._loading

    async def aclose(self) -> None:
        """Stop fetching."""
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)

    def _usable(self) -> KeyRing | None:
        is_stale = self._clock() - self._loaded_at > STALE_OK_S
        return None if is_stale else self._ring

    def _may_try(self) -> bool:
        return self._tried_at is None or self._clock() - self._tried_at >= LEAST_BETWEEN_S

    async def _wait_for(self, loading: asyncio.Task[None]) -> None:
        await asyncio.wait({loading}, timeout=WAIT_S)

    async def _reload(self) -> None:
        try:
            ring = read_key_set(await self._load())
        except (FetchFailed, KeySetInvalid) as e:
            if not self._is_failing:
                _log.warning("the keys of issuer %s cannot be fetched: %s", self._issuer, e)
            self._is_failing = True
            return
        if self._is_failing or self._ring is None:
            _log.info("the keys of issuer %s: %d", self._issuer, len(ring))
        self._ring, self._loaded_at, self._is_failing = ring, self._clock(), False


def keys_at(fetcher: Fetcher, url: str) -> Load:
    """A key set at a URL."""
    return lambda: _document(fetcher, url)


def keys_in(file: Path) -> Load:
    """A key set in a file."""

    async def load() -> bytes:
        return await asyncio.to_thread(_content, file)

    return load


def keys_discovered(fetcher: Fetcher, issuer: str) -> Load:
    """A key set where the issuer's own metadata says (RFC 8414, OpenID Connect Discovery)."""

    async def load() -> bytes:
        failure = FetchFailed("no metadata")
        for url in metadata_urls(issuer):
            try:
                metadata = _metadata(await _document(fetcher, url), issuer)
            except FetchFailed as e:
                failure = e
                continue
            return await _document(fetcher, metadata)
        raise failure

    return load


def metadata_urls(issuer: str) -> tuple[str, ...]:
    """Where an issuer's metadata may be, the likeliest first.

    >>> metadata_urls("https://idp.example/a")[0]
    'https://idp.example/.well-known/oauth-authorization-server/a'
    """
    parts = urlsplit(issuer)
    origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    inserted = [f"{origin}/.well-known/{name}{path}" for name in ("oauth-authorization-server", "openid-configuration")]
    appended = f"{origin}{path}/.well-known/openid-configuration"
    return tuple(dict.fromkeys([*inserted, appended]))


def _metadata(document: bytes, issuer: str) -> str:
    """The address of the key set, if the metadata is the issuer's own (RFC 8414 section 3.3: compared byte by byte)."""
    try:
        metadata: Any = parse(document)
    except BadRequest as e:
        raise FetchFailed("its metadata is not JSON") from e
    if not isinstance(metadata, dict) or metadata.get("issuer") != issuer:
        raise FetchFailed("its metadata is another issuer's")
    address = metadata.get("jwks_uri")
    if not isinstance(address, str):
        raise FetchFailed("its metadata names no jwks_uri")
    return address


async def _document(fetcher: Fetcher, url: str) -> bytes:
    answer = await fetcher.get(url, max_bytes=MAX_SET_BYTES)
    if answer.status != 200:
        raise FetchFailed(f"status {answer.status}")
    return answer.body


def _content(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(MAX_SET_BYTES + 1)
    except OSError as e:
        raise FetchFailed(f"{file} cannot be read: {e.strerror}") from e
