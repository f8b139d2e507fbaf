"""News of edits to servers.toml and policies/: which of the watched paths changed.

It looks, a few times a second, at the time stamps, size and inode of each file. That costs a few stat calls, and sees
what kernel notifications miss: editors that replace the file, folders deleted and made again, Kubernetes' symlink
swaps, network and container mounts. It needs no thread and is not woken by the audit that is written next to
servers.toml. Says nothing about what the change was; the reader finds out.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import anyio

LOOK_EVERY_S: Final = 0.25
SETTLED_AFTER_S: Final = 0.1
"""How long nothing must move before a change is told: an editor's or a checkout's writes come as one."""
SETTLED_AT_MOST_S: Final = 2.0
"""When a change is told although writing goes on."""
WATCHED_SUFFIX: Final = ".toml"

_Stamp = tuple[int, int, int, int]
_Look = Mapping[Path, Mapping[str, _Stamp]]


def changes(paths: Sequence[Path], look_every_s: float = LOOK_EVERY_S) -> AsyncGenerator[frozenset[Path], None]:
    """The members of `paths` that changed, each time some did; endless, ends by being cancelled or closed.

    A path may be a file, or a folder of which the `*.toml` files count; neither has to exist yet. Changes count from
    this call on, not from the first iteration: call it, then read the files, and no edit falls between.
    """
    return _changes_since(_look(paths), paths, look_every_s)


async def _changes_since(
    seen: _Look, paths: Sequence[Path], look_every_s: float
) -> AsyncGenerator[frozenset[Path], None]:
    while True:
        now = _look(paths)
        if now != seen:
            # A write in the same clock tick as the last one seen leaves no mark; whoever reads the file after the
            # wait reads that one too.
            now = await _settled(now, paths)
            changed = frozenset(path for path in paths if now[path] != seen[path])
            seen = now
            if changed:
                yield changed
        await anyio.sleep(look_every_s)


async def _settled(now: _Look, paths: Sequence[Path]) -> _Look:
    with anyio.move_on_after(SETTLED_AT_MOST_S):
        while True:
            await anyio.sleep(SETTLED_AFTER_S)
            before, now = now, _look(paths)
            if before == now:
                break
    return now


def _look(paths: Sequence[Path]) -> _Look:
    return {path: dict(_stamps(path)) for path in paths}


def _stamps(path: Path) -> Iterator[tuple[str, _Stamp]]:
    """The stamps of a file, or of the `*.toml` files in a folder; nothing where there is nothing to see."""
    try:
        if not path.is_dir():
            yield path.name, _stamp(path.stat())
            return
        with os.scandir(path) as entries:
            names = [entry.name for entry in entries if entry.name.endswith(WATCHED_SUFFIX)]
    except OSError:
        return
    for name in names:
        try:
            yield name, _stamp((path / name).stat())
        except OSError:  # deleted since, or a dangling link
            yield name, (0, 0, 0, 0)


def _stamp(found: os.stat_result) -> _Stamp:
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
