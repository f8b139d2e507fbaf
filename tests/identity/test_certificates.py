"""Whose header is believed. What is in it is tested in test_tokens."""

import pytest

from mcp_gateway.identity.certificates import Certificates


@pytest.mark.parametrize("peer", ["10.0.0.5", "::ffff:10.0.0.5", "192.168.7.1"])
def test_a_proxy_on_the_list_is_believed(peer: str) -> None:
    assert Certificates("Client-Cert", ["10.0.0.5", "192.168.0.0/16"]).trusts(peer)


@pytest.mark.parametrize("peer", ["10.0.0.6", "127.0.0.1", "::1", "", "unix:", "10.0.0.5.evil"])
def test_nobody_else_is(peer: str) -> None:
    assert not Certificates("Client-Cert", ["10.0.0.5", "192.168.0.0/16"]).trusts(peer)


def test_a_list_of_anything_but_networks_is_an_error() -> None:
    with pytest.raises(ValueError, match="proxy"):
        Certificates("Client-Cert", ["proxy.internal"])
