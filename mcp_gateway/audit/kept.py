"""What calls carry, kept beside the audit where a policy says so: sealed, with an end, and its digest in the chain.

Kept is what went on: behind the guards, so that what they mask or block is not in it, and without the secrets that the
audit never keeps either. The digest of each part goes into the call's own row, so that nobody can put other words in
somebody's mouth. Where the store cannot be written the call goes on, the log says so, and its row has no digest.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from anyio import CancelScope

from mcp_gateway.audit.redact import may_hold_secret, redacted_text
from mcp_gateway.audit.rows import canonical_bytes
from mcp_gateway.domain import Caller, Keeping, Outcome, OutcomeStatus, Relay, Request, Stage, Target
from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.jsonrpc import canonical
from mcp_gateway.storage.kept import KeptRow, KeptStore

MAX_PART_BYTES: Final = 1024 * 1024
"""Of the arguments or the results of one call; what is longer is cut."""
PURGE_EVERY_S: Final = 600.0
RESEALED_AT_ONCE: Final = 100

JSON: Final = "application/json"

_ANSWERED: Final = frozenset(
    {
        OutcomeStatus.OK,
        OutcomeStatus.TOOL_ERROR,
        OutcomeStatus.RPC_ERROR,
        OutcomeStatus.INPUT_REQUIRED,
        OutcomeStatus.WIRE_TASK,
    }
)
"""The ends of calls of MCP servers that an answer came back with."""

_log: Final = logging.getLogger(__name__)


class Seals(Protocol):
    """Seals what is kept; the vault's keys do."""

    @property
    def current(self) -> str:
        """The id of the key that seals."""
        ...

    def seal(self, content: bytes, binding: bytes) -> bytes:
        """`content`, readable with this key and for this binding only."""
        ...

    def open(self, key_id: str, sealed: bytes, binding: bytes) -> bytes:
        """What was sealed. Raises where it cannot be opened."""
        ...


@dataclass(frozen=True, slots=True)
class Part:
    """The arguments or the results of one call, as far as they are kept."""

    content: bytes = field(repr=False)
    media_type: str = JSON


@dataclass(frozen=True, slots=True)
class Store:
    """The database, and what seals its content. Blocks while the disk does."""

    table: KeptStore
    seals: Seals

    def put(self, rows: list[tuple[KeptRow, bytes]], now: float) -> None:
        """Keep these rows with their contents."""
        self.table.put([self._sealed(row, content) for row, content in rows], now)

    def content(self, row: KeptRow) -> bytes:
        """What a row holds. Raises what `Seals.open` raises."""
        return self.seals.open(row.key_id, row.sealed, _binding(row))

    def seal_anew(self, now: float) -> int:
        """Seal with the current key whatever an older one sealed; how many rows that were."""
        count = 0
        while rows := self.table.sealed_otherwise(self.seals.current, RESEALED_AT_ONCE):
            self.put([(row, self.content(row)) for row in rows], now)
            count += len(rows)
        return count

    def _sealed(self, row: KeptRow, content: bytes) -> KeptRow:
        row = replace(row, key_id=self.seals.current)
        return replace(row, sealed=self.seals.seal(content, _binding(row)))


class Keeper:
    """Keeps what calls carry, off the event loop. The store is opened when something is first kept."""

    def __init__(
        self, open_: Callable[[], Store], now_s: Callable[[], float], is_there: Callable[[], bool] = lambda: False
    ) -> None:
        """`now_s`: seconds since the epoch; `is_there`: whether something may be kept from before."""
        self.now_s = now_s
        self._open = open_
        self._is_there = is_there
        self._opened: Store | None = None
        self._thread = ThreadPoolExecutor(1, "kept")

    def record(self, keeping: Keeping, caller: Caller, request: Request, target: Target) -> Record:
        """What is to be kept of one call."""
        return Record(self, keeping, caller, request, target)

    async def keep(self, rows: list[tuple[KeptRow, bytes]]) -> None:
        """Keep these rows with their contents. Raises `StoreUnavailable`."""
        await asyncio.shield(asyncio.wrap_future(self._thread.submit(lambda: self._store.put(rows, self.now_s()))))

    async def purge_as_time_goes_by(self) -> None:
        """Let go of what has ended, also where nothing more is kept, until cancelled."""
        while True:
            if self._opened is not None or self._is_there():
                await asyncio.wrap_future(self._thread.submit(self._purge))
            await asyncio.sleep(PURGE_EVERY_S)

    def close(self) -> None:
        """Finish what is being done, and close the store."""
        self._thread.shutdown()
        if self._opened is not None:
            self._opened.table.close()

    @property
    def _store(self) -> Store:
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    def _purge(self) -> None:
        try:
            self._store.table.purge(self.now_s())
        except StoreUnavailable as e:
            _log.error("what is kept of calls could not be purged: %s", e)


