"""Which URIs a resource template stands for."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.catalog.templates import MAX_URI, TemplateError, TemplateIndex, compile_template, is_unambiguous


@pytest.mark.parametrize(
    ("template", "uri", "expected"),
    [
        ("test://template/{id}/data", "test://template/123/data", True),
        ("test://template/{id}/data", "test://template/1/2/data", False),
        ("test://template/{id}/data", "test://template//data", False),
        ("test://template/{id}/data", "test://template/123/data/more", False),
        ("file:///{name}", "file:///a", True),
        ("file:///{name}", "file:///a/b", False),
        ("file:///{+path}", "file:///a/b", True),
        ("file:///{+path}", "file:///", False),
        ("file:///{+path}.md", "file:///a/b.md", True),
        ("file:///{+path}.md", "file:///a/b.txt", False),
        ("x://{owner}/{repo}{/path*}", "x://a/b", True),
        ("x://{owner}/{repo}{/path*}", "x://a/b/c/d", True),
        ("x://{owner}{/repo}", "x://a/b", True),
        ("x://{owner}{/repo}", "x://a/b/c", False),
        ("x://search{?q,limit}", "x://search?q=a&limit=2", True),
        ("x://search{?q,limit}", "x://search", True),
        ("x://search{?q,limit}", "x://searching", False),
        ("x://a?fixed=1{&more}", "x://a?fixed=1&more=2", True),
        ("x://{a}-{b}", "x://1-2-3", True),
        ("x://{a}-{b}", "x://12", False),
        ("x://{a}{b}", "x://12", True),
        ("x://doc{#part}", "x://doc#one", True),
        ("x://doc{.ext}", "x://doc.md", True),
        ("x://{a}aa/{b}", "x://baaa/c", True),
        ("x://plain", "x://plain", True),
        ("x://a.b/{c}", "x://aXb/c", False),
        ("x://{a}", "X://a", False),
    ],
)
def test_a_template_stands_for_what_it_expands_to(template: str, uri: str, expected: bool) -> None:
    assert compile_template(template).matches(uri) is expected


@pytest.mark.parametrize(
    "template",
    [
        "{+uri}",
        "{scheme}://x",
        "x://{",
        "x://{a",
        "x://{!a}",
        "x://{}",
        "x://{+a}/{b}",
        "x://{?q}/a",
        "x://{a}{+b}",
        "/{a}",
    ],
)
def test_a_template_that_cannot_be_told_exactly_is_refused(template: str) -> None:
    with pytest.raises(TemplateError):
        compile_template(template)


@pytest.mark.parametrize(
    "uri",
    [
        "file:///a/../b",
        "file:///a/./b",
        "file:///a/..",
        "file:///a/%2e%2e/b",
        "file:///a/%2E./b",
        "file:///a/..%2fb",
        "file:///a/%252e%252e/b",
        "file:///a\\..\\b",
        "file:///a%5c..%5cb",
        "file:///a b",
        "file:///a\nb",
        "file:///a%00b",
        "x://" + "a" * MAX_URI,
    ],
)
def test_a_uri_that_others_may_read_differently_is_not_unambiguous(uri: str) -> None:
    assert not is_unambiguous(uri)


@pytest.mark.parametrize("uri", ["file:///a/b..c", "x://a/...", "x://a%20b/c", "x://a?q=1#f", "x://a/%2Fb"])
def test_dots_and_escapes_that_are_harmless_are_left_alone(uri: str) -> None:
    assert is_unambiguous(uri)


@pytest.mark.parametrize(
    ("template", "uri"),
    [
        ("x://" + "{a}a" * 100, "x://" + "a" * 8000),
        ("x://" + "{a}b" * 100, "x://" + "ab" * 4000 + "!/"),
        ("x://{+a}" + "a" * 500, "x://" + "a" * 8000 + "b"),
        ("x://a{?" + ",".join("abcdefgh") + "}", "x://a?" + "&" * 8000 + "#"),
    ],
)
def test_matching_does_not_blow_up(template: str, uri: str) -> None:
    compiled = compile_template(template)
    start = time.perf_counter()
    compiled.matches(uri)
    assert time.perf_counter() - start < 0.2


@given(st.lists(st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True), min_size=1, max_size=5))
def test_an_expansion_always_matches_its_template(values: list[str]) -> None:
    template = "x://" + "/-".join(f"{{v{at}}}" for at in range(len(values)))
    assert compile_template(template).matches("x://" + "/-".join(values))


def test_the_index_finds_every_template_of_a_uri() -> None:
    texts = ["x://{a}", "x://a{b}", "x://ab", "y://{a}"]
    index = TemplateIndex((compile_template(text), text) for text in texts)
    assert sorted(index.matching("x://ab")) == ["x://ab", "x://a{b}", "x://{a}"]
    assert index.matching("z://ab") == []


@pytest.mark.parametrize("template", ["x://{a}/b", "x://{+a}", "x://a{?q}", "x://{a}{/b}", "x://plain"])
def test_the_sample_of_a_template_is_one_of_its_uris(template: str) -> None:
    compiled = compile_template(template)
    assert compiled.matches(compiled.sample)
