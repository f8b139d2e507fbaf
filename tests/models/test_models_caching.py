"""Which calls a cache of prompts may answer, and which answers it keeps."""

import json
from dataclasses import replace
from typing import Any

import pytest

from fakes.relays import RecordingRelay
from mcp_gateway.cache import Bounds, Cache
from mcp_gateway.config.models import ModelTarget, ProviderConfig
from mcp_gateway.domain import Caller, HttpPart, Kind, Outcome, OutcomeStatus, Request, Verb
from mcp_gateway.models.caching import KeptAnswer, Prompt, Prompts, Recording, is_plain, prompt_of, replay
from mcp_gateway.models.route import Way
from mcp_gateway.models.wires import BY_PATH

CHAT, RESPONSES, MESSAGES = (BY_PATH[f"/v1/{path}"] for path in ("chat/completions", "responses", "messages"))
CALLER = Caller("bot", "work")
OPENAI = Way(ModelTarget("openai", "gpt-5"), ProviderConfig("openai", "openai", "https://api.example/v1"))
HELLO: dict[str, Any] = {"model": "gpt-5", "messages": [{"role": "user", "content": "hello"}]}
OK = Outcome(OutcomeStatus.OK, {"status": 200, "answered_by": "openai/gpt-5"})


class Trial:
    """A cache with a clock of its own."""

    def __init__(self, bounds: Bounds | None = None) -> None:
        self.now_s = 100.0
        self.prompts = Prompts(Cache[KeptAnswer](bounds), lambda: self.now_s)
        self.relay = RecordingRelay()

    def prompt(self, body: Any = HELLO, path: str = "/v1/chat/completions", **more: Any) -> Prompt | None:
        caller, ways, of = more.pop("caller", CALLER), more.pop("ways", [OPENAI]), more.pop("of", "p1")
        http = HttpPart(path, more.pop("headers", {}), json.dumps(body).encode(), body, self.relay)
        request = Request("r1", Verb.MODEL, "model", Kind.MODEL, "gpt-5", {}, http=http, **more)
        return prompt_of(self.prompts, caller, request, BY_PATH[path], ways, 60.0, of)

    async def keep(self, prompt: Prompt | None, answer: bytes = b'{"said": 1}', outcome: Outcome = OK) -> None:
        """Relay an answer and have it kept."""
        assert prompt is not None
        recording = Recording(self.relay, self.prompts.answers.bounds.largest)
        await recording.begin(200, {"content-type": "application/json"})
        recording.hold(answer)
        prompt.keep(recording, outcome)
        for do in self.relay.done:
            do()
        self.relay = RecordingRelay()

    def is_known(self, prompt: Prompt | None) -> bool:
        return prompt is not None and prompt.kept() is not None


async def test_what_was_kept_is_given_again_until_its_time_is_over() -> None:
    trial = Trial()
    await trial.keep(trial.prompt())
    trial.now_s += 59.9
    assert trial.is_known(trial.prompt())
    trial.now_s += 0.1
    assert not trial.is_known(trial.prompt())
    assert len(trial.prompts.answers) == 0


async def test_everything_that_decides_about_an_answer_is_in_its_key() -> None:
    trial = Trial()
    await trial.keep(trial.prompt())
    assert trial.is_known(trial.prompt())
    elsewhere = replace(OPENAI, provider=replace(OPENAI.provider, url="https://other.example/v1"))
    account = replace(OPENAI, provider=replace(OPENAI.provider, headers={"x-account": "another"}))
    others = [
        trial.prompt(ways=[account]),
        trial.prompt({**HELLO, "temperature": 0}),
        trial.prompt(of="p2"),
        trial.prompt(ways=[elsewhere]),
        trial.prompt(ways=[OPENAI, replace(OPENAI, target=ModelTarget("openai", "gpt-6"))]),
        trial.prompt(headers={"openai-beta": "x"}),
        trial.prompt(caller=replace(CALLER, task="other")),
        trial.prompt(caller=replace(CALLER, person="ann")),
        trial.prompt(caller=replace(CALLER, credential_id="another")),
        trial.prompt(HELLO, "/v1/embeddings"),
    ]
    assert not any(map(trial.is_known, others))
    two = [OPENAI, replace(OPENAI, target=ModelTarget("openai", "gpt-6"))]
    await trial.keep(trial.prompt(ways=two))
    assert trial.is_known(trial.prompt(ways=two[::-1])), "weights draw another order each time"
    assert trial.is_known(trial.prompt(headers={"traceparent": "00-1", "x-stainless-retry-count": "1"}))


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [{"type": "function"}]},
        {"functions": [{"name": "f"}]},
        {"mcp_servers": [{"url": "https://x.example"}]},
        {"plugins": ["x"]},
        {"web_search_options": {"a": 1}},
        {"previous_response_id": "resp_1"},
        {"conversation": "conv_1"},
        {"container": "c_1"},
        {"background": True},
        {"store": True},
        {"prompt": {"id": "p_1"}},
        {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f_1"}}]}]},
        {"messages": [{"type": "item_reference", "id": "i_1"}]},
    ],
)
def test_whatever_acts_or_has_state_is_none_of_its_business(more: dict[str, Any]) -> None:
    assert is_plain(CHAT, HELLO, [OPENAI])
    assert is_plain(CHAT, {**HELLO, "tools": [], "store": False, "prompt": None}, [OPENAI])
    for operation in (CHAT, RESPONSES, MESSAGES):
        assert not is_plain(operation, {**HELLO, **more}, [OPENAI])


