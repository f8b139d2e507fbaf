"""The keyring: read, written, and not there; a real backend in memory instead of somebody's own."""

from collections.abc import Iterator

import keyring
import keyring.backend
import keyring.errors
import pytest

from fakes.memory_keyring import MemoryKeyring, kept_by
from mcp_gateway.config import keyrings


@pytest.fixture
def backend() -> Iterator[MemoryKeyring]:
    with kept_by(MemoryKeyring()) as ring:
        yield ring


def test_a_secret_is_kept_and_read_again(backend: MemoryKeyring) -> None:
    assert keyrings.is_usable()
    assert keyrings.read("A") is None
    keyrings.store("A", "one")
    assert keyrings.read("A") == "one"
    assert backend.kept == {("mcp-gateway", "A"): "one"}


def test_a_keyring_that_refuses_is_unusable_and_says_nothing_of_what_it_holds() -> None:
    with kept_by(MemoryKeyring(is_locked=True)):
        assert not keyrings.is_usable()
        for attempt in (lambda: keyrings.read("A"), lambda: keyrings.store("A", "canary")):
            with pytest.raises(keyrings.KeyringUnusable) as raised:
                attempt()
            assert "canary" not in str(raised.value)


def test_where_there_is_no_keyring_it_is_unusable() -> None:
    with kept_by(keyring.backends.fail.Keyring()):
        assert not keyrings.is_usable()
