"""Folders, files and keys that only we can read, or no gateway."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.storage.private import private_file, private_folder, random_key


def test_a_key_is_made_once_and_read_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "k"
    key = random_key(path)
    assert len(key) == 32
    assert random_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["k"]


def test_those_who_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(lambda _: random_key(tmp_path / "k"), range(32)))) == 1


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 32, b"changeme" * 4, bytes(range(31)), bytes(range(33)), b"0123456789" * 3]
)
def test_a_weak_key_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "k").write_bytes(content)
    (tmp_path / "k").chmod(0o600)
    with pytest.raises(StoreUnavailable, match="random bytes"):
        random_key(tmp_path / "k")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602, 0o660])
def test_a_key_or_file_open_to_others_is_refused_not_repaired(tmp_path: Path, mode: int) -> None:
    random_key(tmp_path / "k")
    (tmp_path / "k").chmod(mode)
    for check in (random_key, private_file):
        with pytest.raises(StoreUnavailable, match="chmod 600"):
            check(tmp_path / "k")
    assert stat.S_IMODE((tmp_path / "k").stat().st_mode) == mode


def test_a_link_is_refused_even_to_a_good_key(tmp_path: Path) -> None:
    random_key(tmp_path / "k")
    (tmp_path / "link").symlink_to(tmp_path / "k")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    for name in ("link", "dangling"):
        for check in (random_key, private_file):
            with pytest.raises(StoreUnavailable):
                check(tmp_path / name)


def test_a_folder_or_fifo_in_the_keys_place_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo", 0o600)
    for name in ("folder", "fifo"):
        with pytest.raises(StoreUnavailable):
            random_key(tmp_path / name)


def test_a_folder_is_made_with_its_parents_and_a_lax_one_refused(tmp_path: Path) -> None:
    private_folder(tmp_path / "a/b")
    private_folder(tmp_path / "a/b")
    assert stat.S_IMODE((tmp_path / "a/b").stat().st_mode) == 0o700
    (tmp_path / "a/b").chmod(0o750)
    with pytest.raises(StoreUnavailable, match="chmod 700"):
        private_folder(tmp_path / "a/b")


def test_a_file_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(StoreUnavailable):
        private_folder(tmp_path / "f")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_belongs_to_somebody_else_is_refused(tmp_path: Path) -> None:
    random_key(tmp_path / "k")
    os.chown(tmp_path / "k", 12345, 12345)
    with pytest.raises(StoreUnavailable, match="belongs to user id 12345"):
        random_key(tmp_path / "k")
