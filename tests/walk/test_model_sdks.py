"""The official SDKs of OpenAI and Anthropic, pointed at the gateway, behave as when pointed at the provider."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from fakes.model_gateway import HELLO, MODELS, NO_TLS, ModelGateway, model_gateway
from fakes.providers import INPUT_TOKENS, OUTPUT_TOKENS, REQUEST_ID, WORDS

pytestmark = pytest.mark.slow

TEXT = "".join(WORDS)
CHAT_TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
TOOL: Any = {"name": "weather", "input_schema": {"type": "object"}}


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[ModelGateway]:
    async with model_gateway(tmp_path) as running:
        yield running


def openai_of(gateway: ModelGateway, token: str | None = None) -> openai.AsyncOpenAI:
    http = httpx2.AsyncClient(verify=NO_TLS, trust_env=False, timeout=30)
    return openai.AsyncOpenAI(
        base_url=f"{gateway.origin}/v1", api_key=token or gateway.token(), http_client=http, max_retries=0
    )


def anthropic_of(gateway: ModelGateway, token: str | None = None) -> anthropic.AsyncAnthropic:
    http = httpx2.AsyncClient(verify=NO_TLS, trust_env=False, timeout=30)
    return anthropic.AsyncAnthropic(
        base_url=gateway.origin, api_key=token or gateway.token(), http_client=http, max_retries=0
    )


async def test_openai_chat(gateway: ModelGateway) -> None:
    async with openai_of(gateway) as client:
        answer = await client.chat.completions.create(model="gpt-5-mini", messages=HELLO)
    assert answer.choices[0].message.content == TEXT
    assert answer.usage is not None
    assert answer.usage.total_tokens == INPUT_TOKENS + OUTPUT_TOKENS
    assert answer._request_id == REQUEST_ID


@pytest.mark.parametrize("asks_for_usage", [False, True])
async def test_openai_chat_streamed(gateway: ModelGateway, asks_for_usage: bool) -> None:
    """The usage chunk is there exactly if the agent asked for it, and is counted either way."""
    options: Any = {"stream_options": {"include_usage": True}} if asks_for_usage else {}
    async with openai_of(gateway) as client:
        stream = await client.chat.completions.create(model="gpt-5-mini", messages=HELLO, stream=True, **options)
        chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == TEXT
    assert [chunk.usage.total_tokens for chunk in chunks if chunk.usage] == [27] * asks_for_usage
    assert all(chunk.choices for chunk in chunks) is not asks_for_usage
    [row] = gateway.rows()
    assert (row["ended"], row["t_in"], row["t_out"]) == ("ok", INPUT_TOKENS, OUTPUT_TOKENS)
    assert row["usd"] > 0


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_openai_chat_with_tools(gateway: ModelGateway, is_streamed: bool) -> None:
    messages: Any = list(HELLO)
    async with openai_of(gateway) as client:

        async def said() -> Any:
            if not is_streamed:
                answer = await client.chat.completions.create(model="gpt-5-mini", messages=messages, tools=[CHAT_TOOL])
                return answer.choices[0].message
            async with client.chat.completions.stream(
                model="gpt-5-mini", messages=messages, tools=[CHAT_TOOL]
            ) as stream:
                return (await stream.get_final_completion()).choices[0].message

        call = (await said()).tool_calls[0]
        assert (call.function.name, call.function.arguments) == ("weather", '{"city":"Rome"}')
        messages += [
            {"role": "assistant", "tool_calls": [call.model_dump(include={"id", "type", "function"})]},
            {"role": "tool", "tool_call_id": call.id, "content": "sun"},
        ]
        assert (await said()).content == TEXT


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_openai_responses(gateway: ModelGateway, is_streamed: bool) -> None:
    async with openai_of(gateway) as client:
        if is_streamed:
            async with client.responses.stream(model="gpt-5-mini", input="hello") as stream:
                answer = await stream.get_final_response()
        else:
            answer = await client.responses.create(model="gpt-5-mini", input="hello")
    assert answer.output_text == TEXT
    [row] = gateway.rows()
    assert (row["t_in"], row["t_out"]) == (INPUT_TOKENS, OUTPUT_TOKENS)
    assert gateway.first.seen[0].json["store"] is False


async def test_openai_embeddings(gateway: ModelGateway) -> None:
    async with openai_of(gateway) as client:
        answer = await client.embeddings.create(
            model="text-embedding-3-small", input=["hello"], encoding_format="float"
        )
    assert answer.data[0].embedding == [0.25, -0.5]
    assert gateway.rows()[0]["t_in"] == INPUT_TOKENS


async def test_anthropic_messages(gateway: ModelGateway) -> None:
    async with anthropic_of(gateway) as client:
        answer = await client.messages.create(model="claude-sonnet-5", max_tokens=50, messages=HELLO)
    assert answer.content[0].text == TEXT  # type: ignore[union-attr]
    assert answer._request_id == REQUEST_ID
    [row] = gateway.rows()
    assert (row["t_in"], row["t_out"]) == (INPUT_TOKENS, OUTPUT_TOKENS)


async def test_anthropic_messages_streamed(gateway: ModelGateway) -> None:
    async with (
        anthropic_of(gateway) as client,
        client.messages.stream(model="claude-sonnet-5", max_tokens=50, messages=HELLO) as stream,
    ):
        assert [text async for text in stream.text_stream] == WORDS
        answer = await stream.get_final_message()
    assert answer.stop_reason == "end_turn"
    [row] = gateway.rows()
    assert (row["t_in"], row["t_out"]) == (INPUT_TOKENS, OUTPUT_TOKENS)


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_anthropic_messages_with_tools(gateway: ModelGateway, is_streamed: bool) -> None:
    messages: Any = list(HELLO)
    asked: Any = {"model": "claude-sonnet-5", "max_tokens": 50, "messages": messages, "tools": [TOOL]}
    async with anthropic_of(gateway) as client:

        async def said() -> Any:
            if not is_streamed:
                return await client.messages.create(**asked)
            async with client.messages.stream(**asked) as stream:
                return await stream.get_final_message()

        answer = await said()
        assert (answer.stop_reason, answer.content[0].input) == ("tool_use", {"city": "Rome"})
        result = {"type": "tool_result", "tool_use_id": answer.content[0].id, "content": "sun"}
        use = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Rome"}}
        messages += [{"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
        assert (await said()).content[0].text == TEXT


async def test_anthropic_counts_tokens_for_free(gateway: ModelGateway) -> None:
    async with anthropic_of(gateway) as client:
        answer = await client.messages.count_tokens(model="claude-sonnet-5", messages=HELLO)
    assert answer.input_tokens == INPUT_TOKENS
    assert (gateway.rows()[0]["t_in"], gateway.rows()[0]["usd"]) == (0, 0)


async def test_each_wire_lists_the_models_it_can_ask(gateway: ModelGateway) -> None:
    async with openai_of(gateway) as client:
        of_openai = {model.id async for model in client.models.list()}
        assert (await client.models.retrieve("smart")).id == "smart"
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("gpt-5")
    async with anthropic_of(gateway) as client:
        of_anthropic = {model.id async for model in client.models.list()}
    assert of_openai == {"gpt-5-mini", "text-embedding-3-small", "smart", "mixed", "secondhand"}
    assert of_anthropic == {"claude-sonnet-5", "mixed"}


async def test_an_alias_answers_on_the_wire_it_is_asked_by(gateway: ModelGateway) -> None:
    async with openai_of(gateway) as client:
        await client.chat.completions.create(model="mixed", messages=HELLO)
    async with anthropic_of(gateway) as client:
        await client.messages.create(model="mixed", max_tokens=5, messages=HELLO)
    assert [seen.json["model"] for seen in gateway.first.seen] == ["gpt-5-mini", "claude-sonnet-5"]


async def test_the_sdks_raise_what_they_raise_for_a_provider(gateway: ModelGateway) -> None:
    async with openai_of(gateway) as client:
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            await client.chat.completions.create(model="gpt-5", messages=HELLO)
        gateway.first.next.extend(["status:429:retry-after=7"])
        with pytest.raises(openai.RateLimitError) as limited:
            await client.chat.completions.create(model="gpt-5-mini", messages=HELLO)
        assert limited.value.response.headers["retry-after"] == "7"
        gateway.first.next.extend(["status:400"])
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(model="gpt-5-mini", messages=HELLO)
        assert "x-gateway-error" not in refused.value.response.headers
    async with openai_of(gateway, "mgw_wrong") as client:
        with pytest.raises(openai.AuthenticationError):
            await client.chat.completions.create(model="gpt-5-mini", messages=HELLO)
    async with anthropic_of(gateway) as claude:
        with pytest.raises(anthropic.NotFoundError) as unknown:
            await claude.messages.create(model="claude-nobody-has", max_tokens=5, messages=HELLO)
        assert unknown.value.response.headers["x-gateway-error"] == "1"
        gateway.first.next.extend(["status:529"])
        with pytest.raises(anthropic.APIStatusError) as overloaded:
            await claude.messages.create(model="claude-sonnet-5", max_tokens=5, messages=HELLO)
        assert overloaded.value.status_code == 529
    async with anthropic_of(gateway, "mgw_wrong") as claude:
        with pytest.raises(anthropic.AuthenticationError):
            await claude.messages.create(model="claude-sonnet-5", max_tokens=5, messages=HELLO)


async def test_the_sdks_own_retries_reach_the_provider_again(gateway: ModelGateway) -> None:
    gateway.first.next.extend(["status:429:retry-after-ms=10", "status:503:retry-after-ms=10"])
    async with openai_of(gateway) as client:
        answer = await client.with_options(max_retries=2).chat.completions.create(model="gpt-5-mini", messages=HELLO)
    assert answer.choices[0].message.content == TEXT
    assert len(gateway.first.seen) == 3


async def test_the_sync_sdks_too(gateway: ModelGateway) -> None:
    def by_openai() -> str:
        http = httpx2.Client(verify=NO_TLS, trust_env=False)
        with openai.OpenAI(base_url=f"{gateway.origin}/v1", api_key=gateway.token(), http_client=http) as client:
            whole = client.chat.completions.create(model="gpt-5-mini", messages=HELLO)  # type: ignore[arg-type]
            stream = client.chat.completions.create(model="gpt-5-mini", messages=HELLO, stream=True)  # type: ignore[call-overload]
            pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
            return f"{whole.choices[0].message.content}{''.join(pieces)}"

    def by_anthropic() -> str:
        http = httpx2.Client(verify=NO_TLS, trust_env=False)
        with anthropic.Anthropic(base_url=gateway.origin, api_key=gateway.token(), http_client=http) as client:
            whole = client.messages.create(model="claude-sonnet-5", max_tokens=5, messages=HELLO)  # type: ignore[arg-type]
            with client.messages.stream(model="claude-sonnet-5", max_tokens=5, messages=HELLO) as stream:  # type: ignore[arg-type]
                return f"{whole.content[0].text}{stream.get_final_text()}"  # type: ignore[union-attr]

    gateway.token()
    ways: list[Callable[[], str]] = [by_openai, by_anthropic]
    assert [await asyncio.to_thread(way) for way in ways] == [TEXT * 2] * 2


async def test_a_task_in_the_path_is_the_task_that_is_judged(gateway: ModelGateway) -> None:
    body = {"model": "gpt-5-mini", "messages": HELLO}
    assert (await gateway.post("/task/work/v1/chat/completions", body)).status_code == 200
    assert (await gateway.post("/task/rest/v1/chat/completions", body)).status_code == 404
    assert (await gateway.post("/task/nobodys/v1/chat/completions", body)).status_code == 401
    assert [(row["task"], row["decision"]) for row in gateway.rows()] == [("work", "allowed"), ("rest", "denied")]


async def test_one_trace_goes_through_model_and_provider(gateway: ModelGateway) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    body = {"model": "gpt-5-mini", "messages": HELLO}
    assert (await gateway.post("/v1/chat/completions", body, traceparent=parent)).status_code == 200
    assert gateway.first.seen[0].header("traceparent") == parent
    assert gateway.rows()[0]["trace_id"] == "0af7651916cd43dd8448eb211c80319c"


async def test_openai_responses_that_are_kept(tmp_path: Path) -> None:
    """Created, gone on from, followed in the background, listed, cancelled and deleted, by the SDK's own methods."""
    stateful = MODELS.replace("idle_timeout_s = 5", "idle_timeout_s = 5\nstateful = true")
    async with model_gateway(tmp_path, models=stateful) as gateway, openai_of(gateway) as client:
        first = await client.responses.create(model="gpt-5-mini", input="hello")
        await client.responses.create(model="gpt-5-mini", input="more", previous_response_id=first.id)
        assert (await client.responses.retrieve(first.id)).output_text == TEXT
        assert [item.id async for item in client.responses.input_items.list(first.id)] == ["msg_1"]
        queued = await client.responses.create(model="gpt-5-mini", input="hello", background=True)
        assert (await client.responses.cancel(queued.id)).status == "cancelled"
        await client.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(first.id)
        conversation = await client.conversations.create()
        await client.responses.create(model="gpt-5-mini", input="hello", conversation=conversation.id)
        stream = await client.responses.create(model="gpt-5-mini", input="hello", background=True, stream=True)
        [created, *_] = [event async for event in stream]
        assert created.type == "response.created"
        again = await client.responses.retrieve(created.response.id, stream=True, starting_after=0)
        assert [event.type async for event in again][-1] == "response.completed"
