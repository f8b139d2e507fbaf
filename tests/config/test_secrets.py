"""References to secrets: found, checked, and never repeated in an error."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

import pytest

from mcp_gateway.config.secrets import MAX_SECRET_BYTES, Secrets, is_secret_name
from mcp_gateway.config.table import ConfigCode, Unresolvable

is_root = os.geteuid() == 0


def secret_file(path: Path, content: bytes = b"hunter2\n", mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("plain $HOME $ }", "plain $HOME $ }"),
        ("a${X}b${X}", "axbx"),
        ("${MISSING:-d}", "d"),
        ("${EMPTY:-d}", "d"),
        ("${EMPTY}", ""),
        ("${MISSING:-}", ""),
        ("$${X}", "${X}"),
        ("${NESTED}", "${X}"),
    ],
)
def test_variables_are_put_in_once(text: str, value: str) -> None:
    assert Secrets({"X": "x", "EMPTY": "", "NESTED": "${X}"}, Path()).expand(text) == value


@pytest.mark.parametrize("text", ["${", "${}", "${A-B}", "${1A}", "${A", "${ A }"])
def test_a_malformed_reference_is_refused(text: str) -> None:
    with pytest.raises(Unresolvable) as caught:
        Secrets({"A": "x"}, Path()).expand(text)
    assert caught.value.code is ConfigCode.BAD_VALUE


def test_a_variable_that_is_not_set_is_refused_by_name() -> None:
    with pytest.raises(Unresolvable, match="TOKEN is not set") as caught:
        Secrets({}, Path()).expand("${TOKEN}")
    assert caught.value.code is ConfigCode.ENV_UNSET


def test_a_file_is_read_without_its_last_line_break(tmp_path: Path) -> None:
    secrets = Secrets({"DIR": str(tmp_path)}, tmp_path)
    secret_file(tmp_path / "a", b"one\ntwo\n")
    secret_file(tmp_path / "b", b"one\r\n")
    assert secrets.value("file:a") == "one\ntwo"
    assert secrets.value("file:${DIR}/b") == "one"


def test_what_a_variable_holds_is_never_taken_for_a_file_reference(tmp_path: Path) -> None:
    assert Secrets({"X": "file:/etc/passwd"}, tmp_path).value("${X}") == "file:/etc/passwd"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644, 0o666])
def test_a_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    secret_file(tmp_path / "a", mode=mode)
    with pytest.raises(Unresolvable, match="open to other users") as caught:
        Secrets({}, tmp_path, mounts=()).value("file:a")
    assert caught.value.code is ConfigCode.SECRET_FILE
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.skipif(not is_root, reason="only root can make a file of root's")
def test_a_mounted_secret_of_root_may_be_readable_but_not_writable_by_others(tmp_path: Path) -> None:
    secrets = Secrets({}, tmp_path, mounts=(tmp_path / "run",))
    (tmp_path / "run").mkdir()
    secret_file(tmp_path / "run/a", mode=0o444)
    assert secrets.value("file:run/a") == "hunter2"
    secret_file(tmp_path / "run/b", mode=0o446)
    with pytest.raises(Unresolvable, match="open to other users"):
        secrets.value("file:run/b")
    secret_file(tmp_path / "c", mode=0o444)
    with pytest.raises(Unresolvable, match="open to other users"):
        secrets.value("file:run/../c")


@pytest.mark.skipif(not is_root, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    os.chown(secret_file(tmp_path / "a"), 12345, 12345)
    with pytest.raises(Unresolvable, match="belongs to another user"):
        Secrets({}, tmp_path).value("file:a")


def test_what_is_no_readable_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    (tmp_path / "folder").mkdir()
    secret_file(tmp_path / "large", b"x" * (MAX_SECRET_BYTES + 1))
    for name in ("fifo", "folder", "large", "missing", "nul\0", ""):
        with pytest.raises(Unresolvable) as caught:
            Secrets({}, tmp_path).value(f"file:{name}")
        assert caught.value.code is ConfigCode.SECRET_FILE


def test_bytes_that_are_no_text_are_refused_without_showing_them(tmp_path: Path) -> None:
    secret_file(tmp_path / "a", b"hunter2\xff")
    with pytest.raises(Unresolvable, match="not UTF-8") as caught:
        Secrets({}, tmp_path).value("file:a")
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_no_repr_shows_the_environment() -> None:
    assert "hunter2" not in repr(Secrets({"A": "hunter2"}, Path()))


@pytest.mark.parametrize("name", ["Authorization", "X-API-KEY", "apikey", "DB_PASSWORD", "SIGNING_KEY", "Cookie"])
def test_names_that_promise_a_secret_are_known(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["GIT_AUTHOR_NAME", "X-Team", "TOKENIZERS_PARALLELISM", "KEYBOARD", "PATH"])
def test_names_that_only_resemble_those_are_not(name: str) -> None:
    assert not is_secret_name(name)
