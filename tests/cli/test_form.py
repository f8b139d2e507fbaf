"""Arguments asked for as a schema describes them, and read from NAME=VALUE words."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import typer

from mcp_gateway.cli.form import arguments_from, asked_for, converted

SCHEMA = {
    "type": "object",
    "required": ["to", "amount"],
    "properties": {
        "note": {"type": "string", "description": "What it is for"},
        "to": {"type": "string"},
        "amount": {"type": "integer"},
        "speed": {"enum": ["slow", "fast"], "default": "slow"},
        "tags": {"type": "array"},
        "either": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    },
}


def saying(*answers: str) -> tuple[list[str], Callable[[str, str], str]]:
    asked: list[str] = []
    waiting: Iterator[str] = iter(answers)

    def ask(text: str, default: str) -> str:
        asked.append(text)
        return next(waiting) or default

    return asked, ask


def test_required_arguments_are_asked_for_first_and_others_may_be_left_out() -> None:
    asked, ask = saying("ann", "5", "", "", '["a"]', "")
    assert asked_for(SCHEMA, ask) == {"to": "ann", "amount": 5, "speed": "slow", "tags": ["a"]}
    assert [text.splitlines()[-1].partition(" ")[0] for text in asked] == [
        "to",
        "amount",
        "note",
        "speed",
        "tags",
        "either",
    ]


def test_an_answer_that_does_not_fit_is_asked_for_again() -> None:
    asked, ask = saying("ann", "many", "5", "", "warp", "fast", "", "")
    assert asked_for(SCHEMA, ask) == {"to": "ann", "amount": 5, "speed": "fast"}
    assert len(asked) == 8


def test_what_is_given_is_not_asked_for() -> None:
    asked, ask = saying("5", "", "", "", "")
    assert asked_for(SCHEMA, ask, {"to": "ann"})["amount"] == 5
    assert len(asked) == 5


def test_a_schema_without_properties_asks_nothing() -> None:
    assert asked_for({}, saying()[1]) == {}


@pytest.mark.parametrize(
    ("text", "schema", "value"),
    [
        ("7", {"type": "integer"}, 7),
        ("7", {"type": "string"}, "7"),
        ("7", {}, 7),
        ("seven", {}, "seven"),
        ("true", {"type": "boolean"}, True),
        ('{"a": 1}', {"type": "object"}, {"a": 1}),
        ("null", {"type": ["string", "null"]}, None),
        ("x=y", {"type": "string"}, "x=y"),
    ],
)
def test_a_word_becomes_what_its_schema_says(text: str, schema: dict[str, Any], value: object) -> None:
    assert converted(text, schema) == value


def test_words_name_their_argument() -> None:
    assert arguments_from(["to=a=b", "amount=5"], SCHEMA) == {"to": "a=b", "amount": 5}
    for word in ("to", "=x", "amount=many"):
        with pytest.raises(typer.BadParameter):
            arguments_from([word], SCHEMA)
