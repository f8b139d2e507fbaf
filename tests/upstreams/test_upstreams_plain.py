"""Plain HTTP over the client for upstreams: its errors are ours, whoever is reading."""

import pytest

from fakes.providers import provider
from mcp_gateway.errors import Unreachable
from mcp_gateway.upstreams.plain import PlainClient

BODY = b'{"model":"m","messages":[{"role":"user","content":"x"}]}'


async def test_an_answer_is_there_to_be_read() -> None:
    async with provider() as fake:
        client = PlainClient()
        async with client.open("p", "POST", f"{fake.openai_url}/chat/completions", {"x-a": "b"}, BODY) as answer:
            assert answer.status == 200
            assert b"stranger" in (await answer.read(10_000) or b"")
        await client.close()
    assert fake.seen[0].header("x-a") == "b"


@pytest.mark.parametrize("habit", ["reset", "break"])
async def test_what_breaks_on_the_way_names_the_upstream(habit: str) -> None:
    async with provider() as fake:
        fake.habit = habit
        client = PlainClient()
        body = BODY.replace(b"{", b'{"stream":true,', 1)
        with pytest.raises(Unreachable) as lost:
            async with client.open("p", "POST", f"{fake.openai_url}/chat/completions", {}, body) as answer:
                async for _ in answer.body():
                    pass
        assert lost.value.upstream == "p"
        await client.close()


async def test_nobody_there_is_unreachable_too() -> None:
    async with provider() as fake:
        url = fake.openai_url
    client = PlainClient(1.0)
    with pytest.raises(Unreachable, match="'p' could not be connected to"):
        async with client.open("p", "POST", url, {}, BODY):
            pass
    await client.close()


async def test_errors_of_whoever_reads_are_not_the_upstream_s() -> None:
    async with provider() as fake:
        client = PlainClient()
        with pytest.raises(KeyError):
            async with client.open("p", "POST", f"{fake.openai_url}/chat/completions", {}, BODY):
                raise KeyError("ours")
        await client.close()
