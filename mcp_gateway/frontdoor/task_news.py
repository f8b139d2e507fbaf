"""Who wants to hear how their wire tasks are doing, and telling exactly those (SEP-2663, "Status Notifications").

An agent names its tasks by the ids it holds. Each is opened and decided like a `tasks/get`, and decided again each time
there is news. What is told is the state and nothing else: what a task ended with, or asks, is fetched with `tasks/get`,
where it is checked, looked at by the guards and written down.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from mcp_gateway.domain import Caller, Json, Kind, Request, Verb
from mcp_gateway.errors import NotAvailable
from mcp_gateway.frontdoor.seals import SealBrokenError
from mcp_gateway.frontdoor.subscriber import Subscriber
from mcp_gateway.frontdoor.wire_tasks import WireTasks, told
from mcp_gateway.gateway import Gateway

MAX_FOLLOWED: Final = 20_000
MAX_FOLLOWED_PER_AGENT: Final = 1_000
"""Tasks followed, over all streams."""

STATES: Final = frozenset({"working", "input_required", "completed", "failed", "cancelled"})

_TOLD: Final = ("createdAt", "lastUpdatedAt", "pollIntervalMs")
_MAX_CHARS: Final = 64


class TaskNews:
    """All wire tasks that agents of one gateway process follow."""

    def __init__(self, gateway: Gateway, wire_tasks: WireTasks, new_request_id: Callable[[], str]) -> None:
        self._gateway = gateway
        self._wire_tasks = wire_tasks
        self._new_request_id = new_request_id
        self._followers: defaultdict[str, defaultdict[str, set[Subscriber]]] = defaultdict(lambda: defaultdict(set))
        self._count_of: Counter[str] = Counter()

    async def follow_all(
        self, caller: Caller, request: Request, task_ids: Iterable[str], subscriber: Subscriber
    ) -> tuple[str, ...]:
        """Tell a subscriber of each of these tasks that is its own; returns which, in the order they were given."""
        unique = list(dict.fromkeys(task_ids))[:MAX_FOLLOWED_PER_AGENT]
        found = [task_id for task_id in unique if await self._follow(caller, request, task_id, subscriber)]
        self.watch()
        return tuple(found)

    def forget(self, subscriber: Subscriber) -> None:
        """It has ended."""
        for upstream, task_id in subscriber.tasks:
            followers = self._followers[upstream]
            followers[task_id].discard(subscriber)
            if not followers[task_id]:
                del followers[task_id]
        self._count_of[subscriber.agent] -= len(subscriber.tasks)
        subscriber.tasks.clear()
        self.watch()

    def note(self, upstream: str, params: Json) -> None:
        """An upstream says how a task of its is doing. Quick, and never raises."""
        task_id = params.get("taskId")
        followers = self._followers.get(upstream)
        if followers is not None and isinstance(task_id, str) and params.get("status") in STATES:
            for subscriber in list(followers.get(task_id, ())):
                self._tell(subscriber, upstream, task_id, params)

    def resume(self, subscriber: Subscriber) -> None:
        """It can be told now, beginning with what it missed."""
        subscriber.is_listening = True
        for params in subscriber.missed_tasks.values():
            subscriber.tell_task(params)
        subscriber.missed_tasks.clear()

    def watch(self) -> None:
        """Let upstreams know what is followed by now, also those that are new ones by the same name."""
        upstreams = self._gateway.snapshot.upstreams
        for name in self._followers.keys() & upstreams.keys():
            upstreams[name].follow(frozenset(self._followers[name]))
        for name in [name for name, followers in self._followers.items() if not followers]:
            del self._followers[name]

    async def _follow(self, caller: Caller, request: Request, task_id: str, subscriber: Subscriber) -> bool:
        if self._count_of[subscriber.agent] >= MAX_FOLLOWED_PER_AGENT or self._count_of.total() >= MAX_FOLLOWED:
            return False
        about = replace(request, request_id=self._new_request_id(), verb=Verb.TASK_GET, kind=Kind.TOOL)
        try:
            task = self._wire_tasks.opened(caller, task_id)
        except SealBrokenError:
            await self._gateway.note_misuse(caller, about)
            return False
        about = replace(about, name=task.tool, upstream=task.upstream, params={"taskId": task.id})
        try:
            await self._gateway.subscribe(caller, about)
        except NotAvailable:
            return False
        if not subscriber.is_over and (task.upstream, task.id) not in subscriber.tasks:
            subscriber.tasks[task.upstream, task.id] = (task_id, about)
            self._followers[task.upstream][task.id].add(subscriber)
            self._count_of[subscriber.agent] += 1
        return True

    def _tell(self, subscriber: Subscriber, upstream: str, task_id: str, params: Json) -> None:
        our_id, about = subscriber.tasks[upstream, task_id]
        if not self._gateway.may_hear(subscriber.caller(), about, upstream):
            return
        state = {name: params[name] for name in _TOLD if _is_plain(params.get(name))}
        news = told({"taskId": task_id, "status": params["status"], "ttlMs": params.get("ttlMs"), **state}, our_id)
        if subscriber.is_listening:
            subscriber.tell_task(news)
        else:
            subscriber.missed_tasks[our_id] = news


def _is_plain(value: object) -> bool:
    return (isinstance(value, str) and len(value) <= _MAX_CHARS) or type(value) in (int, float)
