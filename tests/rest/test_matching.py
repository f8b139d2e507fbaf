"""Lines that speak of methods and paths."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.rest.matching import read_pattern


@pytest.mark.parametrize(
    ("line", "method", "path", "matches"),
    [
        ("GET /v1/orders/*", "GET", "/v1/orders/7", True),
        ("GET /v1/orders/*", "GET", "/v1/orders/", True),
        ("GET /v1/orders/*", "POST", "/v1/orders/7", False),
        ("GET /v1/orders/*", "GET", "/v1/orders/7/lines", False),
        ("GET,POST /v1/**", "POST", "/v1/orders/7/lines", True),
        ("* /v1/**/lines", "DELETE", "/v1/orders/7/lines", True),
        ("* **", "PATCH", "/", True),
        ("GET /v1", "GET", "/v1/", False),
        ("GET /a*c", "GET", "/abc", True),
    ],
)
def test_stars_stand_for_what_they_say(line: str, method: str, path: str, matches: bool) -> None:
    assert read_pattern(line).matches(method, path) is matches


@pytest.mark.parametrize(
    "line", ["", "GET", "/v1", "get /v1", "GET v1", "FETCH /v1", "GET  /v1", "CONNECT /", "GET /a b"]
)
def test_a_line_that_is_none_says_so(line: str) -> None:
    with pytest.raises(ValueError, match=r"is not a method and a path|is none of"):
        read_pattern(line)


@given(st.text(alphabet="ab/*", max_size=8), st.text(alphabet="ab/", max_size=12))
def test_it_is_what_the_regular_expression_would_be(pattern: str, path: str) -> None:
    written = re.sub(r"\*\*+|\*", lambda star: ".*" if len(star[0]) > 1 else "[^/]*", f"/{pattern}")
    assert read_pattern(f"GET /{pattern}").matches("GET", f"/{path}") == bool(re.fullmatch(written, f"/{path}"))


def test_no_path_makes_it_slow() -> None:
    line = read_pattern("GET /" + "a*" * 8 + "b")
    began = time.process_time()
    assert not line.matches("GET", "/" + "a" * 4000)
    assert time.process_time() - began < 1