class Record:
    """What is kept of one call, gathered while it walks."""

    def __init__(self, keeper: Keeper, keeping: Keeping, caller: Caller, request: Request, target: Target) -> None:
        self._keeper = keeper
        self._for_s = keeping.for_s
        self._caller = caller
        self._request_id = request.request_id
        self._target = target
        self._relay: KeptRelay | None = None
        self._parts: dict[Stage, Part] = {}

    def listening(self, request: Request) -> Request:
        """The request, its answer overheard where it goes to the agent over HTTP."""
        if request.http is None or Stage.RESULTS not in self._for_s:
            return request
        self._relay = KeptRelay(request.http.relay)
        return replace(request, http=replace(request.http, relay=self._relay))

    def sent(self, request: Request) -> None:
        """What the guards let through."""
        if Stage.ARGUMENTS not in self._for_s:
            return
        if request.http is None:
            self._parts[Stage.ARGUMENTS] = Part(canonical_bytes(dict(request.arguments)))
        elif request.http.body:
            kind = request.http.headers.get("content-type", JSON)
            self._parts[Stage.ARGUMENTS] = Part(request.http.body, kind)

    async def closed(self, outcome: Outcome) -> Outcome:
        """Keep what there is; the outcome has the digests then. To be awaited to the end, whoever hangs up."""
        result = self._result(outcome)
        if Stage.RESULTS in self._for_s and result is not None:
            self._parts[Stage.RESULTS] = result
        if not self._parts:
            return outcome
        try:
            rows = await asyncio.to_thread(self._rows)
            await self._keeper.keep(rows)
        except StoreUnavailable as e:
            _log.error("what request %s carried is not kept: %s", self._request_id, e)
            return outcome
        return replace(outcome, kept={row.part: row.sha256 for row, _ in rows})

    def _result(self, outcome: Outcome) -> Part | None:
        """What the agent gets."""
        if self._relay is not None:
            return self._relay.part
        if outcome.status not in _ANSWERED:
            return None
        error = outcome.error
        value = outcome.result if error is None else {"error": {"code": error.code, "message": error.message}}
        return None if value is None else Part(canonical_bytes(value))

    def _rows(self) -> list[tuple[KeptRow, bytes]]:
        now = self._keeper.now_s()
        return [self._row(stage, part, now) for stage, part in self._parts.items()]

    def _row(self, stage: Stage, part: Part, now: float) -> tuple[KeptRow, bytes]:
        caller, whole = self._caller, _without_secrets(part.content)
        content = whole[:MAX_PART_BYTES]
        row = KeptRow(
            request_id=self._request_id,
            part=stage.value,
            at=now,
            expires_at=now + self._for_s[stage],
            agent=caller.agent,
            task=caller.task or "",
            target=self._target.key,
            media_type=part.media_type[:200],
            sha256=hashlib.sha256(content).hexdigest(),
            size=len(content),
            is_cut=len(whole) > len(content),
            key_id="",
            sealed=b"",
        )
        return row, content


class KeptRelay:
    """A `Relay` that remembers what goes to the agent, as far as it is kept."""

    def __init__(self, relay: Relay) -> None:
        self.scope: CancelScope = relay.scope
        self._relay = relay
        self._media_type = ""
        self._body = bytearray()

    @property
    def part(self) -> Part | None:
        """What has gone; None: nothing."""
        return Part(bytes(self._body), self._media_type) if self._body else None

    async def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """See `Relay.begin`."""
        self._media_type = next((value for name, value in headers.items() if name.lower() == "content-type"), "")
        await self._relay.begin(status, headers)

    async def write(self, piece: bytes) -> None:
        """See `Relay.write`."""
        self._note(piece)
        await self._relay.write(piece)

    def hold(self, piece: bytes) -> None:
        """See `Relay.hold`."""
        self._note(piece)
        self._relay.hold(piece)

    def hold_error(self, error: Exception) -> None:
        """See `Relay.hold_error`."""
        self._relay.hold_error(error)

    def afterwards(self, do: Callable[[], None]) -> None:
        """See `Relay.afterwards`."""
        self._relay.afterwards(do)

    def _note(self, piece: bytes) -> None:
        room = MAX_PART_BYTES + 1 - len(self._body)  # one more than is kept: it tells that there was more
        self._body += piece[:room]


def _without_secrets(content: bytes) -> bytes:
    """Without the secrets that the audit keeps none of."""
    if not may_hold_secret(content):
        return content
    return redacted_text(content.decode("utf-8", "replace"))[0].encode("utf-8", "replace")


def _binding(row: KeptRow) -> bytes:
    """What a row's content is sealed for."""
    parts = [row.request_id, row.part, row.agent, row.task, row.target, row.sha256, row.expires_at, row.key_id]
    return canonical(["kept", *parts])
