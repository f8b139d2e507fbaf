"""The decisions written down in tests/decisions/*.txt, each still as it was.

A file is a policy, a line of dashes, and questions; anyone can add one:

    AGENT on TASK call|list|complete TARGET [args={...}] [claims={...}] [person="..."] [annotations={...}] [tags=[...]]
        -> EFFECT REASON [LINE of the policy]

`-` is no task; `?` is a target nobody offers; a target may begin with prompt:, resource: or template:.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from asking import NOON, target

from mcp_gateway.domain import Caller, Kind, Request, Verb
from mcp_gateway.policy.compile import Policy, compile_policy
from mcp_gateway.policy.decide import decide
from mcp_gateway.policy.document import from_sources

FOLDER = Path(__file__).parents[1] / "decisions"
QUESTION = re.compile(r"(\S+) on (\S+) (call|list|complete) (\S+)(.*?) -> (.+)")
USE = {
    Kind.TOOL: (Verb.CALL, "tools/call"),
    Kind.PROMPT: (Verb.GET, "prompts/get"),
    Kind.RESOURCE: (Verb.READ, "resources/read"),
    Kind.TEMPLATE: (Verb.READ, "resources/read"),
}


def extras(text: str) -> dict[str, Any]:
    """`name=JSON` pairs."""
    found: dict[str, Any] = {}
    text = text.strip()
    while text:
        name, _, rest = text.partition("=")
        found[name], end = json.JSONDecoder().raw_decode(rest)
        text = rest[end:].strip()
    return found


def answer(policy: Policy, question: re.Match[str]) -> str:
    agent, task, verb, key, rest = question.groups()[:5]
    given = extras(rest)
    prefix, _, name = key.partition(":") if re.match(r"(prompt|resource|template):", key) else ("", "", key)
    kind = Kind(prefix or "tool")
    wanted = (
        None if key == "?" else target(name, kind, tags=tuple(given.get("tags", ())), **given.get("annotations", {}))
    )
    use, method = USE[kind]
    who = Caller(agent, None if task == "-" else task, given.get("person"), claims=given.get("claims", {}))
    asked = Request(
        "r", use if verb == "call" else Verb(verb), method, kind, name, {"arguments": given.get("args", {})}
    )
    decision = decide(policy, who, asked, wanted, NOON)
    line = decision.grant.rpartition(":")[2]
    return " ".join(part for part in (decision.effect.value, decision.reason.value, line) if part)


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.txt")), ids=lambda path: path.stem)
def test_every_decision_is_as_it_was_written_down(file: Path) -> None:
    text, _, questions = file.read_text(encoding="utf-8").partition("\n----\n")
    policy = compile_policy(from_sources({"policy.toml": text}))
    wrong = []
    for line in questions.splitlines():
        if line.strip() and not line.startswith("#"):
            question = QUESTION.fullmatch(line)
            assert question is not None, f"{file.name}: {line}"
            if (actual := answer(policy, question)) != question[6].strip():
                wrong.append(f"{line}   but is: {actual}")
    assert wrong == []


def test_there_are_decisions_written_down() -> None:
    assert len(list(FOLDER.glob("*.txt"))) >= 4
