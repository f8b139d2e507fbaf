"""Rules over sentences, written as the sentences they find."""

from mcp_gateway.guards.sentences import GAP, sentences

RULE = sentences({"MUCH": rf"(?:(?:so|very){GAP}){{0,2}}", "GOOD": "(?:good|well done)"})


def test_a_space_is_whatever_parts_words() -> None:
    pattern = RULE("praise", 0.5, "this is MUCH GOOD").pattern
    for text in ("This is good", "this, is so: very\nWELL - DONE", 'this "is" good'):
        assert pattern.search(text), text
    for text in ("this isgood", "this is goodish", "this is quite good"):
        assert not pattern.search(text), text


def test_without_lists_a_sentence_is_its_words() -> None:
    assert sentences({})("praise", 0.5, "good job").pattern.search("a good job!")
