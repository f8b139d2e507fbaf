"""Answers of models to the very same prompt, kept for whoever got them: byte for byte, streams as streams.

What decides about an answer is in its key: who asks, the whole body, the path, the headers that reach the provider, the
targets that policy lets the name lead to, the policy. A body that has anything done beyond an answer is never kept nor
answered from here: tools, whether the agent's or the provider's, and whatever refers to or makes state at a provider.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson
from anyio import CancelScope

from mcp_gateway.cache import Cache, Owner, digest_of, owner_of
from mcp_gateway.domain import Cached, CacheUse, Caller, HttpPart, Json, Outcome, OutcomeStatus, Relay, Request, Usage
from mcp_gateway.jsonrpc import canonical
from mcp_gateway.models.framing import event_name
from mcp_gateway.models.outgoing import edits_for
from mcp_gateway.models.route import Way
from mcp_gateway.models.wires import Op, Operation
from mcp_gateway.rest.freshness import directives

HEADER: Final = "x-gateway-cache"

_OPS: Final = frozenset({Op.CHAT, Op.RESPONSES, Op.EMBEDDINGS, Op.MESSAGES, Op.COUNT_TOKENS})
_ACTING: Final = ("tools", "functions", "mcp_servers", "plugins", "web_search_options", "search_parameters")
"""Members that let an answer be more than words."""
_STATEFUL: Final = ("previous_response_id", "conversation", "container", "background", "prompt", "store")
_STATEFUL_BELOW: Final = frozenset({"file_id", "file_ids", "vector_store_ids", "container_id", "item_reference"})
_OF_THE_ANSWER: Final = ("anthropic-version", "anthropic-beta", "openai-beta")
"""Headers that reach the provider and may change what it says."""


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """One whole answer with status 200."""

    media_type: str
    body: bytes
    """What was relayed as it came; of an answer that came in one piece nothing."""
    end: bytes
    kept_at_s: float
    source: str
    """The request it was the answer to."""
    target: str
    """What answered, as `provider/model`."""

    @property
    def size(self) -> int:
        return len(self.body) + len(self.end)


@dataclass(frozen=True, slots=True)
class Prompts:
    """What is kept, for all models together."""

    answers: Cache[KeptAnswer]
    now_s: Callable[[], float]
    """Never set back."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One call that may be answered from here, or whose answer may be kept."""

    prompts: Prompts
    op: Op
    owner: Owner
    key: bytes
    circumstances: str
    """A digest of everything that decides about an answer but the body."""
    request_id: str
    ttl_s: float
    """How long an answer is given again; 0: it is not kept."""
    wishes: Mapping[str, str]
    """The agent's `Cache-Control`."""

    def kept(self) -> tuple[KeptAnswer, Cached] | None:
        """The answer to the very same, if there is one that is young enough."""
        found = None if not self.ttl_s or self.wishes.keys() & {"no-cache", "no-store"} else self._found()
        if found is None:
            return None
        age_s = int(self.prompts.now_s() - found.kept_at_s)
        return found, Cached(CacheUse.HIT, found.source, age_s)

    def recording(self, http: HttpPart) -> tuple[HttpPart, Recording]:
        """The call with a way back that remembers what takes it."""
        recording = Recording(http.relay, self.prompts.answers.bounds.largest, tells=bool(self.ttl_s))
        return replace(http, relay=recording), recording

    def keep(self, recording: Recording, outcome: Outcome) -> None:
        """Keep a whole answer, once guards have let it pass and the audit has it."""
        answer = recording.answer if self.ttl_s and outcome.status is OutcomeStatus.OK else None
        if answer is None or not _is_complete(self.op, *answer) or "no-store" in self.wishes:
            return
        target = str((outcome.result or {}).get("answered_by", ""))
        kept = KeptAnswer(*answer, kept_at_s=self.prompts.now_s(), source=self.request_id, target=target)
        recording.afterwards(lambda: self._put(kept))

    def _put(self, kept: KeptAnswer) -> None:
        self.prompts.answers.put(self.owner, self.key, kept, kept.size)

    def _found(self) -> KeptAnswer | None:
        found = self.prompts.answers.get(self.owner, self.key)
        if found is not None and self.prompts.now_s() - found.kept_at_s >= self.ttl_s:
            self.prompts.answers.drop(self.owner, self.key)
            return None
        return found


