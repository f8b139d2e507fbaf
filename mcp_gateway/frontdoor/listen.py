"""Who wants to hear that lists changed, and telling exactly those whose lists did.

A change of catalog or policy reaches an agent only if the set *it* may see became another one: anything else would
tell it about targets it must not know. Changes that meet are told once.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import Final

from starlette.types import Receive, Send

from mcp_gateway.domain import Caller, Era, Json, Kind, Transport
from mcp_gateway.errors import BadRequest, OverLimit
from mcp_gateway.frontdoor.exchange import Closers, EventStream, over_or_hung_up
from mcp_gateway.frontdoor.protocol import LIST_CHANGED, Ask, client_name
from mcp_gateway.frontdoor.subscriber import Likeness, Subscriber, lasting
from mcp_gateway.frontdoor.task_news import TaskNews
from mcp_gateway.frontdoor.updates import UPDATED, Updates, subscription
from mcp_gateway.frontdoor.wire_tasks import NEEDED, declared
from mcp_gateway.gateway import Gateway
from mcp_gateway.jsonrpc import Code
from mcp_gateway.revisions import META_CAPABILITIES, META_CLIENT, META_SERVER, META_SUBSCRIPTION

MAX_SUBSCRIBERS: Final = 10_000
MAX_SUBSCRIBERS_PER_AGENT: Final = 2_000

SLICE_S: Final = 0.01
"""How long lists are worked out at a stretch before calls get their turn."""

_HONOURED: Final = {
    "toolsListChanged": (Kind.TOOL,),
    "promptsListChanged": (Kind.PROMPT,),
    "resourcesListChanged": (Kind.RESOURCE, Kind.TEMPLATE),
}

_Known = dict[Likeness, dict[Kind, bytes]]


class Listening:
    """What one `subscriptions/listen` asked for, and the messages that belong to it.

    The first frame acknowledges what is honoured; every frame carries the request's id as subscription id; a graceful
    end is the request's result (patterns/subscriptions).
    """

    def __init__(self, message: Ask, server_info: Json) -> None:
        asked = message.params.get("notifications")
        wanted = asked if isinstance(asked, dict) else {}
        honoured = [name for name in _HONOURED if wanted.get(name) is True]
        uris = wanted.get("resourceSubscriptions")
        self._meta: Json = {META_SUBSCRIPTION: message.id}
        self._honoured = dict.fromkeys(honoured, True)
        self.kinds = tuple(kind for name in honoured for kind in _HONOURED[name])
        self.uris = tuple(uri for uri in uris if isinstance(uri, str)) if isinstance(uris, list) else ()
        tasks = wanted.get("taskIds")
        self.task_ids = tuple(each for each in tasks if isinstance(each, str)) if isinstance(tasks, list) else ()
        meta = message.params.get("_meta", {})
        self.client = client_name(meta.get(META_CLIENT))
        self.lacks_wire_tasks = "taskIds" in wanted and not declared(meta.get(META_CAPABILITIES, {}))
        """News of wire tasks are asked for by an agent that has not said it knows what they are."""
        result = {"resultType": "complete", "_meta": {**self._meta, META_SERVER: server_info}}
        self.result: Json = {"jsonrpc": "2.0", "id": message.id, "result": result}

    def acknowledgement(self, uris: Sequence[str] = (), task_ids: Sequence[str] = ()) -> Json:
        """The first frame: the lists, of the resources asked for those in `uris`, of the tasks those in `task_ids`."""
        resources = {"resourceSubscriptions": list(uris)} if uris else {}
        tasks = {"taskIds": list(task_ids)} if task_ids else {}
        params = {"notifications": {**self._honoured, **resources, **tasks}, "_meta": self._meta}
        return _frame("notifications/subscriptions/acknowledged", params)

    def notification(self, method: str) -> Json:
        """A notification of this subscription."""
        return _frame(method, {"_meta": self._meta})

    def update(self, uri: str) -> Json:
        """The notification that a resource changed."""
        return _frame(UPDATED, {"uri": uri, "_meta": self._meta})

    def task(self, params: Json) -> Json:
        """The notification of how a wire task is doing."""
        return _frame("notifications/tasks", {**params, "_meta": self._meta})


class Bulletin:
    """All subscribers of one gateway process."""

    def __init__(self, gateway: Gateway, server_info: Json, updates: Updates, task_news: TaskNews) -> None:
        self._gateway = gateway
        self._updates = updates
        self._task_news = task_news
        self._server_info = server_info
        self._subscribers: set[Subscriber] = set()
        self._count_of: Counter[str] = Counter()
        self._untold: deque[Subscriber] = deque()
        self._known: _Known = {}

    def subscribe(self, subscriber: Subscriber) -> None:
        """Begin to listen. Raises `OverLimit` when too many do already."""
        agent = subscriber.agent
        if len(self._subscribers) >= MAX_SUBSCRIBERS or self._count_of[agent] >= MAX_SUBSCRIBERS_PER_AGENT:
            raise OverLimit("too many open subscriptions")
        subscriber.seen = self._lists_of(subscriber, {})
        self._subscribers.add(subscriber)
        self._count_of[agent] += 1

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Stop listening, for good; harmless when that has happened already."""
        self._updates.forget(subscriber)
        if subscriber.tasks:
            self._task_news.forget(subscriber)
        if subscriber in self._subscribers:
            self._subscribers.discard(subscriber)
            self._count_of[subscriber.agent] -= 1

    def publish(self) -> int:
        """The snapshot was swapped: tell everyone whose lists changed. Returns how many were told at once.

        Working out thousands of lists takes seconds: it is done a little at a time, so that calls go on meanwhile.
        """
        self._updates.reroute()
        self._task_news.watch()
        is_under_way = bool(self._untold)
        self._untold, self._known = deque(self._subscribers), {}
        return 0 if is_under_way else self._tell_some()

    def _tell_some(self) -> int:
        told, until = 0, time.monotonic() + SLICE_S
        while self._untold and time.monotonic() < until:
            subscriber = self._untold.popleft()
            if subscriber in self._subscribers:
                told += self._tell_if_changed(subscriber, self._known)
        if self._untold:
            asyncio.get_running_loop().call_soon(self._tell_some)
        return told

    async def open(self, listening: Listening, subscriber: Subscriber) -> Json:
        """Begin to serve a `subscriptions/listen`; whatever comes of it, `unsubscribe` in the end.

        Returns the acknowledgement, which has to be sent before anything else and before anybody else gets to work.
        Raises `OverLimit` and `StoreUnavailable`; `BadRequest` (-32021) for news of wire tasks without their extension.
        With it, those of its own tasks are told as far as their upstreams tell.
        """
        if listening.lacks_wire_tasks:
            raise BadRequest("Missing required client capability", Code.MISSING_CAPABILITY, NEEDED)
        caller, request = subscriber.caller(), subscription(subscriber, "", "subscriptions/listen", listening.client)
        uris = await self._updates.subscribe_all(caller, request, listening.uris, subscriber)
        task_ids = await self._task_news.follow_all(caller, request, listening.task_ids, subscriber)
        self.subscribe(subscriber)
        return listening.acknowledgement(uris, task_ids)

    def resume(self, subscriber: Subscriber) -> None:
        """It can be told (again) what happens to its resources and tasks, beginning with what it missed."""
        self._updates.resume(subscriber)
        self._task_news.resume(subscriber)

    async def stream(self, receive: Receive, send: Send, caller: Caller, message: Ask, closers: Closers) -> None:
        """Serve `subscriptions/listen` until the agent hangs up, its credential is revoked, or we stop.

        Raises `OverLimit` and `StoreUnavailable`, before anything is sent.
        """
        listening = Listening(message, self._server_info)
        stream, over = EventStream(send), asyncio.Event()
        subscriber = Subscriber(
            caller=lambda: lasting(caller),
            era=Era.MODERN,
            transport=Transport.HTTP,
            kinds=listening.kinds,
            tell=lambda method: stream.put_once(listening.notification(method)),
            tell_updated=lambda uri: stream.put_once(listening.update(uri)),
            tell_task=lambda params: stream.put(listening.task(params)),
            is_listening=False,
        )
        key = closers.add(caller, over.set)
        try:
            stream.put(await self.open(listening, subscriber))
            self.resume(subscriber)
            hung_up = await over_or_hung_up(over, receive)
        finally:
            self.unsubscribe(subscriber)
            closers.discard(key)
        await stream.end(None if hung_up else listening.result)

    def _tell_if_changed(self, subscriber: Subscriber, known: _Known) -> bool:
        before, subscriber.seen = subscriber.seen, self._lists_of(subscriber, known)
        changed = {LIST_CHANGED[kind] for kind in subscriber.kinds if subscriber.seen[kind] != before[kind]}
        for method in sorted(changed):
            subscriber.tell(method)
        return bool(changed)

    def _lists_of(self, subscriber: Subscriber, known: _Known) -> dict[Kind, bytes]:
        """A fingerprint of each list. `known` holds those of others who are judged alike: a thousand sessions of one
        agent are worked out once."""
        caller = subscriber.caller()
        lists = known.setdefault(subscriber.likeness_of(caller), {})
        for kind in subscriber.kinds:
            if kind not in lists:
                lists[kind] = self._fingerprint(caller, kind, subscriber.era, subscriber.transport)
        return {kind: lists[kind] for kind in subscriber.kinds}

    def _fingerprint(self, caller: Caller, kind: Kind, era: Era, transport: Transport) -> bytes:
        digest = hashlib.sha256()
        for target in self._gateway.visible(caller, kind, era, transport):
            digest.update(f"{target.public_name}\0{target.definition_hash}\0".encode())
        return digest.digest()


def _frame(method: str, params: Json) -> Json:
    return {"jsonrpc": "2.0", "method": method, "params": params}