async def test_what_a_provider_is_to_do_by_itself_is_none_of_its_business_whatever_the_body_calls_it() -> None:
    trial = Trial()
    assert trial.prompt(needs=(object(),)) is None


def test_a_response_that_the_provider_would_keep_is_not_kept_here(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"model": "gpt-5", "input": "hello"}
    assert is_plain(RESPONSES, asked, [OPENAI])
    monkeypatch.setattr("mcp_gateway.models.caching.edits_for", lambda *_: {})
    assert not is_plain(RESPONSES, asked, [OPENAI])
    assert is_plain(RESPONSES, {**asked, "store": False}, [OPENAI])


@pytest.mark.parametrize(
    ("answer", "is_kept"),
    [
        (b'{"status": "completed"}', True),
        (b'{"status": "failed"}', False),
        (b'{"status": "incomplete"}', False),
        (b'{"id": 1}', False),
        (b"[]", False),
        (b"", False),
    ],
)
async def test_a_response_is_kept_only_if_it_says_that_it_is_complete(answer: bytes, is_kept: bool) -> None:
    trial = Trial()
    prompt = trial.prompt({"model": "gpt-5", "input": "hello"}, "/v1/responses")
    await trial.keep(prompt, answer)
    assert trial.is_known(prompt) is is_kept


@pytest.mark.parametrize("end", [b"response.completed", b"response.failed", b"response.incomplete"])
async def test_a_streamed_response_too(end: bytes) -> None:
    trial = Trial()
    prompt = trial.prompt({"model": "gpt-5", "input": "hello", "stream": True}, "/v1/responses")
    assert prompt is not None
    recording = Recording(trial.relay, 1000)
    await recording.begin(200, {"content-type": "text/event-stream; charset=utf-8"})
    await recording.write(b"event: response.output_text.delta\ndata: {}\n\n")
    recording.hold(b"event: " + end + b"\ndata: {}\n\n")
    prompt.keep(recording, OK)
    assert len(trial.relay.done) == (end == b"response.completed")


async def test_what_is_no_success_is_not_kept() -> None:
    trial = Trial()
    await trial.keep(trial.prompt(), outcome=replace(OK, status=OutcomeStatus.HTTP_ERROR))
    assert len(trial.prompts.answers) == 0


async def test_what_nobody_lets_go_out_is_not_kept() -> None:
    trial, prompt = Trial(), Trial().prompt()
    assert prompt is not None
    recording = Recording(trial.relay, 1000)
    await recording.begin(200, {})
    recording.hold(b"{}")
    prompt.keep(recording, OK)
    assert len(trial.relay.done) == 1
    assert len(prompt.prompts.answers) == 0


async def test_what_is_too_large_or_broken_off_is_not_remembered() -> None:
    recording = Recording(RecordingRelay(), 10)
    await recording.begin(200, {})
    await recording.write(b"123456")
    assert recording.answer is not None
    await recording.write(b"78901")
    assert recording.answer is None
    assert recording._written == []
    broken = Recording(RecordingRelay(), 10)
    await broken.begin(200, {})
    broken.hold_error(RuntimeError("on purpose"))
    assert broken.answer is None
    failed = Recording(RecordingRelay(), 10)
    await failed.begin(500, {})
    assert failed.answer is None


async def test_an_agents_wish_is_heard() -> None:
    trial = Trial()
    await trial.keep(trial.prompt(headers={"cache-control": "no-store"}))
    assert len(trial.prompts.answers) == 0
    await trial.keep(trial.prompt(headers={"cache-control": "no-cache"}))
    assert not trial.is_known(trial.prompt(headers={"cache-control": "no-cache"}))
    assert not trial.is_known(trial.prompt(headers={"cache-control": "no-store"}))
    assert trial.is_known(trial.prompt())


async def test_a_stream_is_given_again_as_one_and_costs_nothing() -> None:
    trial, prompt, relay = Trial(), None, RecordingRelay()
    prompt = trial.prompt()
    assert prompt is not None
    recording = Recording(trial.relay, 1000)
    await recording.begin(200, {"content-type": "text/event-stream", "request-id": "req_1"})
    for piece in (b"data: 1\n\n", b"data: 2\n\n"):
        await recording.write(piece)
    recording.hold(b"data: [DONE]\n\n")
    prompt.keep(recording, OK)
    trial.relay.done[0]()
    trial.now_s += 7
    found = prompt.kept()
    assert found is not None
    outcome = await replay(relay, *found)
    assert (relay.written, relay.held) == ([b"data: 1\n\ndata: 2\n\n"], [b"data: [DONE]\n\n"])
    assert relay.headers == {"content-type": "text/event-stream", "x-gateway-cache": "exact; age=7; source=r1"}
    assert outcome.usage is not None
    assert (outcome.usage.input, outcome.usage.output, outcome.usage.cost) == (0, 0, 0.0)
    assert outcome.usage.model == "openai/gpt-5"
