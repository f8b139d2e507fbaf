"""Reading a text in every way it can be read."""

import base64
import collections
import time
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.guards.views import MAX_DEPTH, MAX_GROWTH, views

SECRET = "card 4111 1111 1111 1111 ok"


def encoded(text: str) -> dict[str, str]:
    raw = text.encode()
    return {
        "base64": base64.b64encode(raw).decode(),
        "base64url": base64.urlsafe_b64encode(raw).decode().rstrip("="),
        "hex": raw.hex(),
        "percent": "".join(f"%{byte:02X}" for byte in raw),
        "entities": "".join(f"&#{ord(letter)};" for letter in text),
        "hex entities": "".join(f"&#x{ord(letter):x};" for letter in text),
        "unicode escapes": "".join(f"\\u{ord(letter):04x}" for letter in text),
        "byte escapes": "".join(f"\\x{ord(letter):02x}" for letter in text),
        "full width": "".join(chr(ord(letter) + 0xFEE0) if letter > " " else letter for letter in text),
        "zero width": "\u200b".join(text),
        "soft hyphens": "\u00ad".join(text),
        "tags": "".join(chr(0xE0000 + ord(letter)) for letter in text),
    }


@pytest.mark.parametrize("disguise", encoded(SECRET))
def test_no_disguise_hides_a_text_and_the_place_found_is_the_disguised_one(disguise: str) -> None:
    hidden = encoded(SECRET)[disguise]
    text = f"before {hidden} after"
    found = [view for view in views(text) if SECRET in view.text]
    assert found
    start = found[0].text.index(SECRET)
    begins, ends = found[0].span(start, start + len(SECRET))
    assert text[begins:ends] == hidden


def test_disguises_inside_one_another_are_taken_off_up_to_a_depth() -> None:
    text = SECRET
    for depth in range(1, MAX_DEPTH + 2):
        text = base64.b64encode(text.encode()).decode()
        assert any(SECRET in view.text for view in views(text)) is (depth <= MAX_DEPTH)


def test_the_place_of_something_in_an_escaped_word_of_a_long_text_is_right() -> None:
    text = "a b%20c " * 5 + quote("x@y.org") + " d%20e" * 5
    view = next(view for view in views(text) if "x@y.org" in view.text)
    start = view.text.index("x@y.org")
    assert text[slice(*view.span(start, start + 7))] == "x%40y.org"


@given(st.text(max_size=300))
def test_every_span_of_every_view_lies_in_the_text(text: str) -> None:
    for view in views(text):
        for start in range(len(view.text)):
            begins, ends = view.span(start, start + 1)
            assert 0 <= begins <= ends <= len(text)


@given(st.text(max_size=300))
def test_what_is_read_is_bounded(text: str) -> None:
    assert sum(len(view.text) for view in views(text)) <= len(text) * (1 + MAX_GROWTH) + 4096


@pytest.mark.parametrize("piece", ["a%20", "A", "&#64;", "%", "\\u0041", "\uff10", "\u200b", "ab ", "==", "&"])
def test_no_text_takes_more_than_time_in_proportion(piece: str) -> None:
    def seconds(length: int) -> float:
        text, found = piece * (length // len(piece)), []
        for _ in range(3):
            began = time.process_time()
            collections.deque(views(text), maxlen=0)
            found.append(time.process_time() - began)
        return min(found)

    assert seconds(160_000) < 60 * max(seconds(16_000), 0.002)


def test_an_image_is_not_read_as_a_text() -> None:
    picture = base64.b64encode(bytes(range(256)) * 40).decode()
    assert [view.text for view in views(picture)] == [picture]