class Recording:
    """A `Relay` that passes everything on and remembers it, up to a bound."""

    def __init__(self, relay: Relay, max_bytes: int, *, tells: bool = True) -> None:
        """`tells`: whether the agent is told that nothing was kept for it."""
        self.scope: CancelScope = relay.scope
        self._relay = relay
        self._more = {HEADER: "miss"} if tells else {}
        self._room = max_bytes
        self._status = 0
        self._media_type = ""
        self._written: list[bytes] = []
        self._held: list[bytes] = []
        self._is_broken = False

    @property
    def answer(self) -> tuple[str, bytes, bytes] | None:
        """Media type, body and end of an answer with status 200; None: another one, too large, or broken off."""
        if self._status != 200 or self._is_broken or self._room < 0:
            return None
        return self._media_type, b"".join(self._written), b"".join(self._held)

    async def begin(self, status: int, headers: Mapping[str, str]) -> None:
        self._status, self._media_type = status, headers.get("content-type", "")
        await self._relay.begin(status, {**headers, **self._more})

    async def write(self, piece: bytes) -> None:
        self._remember(self._written, piece)
        await self._relay.write(piece)

    def hold(self, piece: bytes) -> None:
        self._remember(self._held, piece)
        self._relay.hold(piece)

    def hold_error(self, error: Exception) -> None:
        self._is_broken = True
        self._relay.hold_error(error)

    def afterwards(self, do: Callable[[], None]) -> None:
        self._relay.afterwards(do)

    def _remember(self, pieces: list[bytes], piece: bytes) -> None:
        self._room -= len(piece)
        pieces.append(piece)
        if self._room < 0:
            self._written, self._held = [], []


def prompt_of(
    prompts: Prompts, caller: Caller, request: Request, operation: Operation, ways: Sequence[Way], ttl_s: float, of: str
) -> Prompt | None:
    """One call as the cache sees it; None: it is none of its business. `of`: what else decides, such as the policy."""
    http = request.http
    if http is None or request.needs or not is_plain(operation, http.json, ways):
        return None
    parts = {
        "path": http.path,
        "name": request.name,
        "headers": {name: http.headers[name] for name in _OF_THE_ANSWER if name in http.headers},
        # In one order: with weights it is drawn anew for each call.
        "ways": sorted([str(way.target), way.provider.url, digest_of(way.provider.headers)] for way in ways),
        "of": of,
    }
    circumstances = hashlib.sha256(canonical(parts)).hexdigest()
    return Prompt(
        prompts,
        operation.op,
        owner_of(caller),
        hashlib.sha256(circumstances.encode() + http.body).digest(),
        circumstances,
        request.request_id,
        ttl_s,
        directives(http.headers.get("cache-control", "")),
    )


def is_plain(operation: Operation, body: Any, ways: Sequence[Way]) -> bool:
    """Whether such a call can lead to nothing but an answer."""
    if operation.op not in _OPS or not isinstance(body, dict):
        return False
    if any(body.get(name) for name in (*_ACTING, *_STATEFUL)) or _names_state(body):
        return False
    if operation.op is not Op.RESPONSES:
        return True
    # The wire's default is to keep every answer; unless it is told not to, it has an id that leads somewhere.
    stored = body.get("store", None)
    return all(edits_for(operation, way, body).get("store", stored) is False for way in ways)


async def replay(relay: Relay, kept: KeptAnswer, cached: Cached) -> Outcome:
    """Give a kept answer as it came, without its pauses. It took no tokens, and costs nothing."""
    header = f"exact; age={cached.age_s}; source={cached.source}"
    await relay.begin(200, {"content-type": kept.media_type, HEADER: header})
    if kept.body:
        await relay.write(kept.body)
    relay.hold(kept.end)
    result: Json = {"status": 200, "answered_by": kept.target, "bytes": kept.size}
    return Outcome(OutcomeStatus.OK, result, usage=Usage(cost=0.0, model=kept.target), cached=cached)


def _is_complete(op: Op, media_type: str, body: bytes, end: bytes) -> bool:
    """Whether it says itself that nothing is missing: a response can fail, or be cut short, in a whole answer."""
    if op is not Op.RESPONSES:
        return True
    if "text/event-stream" in media_type:
        return event_name(end) == b"response.completed"
    try:
        return bool(orjson.loads(body + end)["status"] == "completed")
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return False


def _names_state(body: Json) -> bool:
    """Whether anything inside names something that a provider keeps."""
    level: list[Any] = [body]
    while level:
        below: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                if _STATEFUL_BELOW & node.keys() or node.get("type") == "item_reference":
                    return True
                below += node.values()
            else:
                below += node
        level = [child for child in below if type(child) is dict or type(child) is list]
    return False
