"""An agent gets what its own call says, in order, and only what it asked for."""

from collections import Counter

import pytest

from fakes.replies import RecordingReply
from mcp_gateway.upstreams.relay import Call, Verbosity

PROGRESS, LOG = "notifications/progress", "notifications/message"


def test_progress_that_does_not_grow_is_dropped() -> None:
    dropped: Counter[str] = Counter()
    call = Call(RecordingReply(), dropped)
    admitted = [value for value in (1, 1, 0, 2.5, True, "3", None, 3) if call.admits(PROGRESS, {"progress": value})]
    assert admitted == [1, 2.5, 3]
    assert dropped.total() == 5


def test_nothing_is_relayed_after_the_answer() -> None:
    call = Call(RecordingReply(log_level="debug"), Counter())
    call.is_over = True
    assert not call.admits(PROGRESS, {"progress": 1})
    assert not call.admits(LOG, {"level": "error"})


def test_an_agent_that_wants_no_progress_gets_none() -> None:
    assert not Call(RecordingReply(wants_progress=False), Counter()).admits(PROGRESS, {"progress": 1})


@pytest.mark.parametrize(
    ("wanted", "level", "comes"),
    [
        ("warning", "error", True),
        ("warning", "warning", True),
        ("warning", "info", False),
        (None, "emergency", False),
        ("info", "shout", False),
        ("info", None, False),
        ("debug", "shout", True),
    ],
)
def test_log_lines_below_the_wanted_level_are_dropped(wanted: str | None, level: object, comes: bool) -> None:
    assert Call(RecordingReply(log_level=wanted), Counter()).admits(LOG, {"level": level}) is comes


async def test_params_are_relayed_whole() -> None:
    reply = RecordingReply(log_level="debug")
    call = Call(reply, Counter())
    await call.relay(PROGRESS, {"progress": 1, "x-new": None})
    await call.relay(LOG, {"level": "info", "data": {"a": None}})
    assert reply.progressed == [{"progress": 1, "x-new": None}]
    assert reply.logged == [{"level": "info", "data": {"a": None}}]


def test_a_session_is_asked_for_each_more_verbose_level_once() -> None:
    verbosity = Verbosity()
    wanted = [None, "warning", "error", "warning", "info", "nonsense", "info", "debug"]
    assert [verbosity.raised_to(level) for level in wanted] == [
        None,
        "warning",
        None,
        None,
        "info",
        None,
        None,
        "debug",
    ]
