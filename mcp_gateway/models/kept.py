"""What model providers keep for agents, and whose it is: a response, a conversation, a container by the provider's id.

An id is good for one agent on one task (for one person, within one started task), at the provider and under the key it
was made with; for anybody else it is as unknown as one that was never given out. Ids stay the provider's own, so that
answers pass byte for byte: why, says docs/decisions. Work on the store is done off the event loop, in turn.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from mcp_gateway.config.models import Models, ProviderConfig
from mcp_gateway.domain import Caller, Kept
from mcp_gateway.errors import Misbehaved
from mcp_gateway.jsonrpc import canonical
from mcp_gateway.models.asked import Reference
from mcp_gateway.storage.owned import Owned, OwnedStore

T = TypeVar("T")

_DAY_S: Final = 86_400
_KEPT_S: Final = {"conversation": 400 * _DAY_S}
_USUALLY_KEPT_S: Final = 31 * _DAY_S
"""OpenAI keeps responses for 30 days; conversations until they are deleted."""

_log: Final = logging.getLogger(__name__)


class KeptThings:
    """Notes and finds what providers keep; belongs to one event loop."""

    def __init__(self, state: Path, key: bytes, now_s: Callable[[], float]) -> None:
        """`key`: at least 32 secret bytes, the same for every process of the state folder."""
        self._state = state
        self._key = key
        self._now_s = now_s
        self._opened: OwnedStore | None = None
        self._thread = ThreadPoolExecutor(1, "kept")

    def credential_of(self, provider: ProviderConfig) -> str:
        """What we are known by at a provider, told apart and not told."""
        told = canonical([provider.name, provider.url, sorted(provider.headers.items())])
        return hashlib.blake2b(told, key=self._key[:64], digest_size=16).hexdigest()

    async def find(self, caller: Caller, references: Sequence[Reference], models: Models) -> list[Kept] | Reference:
        """All of these that are the caller's, or the first that is not: unknown, or somebody else's, or made under
        another key than the provider has now. Raises `StoreUnavailable`."""
        owner, now = owner_of(caller), int(self._now_s())
        rows = await self._in_thread(lambda store: [store.find(owner, each.kind, each.id, now) for each in references])
        found = []
        for reference, row in zip(references, rows, strict=True):
            provider = None if row is None else models.providers.get(row.provider)
            if row is None or provider is None or not self._is_there(provider, row):
                return reference
            found.append(_kept(row))
        return found

    async def note(self, caller: Caller, provider: ProviderConfig, things: Sequence[Kept]) -> None:
        """Write down that these are the caller's. Raises `Misbehaved` for an id that is somebody else's already,
        `StoreUnavailable`."""
        owner, now = owner_of(caller), int(self._now_s())
        rows = [
            Owned(
                *(each.provider, each.id, each.kind, owner, each.credential, each.model, each.target, each.tokens),
                is_open=each.is_open,
                made_at=now,
                expires_at=now + _KEPT_S.get(each.kind, _USUALLY_KEPT_S),
            )
            for each in things
        ]
        if not all(await self._in_thread(lambda store: [store.add(row) for row in rows])):
            raise Misbehaved(provider.name, f"provider {provider.name!r} gave one id to two agents")

    async def finish(self, kept: Kept) -> bool:
        """It went on by itself and has ended; whether its end is news, which it is once. Raises `StoreUnavailable`."""
        return await self._in_thread(lambda store: store.finish(kept.provider, kept.id))

    async def forget(self, kept: Kept) -> None:
        """It is gone at its provider. Raises `StoreUnavailable`."""
        await self._in_thread(lambda store: store.remove(kept.provider, kept.id))

    def reopen(self, provider: str, id_: str) -> None:
        """It goes on by itself, and nobody listens any more: what it takes is told later. Waits for nothing."""
        self._later(lambda store: store.reopen(provider, id_))

    def grow(self, provider: str, ids: Sequence[str], tokens: int) -> None:
        """Going on from these takes so many tokens of input; waits for nothing."""
        self._later(lambda store: store.grow(provider, ids, tokens))

    def close(self) -> None:
        """Finish what is being done, and close the store."""
        self._thread.shutdown()
        if self._opened is not None:
            self._opened.close()

    def _is_there(self, provider: ProviderConfig, row: Owned) -> bool:
        return provider.enabled and provider.stateful and self.credential_of(provider) == row.credential

    async def _in_thread(self, work: Callable[[OwnedStore], T]) -> T:
        return await asyncio.shield(
            asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(self._store()))
        )

    def _later(self, work: Callable[[OwnedStore], object]) -> None:
        self._thread.submit(lambda: work(self._store())).add_done_callback(_complain)

    def _store(self) -> OwnedStore:
        """Opened when it is first needed; in its thread."""
        if self._opened is None:
            self._opened = OwnedStore(self._state)
        return self._opened


def owner_of(caller: Caller) -> str:
    """Whose something is. Not the credential's: it may outlive an API key that is replaced."""
    parts: list[Any] = [caller.agent, caller.person or "", caller.task or "", caller.started_id]
    return canonical(parts).decode()


def _kept(row: Owned) -> Kept:
    return Kept(row.provider, row.id, row.kind, row.credential, row.model, row.target, row.tokens, row.is_open)


def _complain(done: Future[object]) -> None:
    error = None if done.cancelled() else done.exception()
    if error is not None:
        _log.error("what a provider keeps could not be noted: %s", error)
