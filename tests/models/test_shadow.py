"""A cache in shadow tells what it would have answered, and how that differs from what was; it never answers."""

import json
import logging
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest

from fakes.embedders import install
from fakes.relays import RecordingRelay
from mcp_gateway.cache import Cache, owner_of
from mcp_gateway.config.models import SemanticConfig
from mcp_gateway.domain import Cached, CacheUse, Caller
from mcp_gateway.models import shadow as shadow_module
from mcp_gateway.models.caching import KeptAnswer, Prompt, Prompts, Recording
from mcp_gateway.models.shadow import MAX_QUESTIONS, Past, Shadow
from mcp_gateway.models.wires import Op

WORDS = SemanticConfig("words")


class Trial:
    """A shadow with a clock of its own, and calls that have just been answered."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.past = Cache[tuple[Past, ...]]()
        self.shadow = Shadow(self.past, lambda: self.now_s, lambda text: "@" in text)
        self.prompts = Prompts(Cache[KeptAnswer](), lambda: self.now_s)
        self.count = 0

    async def ask(
        self,
        question: str,
        answer: str,
        config: SemanticConfig = WORDS,
        *,
        agent: str = "bot",
        circumstances: str = "c",
        wishes: dict[str, str] | None = None,
        system: str = "",
        goes_out: bool = True,
    ) -> Cached | None:
        self.count += 1
        relay = RecordingRelay()
        prompt = Prompt(
            self.prompts,
            Op.CHAT,
            owner_of(Caller(agent, "work")),
            b"",
            circumstances,
            f"r{self.count}",
            0,
            wishes or {},
        )
        turns = [{"role": "system", "content": system}, {"role": "user", "content": question}]
        body: dict[str, Any] = {"temperature": 0, "messages": turns}
        recording = Recording(relay, 100_000)
        await recording.begin(200, {"content-type": "application/json"})
        recording.hold(json.dumps({"choices": [{"message": {"content": answer}}]}).encode())
        found = await self.shadow.looked(config, prompt, body, recording)
        for do in relay.done if goes_out else ():
            do()
        return found


@pytest.fixture
def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trial:
    install(tmp_path, monkeypatch)
    return Trial()


async def test_the_first_question_has_nothing_before_it(trial: Trial) -> None:
    found = await trial.ask("what is the capital of France", "Paris")
    assert found == Cached(CacheUse.WOULD_MISS, "", 0)


async def test_a_question_that_means_the_same_would_have_been_answered_rightly(trial: Trial) -> None:
    await trial.ask("what is the capital of France", "Paris")
    trial.now_s += 30
    found = await trial.ask("what is the capital of France?", "paris.")
    assert found is not None
    assert (found.use, found.source, found.age_s, found.agreement) == (CacheUse.WOULD_HIT, "r1", 30, 1.0)
    assert found.similarity is not None
    assert found.similarity > 0.97


async def test_an_answer_that_would_have_been_wrong_is_told_by_its_agreement(trial: Trial) -> None:
    await trial.ask("what is the time now", "a quarter past two")
    found = await trial.ask("what is the time now?", "six in the evening")
    assert found is not None
    assert found.agreement is not None
    assert (found.use, found.agreement < 0.5) == (CacheUse.WOULD_HIT, True)


async def test_a_question_that_is_only_near_would_have_been_a_miss(trial: Trial) -> None:
    await trial.ask("what is the capital of France", "Paris")
    found = await trial.ask("what is the largest river of France", "the Loire")
    assert found is not None
    assert (found.use, found.source) == (CacheUse.WOULD_MISS, "r1")
    assert found.similarity is not None
    assert 0.3 < found.similarity < 0.97


async def test_what_differs_in_a_name_or_a_number_would_have_been_a_miss_however_near(trial: Trial) -> None:
    near = " ".join(f"word{letter}" for letter in "abcdefghijklmnopqrstuvwxyz" * 4)
    await trial.ask(f"{near} in Paris", "yes")
    found = await trial.ask(f"{near} in Rome", "yes")
    assert found is not None
    assert found.similarity is not None
    assert (found.similarity > 0.97, found.use) == (True, CacheUse.WOULD_MISS)


@pytest.mark.parametrize("other", [{"agent": "bot2"}, {"circumstances": "another policy"}, {"system": "be brief"}])
async def test_nothing_is_near_what_was_asked_by_somebody_else_or_otherwise(
    trial: Trial, other: dict[str, Any]
) -> None:
    await trial.ask("what is the capital of France", "Paris")
    found = await trial.ask("what is the capital of France", "Paris", **other)
    assert found == Cached(CacheUse.WOULD_MISS, "", 0)


async def test_what_is_private_or_unwanted_or_never_went_out_is_not_kept(trial: Trial) -> None:
    assert await trial.ask("write to ann@example.org", "done") is None
    assert await trial.ask("whom do I write to", "ann@example.org") is None
    assert await trial.ask("hello", "hello", wishes={"no-store": ""}) is None
    await trial.ask("hello", "hello", goes_out=False)
    assert len(trial.past) == 0


async def test_old_questions_are_forgotten_and_their_number_is_bounded(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    await trial.ask("hello", "hello")
    trial.now_s += 3600
    assert await trial.ask("hello", "hello") == Cached(CacheUse.WOULD_MISS, "", 0)
    monkeypatch.setattr(shadow_module, "MAX_QUESTIONS", 3)
    for number in range(5):
        await trial.ask(f"hello {number}", "hello")
    [key] = [place[1] for place in trial.past._items]
    assert len(trial.past.get(owner_of(Caller("bot", "work")), key) or ()) == 3 < MAX_QUESTIONS


@pytest.mark.parametrize("name", ["broken", "nowhere", "missing"])
async def test_an_embedder_that_fails_costs_nobody_an_answer(
    trial: Trial, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert await trial.ask("hello", "hello", SemanticConfig(name)) is None
    assert f"embedder '{name}' failed" in caplog.text
    assert "hello" not in caplog.text


async def test_a_look_takes_no_longer_than_our_patience_and_makes_no_other_call_wait(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, release = threading.Event(), threading.Event()

    class Slow:
        def embed(self, texts: list[str]) -> list[list[float]]:
            begun.set()
            release.wait(10)
            return [[1.0] for _ in texts]

    monkeypatch.setattr(shadow_module, "PATIENCE_S", 0.2)
    trial.shadow._embedders["slow"] = Slow()  # type: ignore[assignment]
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(trial.ask, "hello", "hello", SemanticConfig("slow"))
            await anyio.to_thread.run_sync(begun.wait, 5)
            with anyio.fail_after(1):
                assert await trial.ask("hello", "hello") is None
    finally:
        release.set()


async def test_what_cannot_be_compared_is_not_looked_at(trial: Trial) -> None:
    prompt = Prompt(trial.prompts, Op.CHAT, ("bot",), b"", "c", "r1", 0, {})
    recording = Recording(RecordingRelay(), 1000)
    await recording.begin(200, {})
    recording.hold(b'{"choices": [{"message": {"content": "hello"}}]}')
    for body in ({"temperature": 1, "messages": "hello"}, [], {"temperature": 0, "messages": []}):
        assert await trial.shadow.looked(WORDS, prompt, body, recording) is None
    recording.hold(b"and no JSON")
    asked = {"temperature": 0, "messages": [{"role": "user", "content": "hello"}]}
    assert await trial.shadow.looked(WORDS, prompt, asked, recording) is None
