"""Detectors that are services of the operator's: real HTTP, real failures."""

import asyncio
import base64
import hashlib
import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fakes.moderator import WORD, Moderator
from fakes.ports import free_port
from fakes.served import serving
from fakes.waiting import until
from mcp_gateway.config.detectors import DetectorConfig
from mcp_gateway.domain import Stage
from mcp_gateway.guards.detect import Found, Unjudged
from mcp_gateway.guards.webhook import MAX_REMEMBERED, Webhook
from mcp_gateway.netguard import Allowed, Fetcher

NOW_S = 1_800_000_000.0


class Clock:
    """Seconds since the epoch, which stand still until they are moved."""

    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


@asynccontextmanager
async def asking(moderator: Moderator, clock: Clock, **keys: Any) -> AsyncIterator[Webhook]:
    async with serving(moderator) as origin, fetching() as fetcher:
        yield Webhook(DetectorConfig("ours", f"{origin}/judge", ("abuse",), **keys), fetcher, clock)


@asynccontextmanager
async def fetching() -> AsyncIterator[Fetcher]:
    fetcher = Fetcher(Allowed.of(["127.0.0.1"]))
    try:
        yield fetcher
    finally:
        await fetcher.aclose()


async def test_all_texts_are_one_question_and_each_finding_is_about_its_text() -> None:
    moderator = Moderator()
    async with asking(moderator, Clock(), headers={"Authorization": "Bearer of-ours"}) as webhook:
        found = await webhook.judge(Stage.ARGUMENTS, ["fine", f"you {WORD}"])
    assert {text: list(each) for text, each in found.items()} == {
        "fine": [],
        f"you {WORD}": [Found("abuse", 4, 4 + len(WORD), 0.9)],
    }
    assert moderator.seen == [{"detector": "ours", "in": "arguments", "texts": ["fine", f"you {WORD}"]}]
    assert moderator.headers[0]["authorization"] == "Bearer of-ours"
    assert "webhook-signature" not in moderator.headers[0]


async def test_a_question_is_signed_over_its_id_its_time_and_its_body() -> None:
    moderator, key = Moderator(), b"k" * 24
    async with asking(moderator, Clock(), sign_key=key) as webhook:
        await webhook.judge(Stage.RESULTS, ["ünïcode"])
    (headers,), (body,) = moderator.headers, moderator.bodies
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert headers["webhook-timestamp"] == str(int(NOW_S))


async def test_a_finding_without_a_place_is_the_whole_text() -> None:
    moderator = Moderator(answer={"findings": [{"text": 0, "kind": "abuse"}]})
    async with asking(moderator, Clock()) as webhook:
        found = await webhook.judge(Stage.ARGUMENTS, ["four"])
    assert found["four"] == (Found("abuse", 0, 4, 1.0),)


async def test_what_was_judged_lately_is_not_asked_again() -> None:
    moderator, clock = Moderator(), Clock()
    async with asking(moderator, clock, remember_s=60) as webhook:
        first = await webhook.judge(Stage.ARGUMENTS, [WORD])
        assert await webhook.judge(Stage.ARGUMENTS, [WORD, "new"]) == {**first, "new": ()}
        assert moderator.texts == [WORD, "new"]
        await webhook.judge(Stage.RESULTS, [WORD])  # another question: it may judge answers otherwise
        clock.now_s += 61
        await webhook.judge(Stage.ARGUMENTS, [WORD])
    assert moderator.texts == [WORD, "new", WORD, WORD]


async def test_nothing_is_remembered_where_the_operator_says_so() -> None:
    moderator = Moderator()
    async with asking(moderator, Clock(), remember_s=0) as webhook:
        await webhook.judge(Stage.ARGUMENTS, ["a"])
        await webhook.judge(Stage.ARGUMENTS, ["a"])
    assert moderator.texts == ["a", "a"]


async def test_what_is_remembered_is_bounded() -> None:
    moderator = Moderator()
    async with asking(moderator, Clock()) as webhook:
        await webhook.judge(Stage.ARGUMENTS, [str(number) for number in range(MAX_REMEMBERED + 1)])
        await webhook.judge(Stage.ARGUMENTS, ["0"])
        await webhook.judge(Stage.ARGUMENTS, [str(MAX_REMEMBERED)])
    assert len(moderator.texts) == MAX_REMEMBERED + 2


@pytest.mark.parametrize(
    "answer",
    [
        b"not JSON",
        [],
        {"found": []},
        {"findings": ["abuse"]},
        {"findings": [{"kind": "abuse"}]},
        {"findings": [{"text": 1, "kind": "abuse"}]},
        {"findings": [{"text": True, "kind": "abuse"}]},
        {"findings": [{"text": 0, "kind": "other"}]},
        {"findings": [{"text": 0, "kind": ["abuse"]}]},
        {"findings": [{"text": 0, "kind": "abuse", "score": 2}]},
        {"findings": [{"text": 0, "kind": "abuse", "score": True}]},
        {"findings": [{"text": 0, "kind": "abuse", "start": 3, "end": 2}]},
        {"findings": [{"text": 0, "kind": "abuse", "end": 99}]},
        {"findings": [{"text": 0, "kind": "abuse", "start": -1}]},
        b'{"findings": [], "findings": []}',
        b"[" * 2_000_000,
    ],
)
async def test_an_answer_that_is_not_understood_is_no_verdict(answer: Any) -> None:
    async with asking(Moderator(answer=answer), Clock()) as webhook:
        with pytest.raises(Unjudged, match="detector ours"):
            await webhook.judge(Stage.ARGUMENTS, ["text"])


