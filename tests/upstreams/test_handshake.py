"""The era is settled by what a server proves, whatever else it does when it is asked."""

from collections.abc import Awaitable, Callable

import pytest

from mcp_gateway.domain import Era, Json, RpcError
from mcp_gateway.errors import Misbehaved, TimedOut, Unreachable, UpstreamError
from mcp_gateway.upstreams.connection import Answer, Limits
from mcp_gateway.upstreams.dialect import Dialect
from mcp_gateway.upstreams.handshake import DiedOfProbe, HandshakeRefused, Memory, VersionsUnknown, greet

DISCOVERED: Json = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}, "instructions": "hi"}
INITIALIZED: Json = {"protocolVersion": "2025-06-18", "capabilities": {"prompts": {}}}
UNSUPPORTED = -32022


class Server:
    """Answers in turn, and keeps what it was asked."""

    def __init__(self, *answers: Answer | UpstreamError) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []
        self.memory = Memory("key", {})

    async def ask(self, dialect: Dialect, method: str, params: Json, timeout_s: float) -> Answer:
        self.asked.append(method)
        answer = self.answers.pop(0)
        if isinstance(answer, UpstreamError):
            raise answer
        return answer

    async def era(self) -> Era:
        dialect, greeting = await greet("up", self.ask, Limits(), self.memory, {})
        assert dialect.era is greeting.era
        return greeting.era


PROBED, BOTH = ["server/discover"], ["server/discover", "initialize"]
SILENCE, DEATH = TimedOut("up", "silent"), Unreachable("up", "died")


async def test_a_discover_result_means_modern() -> None:
    server = Server(DISCOVERED)
    assert await server.era() is Era.MODERN
    assert server.asked == PROBED


@pytest.mark.parametrize(
    "answer",
    [
        RpcError(-32601, "unknown"),
        RpcError(-32602, "bad params"),
        RpcError(0, "x"),
        {},
        {"supportedVersions": "all"},
        {"supportedVersions": ["2025-11-25"]},
        RpcError(UNSUPPORTED, "", {"supported": ["2025-11-25"]}),
        RpcError(UNSUPPORTED, "", None),
        RpcError(UNSUPPORTED, "", {"supported": [7]}),
    ],
    ids=repr,
)
async def test_anything_else_leads_to_the_older_handshake(answer: Answer) -> None:
    server = Server(answer, INITIALIZED)
    assert await server.era() is Era.LEGACY
    assert server.asked == BOTH
    assert not server.memory.says_legacy, "it answered quickly, so it can be asked again next time"


async def test_a_server_that_refuses_the_version_it_names_is_asked_once_more() -> None:
    refused = RpcError(UNSUPPORTED, "", {"supported": ["2026-07-28"]})
    server = Server(refused, DISCOVERED)
    assert await server.era() is Era.MODERN
    server = Server(refused, refused, INITIALIZED)
    assert await server.era() is Era.LEGACY


async def test_a_server_whose_versions_we_do_not_speak_is_told_so() -> None:
    server = Server(RpcError(UNSUPPORTED, "", {"supported": ["2031-01-01"]}))
    with pytest.raises(VersionsUnknown, match="2031-01-01"):
        await server.era()
    assert server.asked == PROBED


async def test_a_silent_legacy_server_is_asked_in_vain_only_once() -> None:
    server = Server(SILENCE, INITIALIZED, INITIALIZED)
    assert await server.era() is Era.LEGACY
    assert await server.era() is Era.LEGACY
    assert server.asked == [*BOTH, "initialize"]


async def test_a_modern_server_that_was_slow_to_start_is_found_out() -> None:
    server = Server(SILENCE, RpcError(UNSUPPORTED, "", {"supported": ["2026-07-28"]}), DISCOVERED)
    assert await server.era() is Era.MODERN
    assert not server.memory.says_legacy


async def test_a_server_that_became_modern_is_found_out() -> None:
    server = Server(RpcError(-32601, "no initialize"), DISCOVERED)
    server.memory.remember_legacy()
    assert await server.era() is Era.MODERN
    assert not server.memory.says_legacy


async def test_a_server_that_dies_of_the_probe_is_not_probed_again() -> None:
    server = Server(DEATH, INITIALIZED)
    with pytest.raises(DiedOfProbe):
        await server.era()
    assert await server.era() is Era.LEGACY
    assert server.asked == BOTH


async def test_a_death_without_a_probe_proves_nothing() -> None:
    server = Server(DEATH)
    server.memory.remember_legacy()
    with pytest.raises(Unreachable):
        await server.era()
    assert not server.memory.says_legacy


async def test_a_refused_handshake_is_the_servers_last_word() -> None:
    server = Server(RpcError(-32601, ""), RpcError(-32603, "secret detail"))
    with pytest.raises(HandshakeRefused) as refused:
        await server.era()
    assert "secret detail" not in str(refused.value)


@pytest.mark.parametrize("version", ["2031-01-01", None, "2026-07-28"])
async def test_a_handshake_that_settles_on_a_version_we_do_not_speak_fails(version: object) -> None:
    with pytest.raises(Misbehaved):
        await Server(RpcError(-32601, ""), {"protocolVersion": version}).era()


@pytest.mark.parametrize("odd", [{"capabilities": [], "instructions": 7}, {"instructions": "x" * 10**6}])
async def test_odd_words_of_a_server_about_itself_do_no_harm(odd: Json) -> None:
    ask: Callable[..., Awaitable[Answer]] = Server({**DISCOVERED, **odd}).ask
    _, greeting = await greet("up", ask, Limits(), Memory("k", {}), {})
    assert dict(greeting.capabilities) == ({"tools": {}} if "capabilities" not in odd else {})
    assert len(greeting.instructions) <= 100_000


TASKS, UI = "io.modelcontextprotocol/tasks", "io.modelcontextprotocol/ui"


@pytest.mark.parametrize(
    ("announced", "carried"),
    [
        ({TASKS: {}, UI: {}, "io.example/other": {}}, {TASKS, UI}),
        ({"io.example/other": {}}, set()),
        ([TASKS], set()),
        (None, set()),
    ],
)
async def test_of_announced_extensions_those_we_can_carry_are_known(announced: object, carried: set[str]) -> None:
    ask: Callable[..., Awaitable[Answer]] = Server(
        {**DISCOVERED, "capabilities": {"tools": {}, "extensions": announced}}
    ).ask
    dialect, greeting = await greet("up", ask, Limits(), Memory("k", {}), {})
    assert dialect.extensions == greeting.extensions == carried


async def test_an_older_server_cannot_offer_wire_tasks() -> None:
    initialized = {"protocolVersion": "2025-11-25", "capabilities": {"extensions": {TASKS: {}, UI: {}}}}
    ask: Callable[..., Awaitable[Answer]] = Server(RpcError(-32601, ""), initialized).ask
    dialect, greeting = await greet("up", ask, Limits(), Memory("k", {}), {})
    assert (dialect.extensions, greeting.extensions) == (set(), {UI})
