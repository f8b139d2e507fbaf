"""What all connections share: bounds, errands, and the reply channel of our own requests."""

import anyio
import pytest

from mcp_gateway.errors import Unreachable
from mcp_gateway.upstreams.connection import SILENT, Limits, Listener, errands


async def test_errands_end_with_their_block() -> None:
    ended = []

    async def errand() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(True)

    async with errands() as tasks:
        tasks.start_soon(errand)
        await anyio.wait_all_tasks_blocked()
    assert ended == [True]


async def test_an_upstreams_error_comes_out_as_itself_with_its_notes() -> None:
    error = Unreachable("up", "gone")
    error.add_note("last words")
    with pytest.raises(Unreachable) as raised:
        async with errands() as tasks:
            tasks.start_soon(anyio.sleep_forever)
            raise error
    assert raised.value is error
    assert raised.value.__notes__ == ["last words"]


async def test_a_bug_in_an_errand_is_not_swallowed() -> None:
    async def buggy() -> None:
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup):
        async with errands() as tasks:
            tasks.start_soon(buggy)
            await anyio.sleep_forever()


async def test_nobody_listens_to_our_own_requests() -> None:
    await SILENT.progress({})
    await SILENT.log({})
    assert (SILENT.wants_progress, SILENT.log_level, dict(SILENT.capabilities)) == (False, None, {})
    assert not SILENT.can_be_asked("elicitation/create", {})
    with pytest.raises(LookupError):
        await SILENT.ask("roots/list", {})


def test_news_goes_to_whoever_it_is_for_and_the_rest_is_counted() -> None:
    told: list[object] = []
    listener = Listener(told.append, on_updated=told.append, on_acknowledged=told.append)
    listener.take_news("notifications/tools/list_changed", {})
    listener.take_news("notifications/resources/updated", {"uri": "a"})
    listener.take_news("notifications/subscriptions/acknowledged", {"notifications": {}})
    for method in ("notifications/other", "notifications/resources/updated/list", 7, None):
        listener.take_news(method, {})
    assert told == ["notifications/tools/list_changed", {"uri": "a"}, {"notifications": {}}]
    assert listener.dropped == {"notification": 4}


def test_every_bound_is_a_positive_number() -> None:
    limits = Limits()
    bounds = [getattr(limits, name) for name in Limits.__slots__ if name != "ids_after"]
    assert all(bound > 0 for bound in bounds if bound is not None)  # None: what is asked of others, no bound
