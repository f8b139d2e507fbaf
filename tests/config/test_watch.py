"""Edits are noticed however they are made, once, and watching leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import anyio
import pytest

from mcp_gateway.config.watch import changes

News = AsyncGenerator[frozenset[Path], None]


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    path = tmp_path / "servers.toml"
    path.write_text("a = 1")
    return path


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "main.toml").write_text("a = 1")
    return folder


@pytest.fixture
async def news(toml: Path, policies: Path) -> AsyncIterator[News]:
    async with aclosing(changes([toml, policies], look_every_s=0.01)) as stream:
        yield stream


async def told(news: News) -> frozenset[Path]:
    with anyio.fail_after(5):
        return await anext(news)


def write(path: Path) -> None:
    path.write_text("b = 2")


def replace(path: Path) -> None:
    other = path.with_name("draft~")
    other.write_text("b = 2")
    other.replace(path)


def replace_keeping_time_and_size(path: Path) -> None:
    found = path.stat()
    path.write_text("b = 2")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def delete(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("edit", [write, replace, replace_keeping_time_and_size, delete])
async def test_an_edit_is_told_however_it_is_made(news: News, toml: Path, edit: Callable[[Path], None]) -> None:
    edit(toml)
    assert await told(news) == {toml}


async def test_an_edit_before_the_first_iteration_is_told(news: News, toml: Path) -> None:
    write(toml)  # `news` was made before
    assert await told(news) == {toml}


async def test_a_new_a_changed_and_a_deleted_policy_are_told_as_their_folder(news: News, policies: Path) -> None:
    (policies / "new.toml").write_text("")
    assert await told(news) == {policies}
    write(policies / "new.toml")
    assert await told(news) == {policies}
    delete(policies / "new.toml")
    assert await told(news) == {policies}


async def test_a_folder_deleted_and_made_again_is_still_watched(news: News, policies: Path) -> None:
    shutil.rmtree(policies)
    assert await told(news) == {policies}
    policies.mkdir()
    (policies / "main.toml").write_text("a = 1")
    assert await told(news) == {policies}
    write(policies / "main.toml")
    assert await told(news) == {policies}


async def test_a_swapped_link_is_told(tmp_path: Path, toml: Path) -> None:
    link, other = tmp_path / "link.toml", tmp_path / "other.toml"
    other.write_text("a = 1")
    link.symlink_to(toml)
    async with aclosing(changes([link], look_every_s=0.01)) as news:
        draft = tmp_path / "draft"
        draft.symlink_to(other)
        draft.replace(link)
        assert await told(news) == {link}


async def test_edits_together_are_told_together(news: News, toml: Path, policies: Path) -> None:
    write(toml)
    write(policies / "main.toml")
    assert await told(news) == {toml, policies}


async def test_files_that_are_no_policy_are_not_told(news: News, toml: Path, policies: Path, tmp_path: Path) -> None:
    (policies / ".main.toml.swp").write_text("x")
    (policies / "README.md").write_text("x")
    (tmp_path / "audit.db-wal").write_text("x")
    write(toml)
    assert await told(news) == {toml}


async def test_a_file_that_is_written_all_the_time_is_still_told(news: News, toml: Path) -> None:
    async with anyio.create_task_group() as tasks:

        async def scribble() -> None:
            count = 0
            while True:
                toml.write_text(str(count := count + 1))
                await anyio.sleep(0.02)

        tasks.start_soon(scribble)
        assert await told(news) == {toml}
        tasks.cancel_scope.cancel()


async def test_watching_needs_no_thread_and_ends_when_cancelled(toml: Path) -> None:
    before = threading.active_count()
    with anyio.move_on_after(0.05) as scope:
        async for _ in changes([toml], look_every_s=0.01):
            raise AssertionError("nothing was changed")
    assert scope.cancelled_caught
    assert threading.active_count() == before
