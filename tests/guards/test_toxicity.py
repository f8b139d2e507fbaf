"""What short rules make of insults and threats, measured on sentences of our own, and told as it is."""

import re
import time
from pathlib import Path

import pytest
from toxic_texts import HARMLESS, PLAIN, VEILED

from mcp_gateway.domain import Action, Inspection, Stage
from mcp_gateway.guards.content import Content
from mcp_gateway.guards.toxicity import Toxicity

REFERENCE = Path(__file__).parents[2] / "docs/reference/detectors.md"


def kinds_in(text: str) -> set[str]:
    return {found.kind for found in Toxicity().scan(text) if found.score >= 0.5}


def test_the_reference_says_how_much_is_found_and_how_much_is_not() -> None:
    plain = sum(bool(kinds_in(text)) for text in PLAIN)
    veiled = sum(bool(kinds_in(text)) for text in VEILED)
    harmless = sum(bool(kinds_in(text)) for text in HARMLESS)
    said = re.search(r"finds (\d+) of (\d+) .*? (\d+) of (\d+) .*? (\d+) of (\d+)", REFERENCE.read_text(), re.DOTALL)
    assert said is not None
    counted = [plain, len(PLAIN), veiled, len(VEILED), harmless, len(HARMLESS)]
    assert [int(number) for number in said.groups()] == counted
    assert plain >= 0.7 * len(PLAIN)
    assert harmless <= 0.05 * len(HARMLESS)


@pytest.mark.parametrize("text", PLAIN)
def test_what_is_found_is_of_its_kind(text: str) -> None:
    found = kinds_in(text) - {"profanity"}
    assert found <= {PLAIN[text]}


@pytest.mark.parametrize("kind", Toxicity.kinds)
def test_something_of_each_kind_is_found(kind: str) -> None:
    assert any(kind in kinds_in(text) for text, what in PLAIN.items() if what == kind)


async def test_a_threat_is_found_behind_disguises_and_masked() -> None:
    mask = Inspection("g.toml:1", ("toxicity/threat",), frozenset(Stage), Action.MASK)
    content = Content([Toxicity()])
    for disguised in ("I w\u200bill kill you", "I%20will%20kill%20you", "\uff29 will kill you"):
        looked = await content.look([mask], Stage.RESULTS, disguised)
        assert looked.value == "[masked:toxicity/threat]", disguised


@pytest.mark.parametrize("piece", ["you are ", "stupid ", "a ", "i will ", "kill all ", "fuck", "you're such a "])
def test_no_text_takes_more_than_time_in_proportion(piece: str) -> None:
    def seconds(length: int) -> float:
        text, found = piece * (length // len(piece)), []
        for _ in range(3):
            began = time.process_time()
            Toxicity().scan(text)
            found.append(time.process_time() - began)
        return min(found)

    assert seconds(80_000) < 60 * max(seconds(8_000), 0.002)