@pytest.mark.parametrize("status", [204, 301, 401, 500, 503])
async def test_any_status_but_200_is_no_verdict(status: int) -> None:
    async with asking(Moderator(status=status, answer=b"" if status == 204 else None), Clock()) as webhook:
        with pytest.raises(Unjudged, match=str(status)) as refusal:
            await webhook.judge(Stage.ARGUMENTS, ["text"])
    assert not refusal.value.passes


async def test_whether_a_call_may_pass_unseen_is_the_operator_s_word() -> None:
    async with asking(Moderator(status=500), Clock(), if_unavailable="pass") as webhook:
        with pytest.raises(Unjudged) as refusal:
            await webhook.judge(Stage.ARGUMENTS, ["text"])
    assert refusal.value.passes


async def test_what_is_too_long_or_no_unicode_is_not_sent() -> None:
    moderator = Moderator()
    async with asking(moderator, Clock(), max_bytes=100) as webhook:
        with pytest.raises(Unjudged, match="max_bytes"):
            await webhook.judge(Stage.ARGUMENTS, ["x" * 100])
        with pytest.raises(Unjudged, match="Unicode"):
            await webhook.judge(Stage.ARGUMENTS, ["\ud800"])
    assert moderator.seen == []


async def test_an_answer_that_takes_too_long_is_not_waited_for() -> None:
    moderator = Moderator(gate=asyncio.Event())
    async with asking(moderator, Clock(), timeout_s=0.05) as webhook:
        with pytest.raises(Unjudged, match=r"no answer within 0\.05 s"):
            await webhook.judge(Stage.ARGUMENTS, ["text"])


async def test_a_dead_service_is_left_alone_and_tried_again_by_one_call() -> None:
    clock = Clock()
    moderator = Moderator(status=500)
    async with asking(moderator, clock) as webhook:
        for _ in range(20):
            with pytest.raises(Unjudged):
                await webhook.judge(Stage.ARGUMENTS, ["text"])
        assert len(moderator.seen) == 5
        moderator.status, clock.now_s = 200, clock.now_s + 2.1
        await webhook.judge(Stage.ARGUMENTS, ["text"])
        await webhook.judge(Stage.ARGUMENTS, ["more"])
    assert len(moderator.seen) == 7


async def test_a_service_that_is_not_there_is_left_alone() -> None:
    clock = Clock()
    async with fetching() as fetcher:
        webhook = Webhook(DetectorConfig("ours", f"http://127.0.0.1:{free_port()}/", ("abuse",)), fetcher, clock)
        for _ in range(5):
            with pytest.raises(Unjudged, match="no answer"):
                await webhook.judge(Stage.ARGUMENTS, ["text"])
        with pytest.raises(Unjudged, match="left alone"):
            await webhook.judge(Stage.ARGUMENTS, ["text"])


async def test_only_so_many_questions_are_under_way() -> None:
    moderator = Moderator(gate=asyncio.Event())
    assert moderator.gate is not None
    async with asking(moderator, Clock(), at_once=2, timeout_s=5) as webhook:
        asked = [asyncio.create_task(webhook.judge(Stage.ARGUMENTS, [str(number)])) for number in range(8)]
        await until(lambda: len(moderator.seen) >= 2, 5)
        moderator.gate.set()
        await asyncio.gather(*asked)
    assert moderator.most_at_once == 2
    assert len(moderator.seen) == 8


async def test_waiting_for_a_turn_in_vain_is_not_held_against_the_service() -> None:
    moderator = Moderator(gate=asyncio.Event())
    assert moderator.gate is not None
    async with asking(moderator, Clock(), at_once=1, timeout_s=0.4) as webhook:
        first = asyncio.create_task(webhook.judge(Stage.ARGUMENTS, ["first"]))
        await until(lambda: moderator.at_once == 1, 5)
        waiting = [asyncio.create_task(webhook.judge(Stage.ARGUMENTS, [str(number)])) for number in range(10)]
        assert all(isinstance(e, Unjudged) for e in await asyncio.gather(first, *waiting, return_exceptions=True))
        moderator.gate.set()
        assert await webhook.judge(Stage.ARGUMENTS, ["fine"]) == {"fine": ()}


async def test_an_address_nobody_allowed_is_not_dialled() -> None:
    moderator = Moderator()
    async with serving(moderator) as origin:
        fetcher = Fetcher(Allowed())
        try:
            webhook = Webhook(DetectorConfig("ours", origin, ("abuse",)), fetcher, Clock())
            with pytest.raises(Unjudged, match="allow_addresses"):
                await webhook.judge(Stage.ARGUMENTS, ["text"])
        finally:
            await fetcher.aclose()
    assert moderator.seen == []
