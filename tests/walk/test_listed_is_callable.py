"""For random policies, over HTTP in both eras: what an agent is shown is exactly what it can use."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from fakes.agents import ERAS
from fakes.front import Front, answer_of, front
from mcp_gateway.domain import Json

TOOLS = ["echo", "second", "careful", "secret"]
PROMPTS = ["greet", "hush"]
RESOURCES = ["note:///open", "note:///shut"]

PATTERNS = [
    *(f"u/{name}" for name in TOOLS),
    "u/*",
    "u/s*",
    "u/*e*",
    "other/*",
    "prompt:u/*",
    "prompt:u/greet",
    "resource:u/**",
    "resource:u/note:///open",
]

CONDITIONS = [
    "",
    'tool.name.startsWith("s")',
    'agent.name == "alice"',
    'request.era == "modern"',
    'request.transport == "stdio"',
    "claims.level > 3",  # cannot be evaluated: never allows, always denies
    "tool.annotations.readOnlyHint == true",
    'now > timestamp("2020-01-01T00:00:00Z")',
]
"""None reads the arguments: with those, a list shows what some call could be allowed, and the call decides."""

ON_ARGUMENTS = ['args.path == "safe"', 'args.path != "safe"', "args.count > 1", "has(args.path)"]
ARGUMENTS: list[Json] = [{}, {"path": "safe"}, {"path": "other"}, {"path": "safe", "count": 2}]

Ask = Callable[[str, Json], Awaitable[Json]]


def policy(random: Random, conditions: list[str]) -> str:
    lines = ['[agents.alice]\ntasks = ["work"]\ndefault_task = "work"\n[tasks.work]\n']
    for what in random.choices(["grant", "grant", "deny"], k=random.randint(1, 5)):
        tools = random.sample(PATTERNS, random.randint(1, 3))
        when = random.choice(conditions)
        lines.append(f"[[tasks.work.{what}]]\ntools = {tools!r}\n" + (f"when = '''{when}'''\n" if when else ""))
    return "".join(lines)


async def asking(door: Front, era: str) -> Ask:
    session = await door.handshake() if era == "legacy" else ""

    async def ask(method: str, params: Json) -> Json:
        answer = door.old(session, method, params) if session else door.modern(method, params)
        return answer_of(await answer)

    return ask


async def listed(ask: Ask) -> set[str]:
    found: set[str] = set()
    for method, key, name in [
        ("tools/list", "tools", "name"),
        ("prompts/list", "prompts", "name"),
        ("resources/list", "resources", "uri"),
    ]:
        found |= {each[name] for each in (await ask(method, {}))["result"][key]}
    return found


async def usable(ask: Ask, arguments: Json) -> set[str]:
    asked: list[tuple[str, str, Json]] = [
        *(("tools/call", f"u__{name}", {"name": f"u__{name}", "arguments": arguments}) for name in TOOLS),
        *(("prompts/get", f"u__{name}", {"name": f"u__{name}"}) for name in PROMPTS),
        *(("resources/read", uri, {"uri": uri}) for uri in RESOURCES),
    ]
    return {name for method, name, params in asked if "result" in await ask(method, params)}


def of_ours(names: set[str]) -> set[str]:
    return names & {*(f"u__{name}" for name in (*TOOLS, *PROMPTS)), *RESOURCES}


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("seed", range(3))
async def test_the_listed_set_equals_the_callable_set(tmp_path: Path, era: str, seed: int) -> None:
    random, seen = Random(seed), set()
    async with front(tmp_path) as door:
        ask = await asking(door, era)
        for _ in range(15):
            text = policy(random, CONDITIONS)
            door.offer(policy=text)
            shown = of_ours(await listed(ask))
            assert shown == await usable(ask, {}), text
            seen.add(frozenset(shown))
    assert len(seen) > 3  # the policies do differ


@pytest.mark.parametrize("era", ERAS)
async def test_what_is_not_listed_is_callable_with_no_arguments_at_all(tmp_path: Path, era: str) -> None:
    random = Random(7)
    async with front(tmp_path) as door:
        ask = await asking(door, era)
        for _ in range(8):
            text = policy(random, [*CONDITIONS, *ON_ARGUMENTS * 2])
            door.offer(policy=text)
            shown = of_ours(await listed(ask))
            for arguments in ARGUMENTS:
                assert await usable(ask, arguments) <= shown, text


@pytest.mark.parametrize("era", ERAS)
async def test_a_denied_target_reads_like_an_unknown_one_on_every_method(tmp_path: Path, era: str) -> None:
    asked: list[tuple[str, Callable[[str], Json], str, str]] = [
        ("tools/call", lambda name: {"name": name, "arguments": {}}, "u__secret", "u__absent"),
        ("prompts/get", lambda name: {"name": name}, "u__hush", "u__nush"),
        ("resources/read", lambda uri: {"uri": uri}, "note:///shut", "note:///none"),
        ("completion/complete", _completion, "u__hush", "u__nush"),
    ]
    async with front(tmp_path) as door:
        ask = await asking(door, era)
        for method, params, denied, unknown in asked:
            answers = [await ask(method, params(name)) for name in (denied, unknown)]
            assert "error" in answers[0]
            assert _without(answers[0], denied) == _without(answers[1], unknown)


def _completion(prompt: str) -> Json:
    return {"ref": {"type": "ref/prompt", "name": prompt}, "argument": {"name": "who", "value": ""}}


def _without(answer: Any, name: str) -> str:
    return str(answer).replace(name, "NAME")
