"""Headers pass by a list, both ways."""

import pytest

from mcp_gateway.rest.headers import NEVER, PASSED_BACK, PASSED_ON, passing


def test_what_is_on_the_list_passes_and_nothing_else() -> None:
    sent = {"Accept": "text/plain", "X-Canary": "1", "Authorization": "Bearer x", "Cookie": "a=b", "Range": "bytes=0-1"}
    assert passing(sent, PASSED_ON) == {"accept": "text/plain", "range": "bytes=0-1"}


def test_a_configuration_can_add_to_the_list_but_not_what_never_passes() -> None:
    sent = {"X-Tenant": "a", "cookie": "a=b", "X-Forwarded-For": "1.2.3.4", "x-http-method-override": "DELETE"}
    assert passing(sent, PASSED_ON, ["X-Tenant", *NEVER]) == {"x-tenant": "a"}


def test_what_a_connection_header_names_belongs_to_that_connection() -> None:
    assert passing({"connection": "close, ETag", "etag": "x", "date": "y"}, PASSED_BACK) == {"date": "y"}


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\x00", "x" * 9000, "\x7f"])
def test_a_value_that_is_none_does_not_pass(value: str) -> None:
    assert passing({"accept": value}, PASSED_ON) == {}


def test_the_lists_have_nothing_in_common_with_what_never_passes() -> None:
    assert not NEVER & (PASSED_ON | PASSED_BACK)
