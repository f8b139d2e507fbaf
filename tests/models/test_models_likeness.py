"""Which questions can be compared at all, and what must be the very same in both."""

from typing import Any

import pytest

from mcp_gateway.models.likeness import (
    MAX_TEXT,
    answer_in,
    facts_in,
    is_same_text,
    likeness,
    question_in,
    unit,
)
from mcp_gateway.models.wires import Op

USER = {"role": "user", "content": "What is the capital of France?"}
ASKED: dict[str, Any] = {"model": "m", "temperature": 0, "messages": [{"role": "system", "content": "be brief"}, USER]}


def test_a_single_question_at_temperature_zero_can_be_compared_on_every_wire() -> None:
    parts = [{"type": "text", "text": "What is the"}, {"type": "text", "text": "capital?"}]
    question = question_in(Op.CHAT, ASKED)
    assert question is not None
    assert question.text == "What is the capital of France?"
    assert question_in(Op.MESSAGES, {**ASKED, "messages": [{"role": "user", "content": parts}]}) is not None
    assert question_in(Op.RESPONSES, {"temperature": 0, "input": "hello"}) is not None
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]}
    assert question_in(Op.RESPONSES, {"temperature": 0, "input": [item]}) is not None


@pytest.mark.parametrize(
    "more",
    [
        {"temperature": 0.1},
        {"temperature": None},
        {"temperature": False},
        {"stream": True},
        {"n": 2},
        {"messages": []},
        {"messages": [USER, {"role": "assistant", "content": "Paris"}, USER]},
        {"messages": [USER, USER]},
        {"messages": [USER, {"role": "assistant", "content": "Par"}]},
        {"messages": [{"role": "tool", "content": "x"}, USER]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {}}]}]},
        {"messages": [{"role": "user", "content": "hello", "name": "ann"}]},
        {"messages": [{"role": "user", "content": "x" * (MAX_TEXT + 1)}]},
        {"messages": [{"role": "user", "content": ""}]},
        {"messages": "hello" * MAX_TEXT},
        {"messages": {"role": "user"}},
        {"messages": ["hello"]},
    ],
)
def test_anything_else_cannot(more: dict[str, Any]) -> None:
    assert question_in(Op.CHAT, {**ASKED, **more}) is None


def test_embeddings_and_counts_cannot() -> None:
    assert question_in(Op.EMBEDDINGS, {"temperature": 0, "input": "hello"}) is None
    assert question_in(Op.COUNT_TOKENS, ASKED) is None


@pytest.mark.parametrize(
    "more",
    [{"messages": [{"role": "system", "content": "be long"}, USER]}, {"messages": [USER]}, {"max_tokens": 9}, {"x": 1}],
)
def test_whatever_stands_beside_the_question_makes_it_another_one(more: dict[str, Any]) -> None:
    first, other = question_in(Op.CHAT, ASKED), question_in(Op.CHAT, {**ASKED, **more})
    same = question_in(Op.CHAT, {**ASKED, "messages": [ASKED["messages"][0], {**USER, "content": "and of Italy?"}]})
    assert first is not None
    assert other is not None
    assert same is not None
    assert first.rest == same.rest != other.rest


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("weather in Paris", "weather in Rome"),
        ("add 12 and 5", "add 12 and 6"),
        ("is it allowed", "is it not allowed"),
        ("it is allowed", "it isn't allowed"),
        ("with sugar", "without sugar"),
        ('translate "yes"', 'translate "no"'),
        ("read https://a.example/x", "read https://b.example/x"),
        ("write to ann@a.example", "write to bea@a.example"),
        ("explain `foo`", "explain `bar`"),
        ("what is PR-12", "what is PR-13"),
        ("ist das erlaubt", "ist das nicht erlaubt"),
    ],
)
def test_names_numbers_quotations_and_negations_tell_questions_apart(one: str, other: str) -> None:
    assert facts_in(one) != facts_in(other)


def test_how_something_is_asked_does_not() -> None:
    assert facts_in("What is the capital of France?") == facts_in("Please tell me the capital of France.")


def test_the_words_of_answers_are_found_on_every_wire() -> None:
    assert answer_in(Op.CHAT, {"choices": [{"message": {"content": "Paris"}}]}) == "Paris"
    assert (
        answer_in(Op.MESSAGES, {"content": [{"type": "text", "text": "Pa"}, {"type": "text", "text": "ris"}]})
        == "Paris"
    )
    output = [{"type": "reasoning"}, {"type": "message", "content": [{"type": "output_text", "text": "Paris"}]}]
    assert answer_in(Op.RESPONSES, {"output": output}) == "Paris"
    for odd in ({}, [], None, {"choices": []}, {"choices": [{"message": {"content": None}}]}):
        assert answer_in(Op.CHAT, odd) == ""


def test_likeness_is_that_of_directions() -> None:
    assert likeness(unit([1, 0]), unit([9, 0])) == 1
    assert likeness(unit([1, 0]), unit([0, 1])) == 0
    assert likeness(unit([1, 0]), unit([-1, 0])) == 0
    for one, other in (([1.0], [1.0, 2.0]),):
        with pytest.raises(ValueError, match="lengths"):
            likeness(one, other)
    for nothing in ([0.0, 0.0], [float("inf")], [float("nan")]):
        with pytest.raises(ValueError, match="direction"):
            unit(nothing)


def test_texts_that_differ_in_signs_only_are_the_same() -> None:
    assert is_same_text("Paris.", "paris")
    assert not is_same_text("Paris", "Rome")
