"""One call's side of what providers keep: whose an id becomes before its agent hears of it, and what is paid when.

A response in the background goes on after its call. What was set aside for it stays set aside under a name of its own,
and the call that first finds it ended tells what it took: once, whoever asks how often.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from mcp_gateway.domain import Caller, HttpPart, Kept, Usage
from mcp_gateway.models.asked import Reference
from mcp_gateway.models.kept import KeptThings
from mcp_gateway.models.route import Way
from mcp_gateway.models.wires import Op, Operation

_UNDER_WAY: Final = ("queued", "in_progress")
_MAKES_RESPONSES: Final = (Op.RESPONSES, Op.GET_RESPONSE, Op.CANCEL_RESPONSE)

Charge = tuple[Usage | None, str]
"""What a call is charged now, and the bill it opens or settles (`domain.Outcome.bill`)."""


class Keeping:
    """For one call."""

    def __init__(self, things: KeptThings, caller: Caller, model: str, operation: Operation, http: HttpPart) -> None:
        self._things = things
        self._caller = caller
        self._model = model
        self._operation = operation
        self._http = http
        self._noted = dict.fromkeys(kept.id for kept in http.kept)
        self._response = ""

    def looks_at(self, way: Way) -> bool:
        """Whether the answer may name something that is kept from now on."""
        makes_none = self._operation.op is Op.RESPONSES and self._http.json.get("store") is False
        return way.provider.stateful and bool(self._operation.about) and not makes_none

    async def note(self, way: Way, made: Sequence[Reference], *, is_open: bool = False) -> None:
        """Write down that what an answer names is the caller's. Raises `Misbehaved`, `StoreUnavailable`."""
        new = [each for each in made if each.id not in self._noted]
        if not new:
            return
        credential = self._things.credential_of(way.provider)
        model, target = self._model, way.target.model
        things = [
            Kept(way.target.provider, id_, kind, credential, model, target, is_open=is_open and kind == "response")
            for kind, id_ in new
        ]
        await self._things.note(self._caller, way.provider, things)
        self._noted |= dict.fromkeys(each.id for each in new)
        self._response = self._response or next((each.id for each in new if each.kind == "response"), "")

    async def of_whole(self, way: Way, value: Any, usage: Usage | None) -> Charge:
        """Note what a whole answer names, and say what the call is charged; `usage` is what the answer says it took."""
        if not self.looks_at(way):
            return usage, ""
        goes_on = self._operation.about == "response" and value.get("status") in _UNDER_WAY
        await self.note(way, list(made_in(self._operation.op, value)), is_open=goes_on)
        if self._operation.op in (Op.DELETE_RESPONSE, Op.DELETE_CONVERSATION):
            return await self._deleted()
        if self._operation.op in (Op.GET_RESPONSE, Op.CANCEL_RESPONSE) and not goes_on:
            return await self._ended(usage)
        if self._operation.is_about_kept or self._operation.op is Op.CREATE_CONVERSATION:
            return None, ""
        if goes_on:
            return None, self._bill(way.target.provider, self._response)
        self._grow(way, usage)
        return usage, ""

    async def of_stream(self, way: Way, usage: Usage, *, is_over: bool) -> Charge:
        """The same of a stream that has ended, whether or not with an end of its own."""
        if self._operation.is_about_kept:
            return await self._ended(usage) if is_over else (None, "")
        if not is_over:
            return self.of_cut(way, usage)
        if self.looks_at(way):
            self._grow(way, usage)
        return usage, ""

    def of_cut(self, way: Way, usage: Usage | None) -> Charge:
        """The same where nobody listens any more: a response in the background goes on."""
        if self._operation.is_about_kept:
            return None, ""
        is_background = self._operation.op is Op.RESPONSES and self._http.json.get("background") is True
        if not is_background or not self._response:
            return usage, ""
        self._things.reopen(way.target.provider, self._response)
        return None, self._bill(way.target.provider, self._response)

    async def _ended(self, usage: Usage | None) -> Charge:
        """A response that was asked for has ended: it is paid for by whoever hears that first."""
        [kept] = self._http.kept
        is_news = kept.is_open and await self._things.finish(kept)
        if not is_news:
            return None, ""
        return usage, self._bill(kept.provider, kept.id)

    async def _deleted(self) -> Charge:
        """Nobody will know what it took, if nobody knows yet."""
        _, bill = await self._ended(None)
        await self._things.forget(self._http.kept[0])
        return None, bill

    def _grow(self, way: Way, usage: Usage | None) -> None:
        ids = [self._response, *(kept.id for kept in self._http.kept if kept.kind == "conversation")]
        if usage is not None and self._operation.about == "response":
            self._things.grow(way.target.provider, ids, usage.input + usage.output)

    def _bill(self, provider: str, id_: str) -> str:
        return f"{provider}/{id_}"


def made_in(op: Op, value: Any) -> Iterator[Reference]:
    """What a whole answer, or one event of a stream, names that its provider keeps from now on."""
    if op is Op.MESSAGES:
        yield from _containers(value)
    elif op is Op.CREATE_CONVERSATION:
        yield from _named("conversation", value)
    elif op in _MAKES_RESPONSES:
        yield from _responses(value.get("response", value))
        yield from _named("item", value.get("item"))


def _responses(value: Any) -> Iterator[Reference]:
    if isinstance(value, dict) and value.get("object") == "response":
        yield from _named("response", value)
        output = value.get("output")
        for item in output if isinstance(output, list) else ():
            yield from _named("item", item)


def _containers(value: Any) -> Iterator[Reference]:
    for holder in (value, value.get("message"), value.get("delta")):
        if isinstance(holder, dict):
            yield from _named("container", holder.get("container"))


def _named(kind: str, value: Any) -> Iterator[Reference]:
    if isinstance(value, dict) and isinstance(value.get("id"), str) and value["id"]:
        yield Reference(kind, value["id"])
