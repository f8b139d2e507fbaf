"""Where the vault's keys come from, and what is said when they cannot be had."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_gateway.config.secrets import Secrets
from mcp_gateway.credentials.vault_keys import CannotOpen, key_id_of, keys_of, new_key_text
from mcp_gateway.errors import StoreUnavailable


def keys(state: Path, *sources: str, **env: str) -> object:
    return keys_of(sources, Secrets(env, state), state)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "s"
    folder.mkdir(mode=0o700)
    return folder


def test_without_any_source_the_key_is_a_private_file(state: Path) -> None:
    first, second = keys_of((), Secrets({}, state), state), keys_of((), Secrets({}, state), state)
    assert first.current == second.current
    assert second.open(first.current, first.seal(b"x", b"for"), b"for") == b"x"
    assert (state / "vault.key").stat().st_mode & 0o777 == 0o600


def test_a_command_may_hold_the_key(state: Path) -> None:
    text = new_key_text()
    made = keys_of([f"command:echo {text}"], Secrets({}, state), state)
    assert len(made.current) == 12
    assert not (state / "vault.key").exists()


@pytest.mark.parametrize(
    "source",
    ["command:false", "command:no-such-program-there", "command:echo short", "command:echo", "file:missing", "x:y"],
)
def test_a_source_without_a_key_is_refused_and_not_replaced_by_another(state: Path, source: str) -> None:
    with pytest.raises(StoreUnavailable):
        keys(state, source)
    assert not (state / "vault.key").exists()


def test_a_refusal_does_not_show_what_was_read(state: Path) -> None:
    with pytest.raises(StoreUnavailable) as refused:
        keys(state, "command:echo canary-canary")
    assert "canary" not in str(refused.value)


def test_a_key_file_open_to_others_is_refused(state: Path) -> None:
    (state / "k").write_text(new_key_text())
    (state / "k").chmod(0o644)
    with pytest.raises(StoreUnavailable, match="chmod"):
        keys(state, "file:k")


def test_what_was_sealed_for_one_thing_opens_for_no_other(state: Path) -> None:
    made = keys_of((), Secrets({}, state), state)
    sealed = made.seal(b"x", b"for alice")
    for key_id, content, binding in (
        (made.current, sealed, b"for bob"),
        (made.current, sealed[:-1], b"for alice"),
        (made.current, b"", b"for alice"),
        ("0" * 12, sealed, b"for alice"),
    ):
        with pytest.raises(CannotOpen):
            made.open(key_id, content, binding)


def test_a_keys_name_does_not_show_it() -> None:
    assert key_id_of(b"k" * 32) != key_id_of(b"j" * 32)
    assert "6b6b" not in key_id_of(b"k" * 32)
    assert "AESGCM" not in repr(keys_of(["command:echo " + new_key_text()], Secrets({}, Path()), Path()))
