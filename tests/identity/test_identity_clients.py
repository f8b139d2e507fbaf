"""What programs may say of themselves, and where people may be sent."""

from typing import Any

import pytest

from mcp_gateway.identity.clients import Client, ClientInvalid, client_of, is_address


def test_where_people_may_be_sent_is_compared_to_the_byte() -> None:
    client = Client("c", "n", ("https://a.example/cb", "cursor://x/cb"))
    assert client.admits("https://a.example/cb")
    assert client.admits("cursor://x/cb")
    for uri in ("https://a.example/cb/", "https://a.example/cb?x", "https://a.example:443/cb", "https://A.example/cb"):
        assert not client.admits(uri)
    for uri in ("", "https://a.example//cb", "https://a.example@evil/cb", "https://a.example/cb/../x", "//evil"):
        assert not client.admits(uri)


def test_a_program_on_the_persons_machine_may_take_any_port() -> None:
    client = Client("c", "n", ("http://127.0.0.1/cb", "http://localhost:1234/cb"))
    assert client.admits("http://127.0.0.1:55555/cb")
    assert client.admits("http://localhost:9/cb")
    for uri in ("http://127.0.0.1:5/other", "http://127.0.0.2:5/cb", "http://127.0.0.1:5@evil/cb", "http://[::1]:5/cb"):
        assert not client.admits(uri)


@pytest.mark.parametrize(
    "uris",
    [
        *(None, [], "https://a.example", [1], [""], ["a.example"], ["https://"], ["https://u@a.example/"]),
        *(["http://a.example/"], ["javascript:alert(1)"], ["data:text/html,x"], ["file:///etc/passwd"]),
        *(["https://a.example/#x"], ["https://a.example\\@evil/"], ["https://a b/"], ["https://a/\r\nx: y"]),
        *(["https://a.example/"] * 21, ["https://a/" + "a" * 600], ["http://127.0.0.1@evil/"]),
    ],
)
def test_an_address_that_leads_astray_cannot_be_registered(uris: Any) -> None:
    with pytest.raises(ClientInvalid):
        client_of("c", {"redirect_uris": uris})


@pytest.mark.parametrize("more", [{"token_endpoint_auth_method": "client_secret_basic"}, {"grant_types": ["implicit"]}])
def test_a_program_that_wants_what_there_is_not_is_told(more: dict[str, Any]) -> None:
    with pytest.raises(ClientInvalid):
        client_of("c", {"redirect_uris": ["https://a.example/"], **more})


def test_a_name_is_text_of_bounded_length() -> None:
    def name(written: Any) -> str:
        return client_of("c", {"redirect_uris": ["https://a.example/"], "client_name": written}).name

    assert name("Cursor") == "Cursor"
    assert name("a\u202eb\nc\x00") == "abc"
    assert len(name("x" * 1000)) == 80
    assert name(7) == name(None) == "a program without a name"


def test_a_client_id_is_an_address_if_it_is_an_unambiguous_one() -> None:
    assert is_address("https://a.example/client.json")
    for text in ("https://a.example", "https://a.example/", "http://a.example/c", "https://u@a.example/c", "reg-abc"):
        assert not is_address(text)
    for text in ("https://a.example/../c", "https://a.example/c#x", "https://a/\\c", "https://a/" + "c" * 600):
        assert not is_address(text)
