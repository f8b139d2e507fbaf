"""Text files of other programs: read in whatever encoding they are in, and written back in the same one.

A byte order mark, UTF-16, line ends, the file's mode and a symlink on the way all survive an edit. What is written
replaces the file in one step, so that a program that reads it meanwhile sees the old or the new one. A file that its
owner made read-only is refused, whoever we are.
"""

from __future__ import annotations

import codecs
import os
import secrets
import stat
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from mcp_gateway.errors import Complaint, ConfigInvalid

MAX_BYTES: Final = 64 * 1024 * 1024

_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16's, which is its beginning
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


class FileCode(StrEnum):
    """What can be wrong with a file of another program."""

    UNREADABLE = "GW-FILE-UNREADABLE"
    ENCODING = "GW-FILE-ENCODING"
    SYNTAX = "GW-FILE-SYNTAX"
    SHAPE = "GW-FILE-SHAPE"
    READ_ONLY = "GW-FILE-READ-ONLY"
    UNWRITABLE = "GW-FILE-UNWRITABLE"


@dataclass(frozen=True, slots=True)
class TextFile:
    """One file as it was read."""

    path: Path
    data: bytes
    text: str
    encoding: str = "utf-8"
    mark: bytes = b""
    """Its byte order mark."""

    @property
    def newline(self) -> str:
        """How its lines end; what is added to it ends the same way."""
        return "\r\n" if "\r\n" in self.text else "\n"

    def encoded(self, text: str) -> bytes:
        """Another text as this file would hold it."""
        return self.mark + text.encode(self.encoding)


def refusal(path: Path, line: int, message: str, fix: str, code: str) -> ConfigInvalid:
    """The error about one file."""
    return ConfigInvalid([Complaint(str(path), line, message, fix, code)])


def read(path: Path) -> TextFile | None:
    """The file, or None where there is none. Raises `ConfigInvalid` where it cannot be read or is no text."""
    try:
        if not path.is_file():
            if path.exists() or path.is_symlink():
                raise refusal(path, 0, "is not a regular file", "correct the link, or remove it", FileCode.UNREADABLE)
            return None
        if path.stat().st_size > MAX_BYTES:
            raise refusal(path, 0, f"is larger than {MAX_BYTES} bytes", "is it the right file?", FileCode.UNREADABLE)
        return decoded(path, path.read_bytes())
    except OSError as e:
        fix = f"chmod u+r {path}" if isinstance(e, PermissionError) else "correct the path"
        raise refusal(path, 0, f"cannot be read: {e.strerror}", fix, FileCode.UNREADABLE) from e


def decoded(path: Path, data: bytes) -> TextFile:
    """`data` as text. Raises `ConfigInvalid` where it is in no encoding we know."""
    mark, encoding = next(((m, e) for m, e in _MARKS if data.startswith(m)), (b"", _encoding_without_mark(data)))
    try:
        return TextFile(path, data, data[len(mark) :].decode(encoding), encoding, mark)
    except UnicodeDecodeError as e:
        line = data[: e.start].count(b"\n") + 1
        fix = "save it as UTF-8"
        # `from None`: the decoding error carries the file's bytes.
        raise refusal(path, line, f"is not {encoding.upper()} text", fix, FileCode.ENCODING) from None


def check_writable(path: Path) -> None:
    """Raises `ConfigInvalid` for a file that its owner made read-only, also where we could write it all the same."""
    target = path.resolve()
    if not target.exists():
        return
    if not stat.S_IMODE(target.stat().st_mode) & 0o222 or not os.access(target, os.W_OK):
        raise refusal(path, 0, "is read-only", f"chmod u+w {target}", FileCode.READ_ONLY)


def write(path: Path, data: bytes) -> None:
    """Put `data` in the place of `path` (of what it links to) in one step, with the mode the file has.

    A new file is for its owner alone (0600). Raises `ConfigInvalid` where that is not possible.
    """
    check_writable(path)
    target = path.resolve()
    draft = target.with_name(f".{target.name}.{secrets.token_hex(6)}")
    try:
        mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o600
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.chmod(mode)
        draft.replace(target)
    except OSError as e:
        fix = f"make {target.parent} writable for you"
        raise refusal(path, 0, f"cannot be written: {e.strerror}", fix, FileCode.UNWRITABLE) from e
    finally:
        with suppress(OSError):
            draft.unlink()


def create(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a new file; one that is there already is never touched. Raises `ConfigInvalid`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:  # noqa: PTH123
            file.write(text)
    except FileExistsError as e:
        raise refusal(path, 0, "is there already", "move it away first", FileCode.UNWRITABLE) from e
    except OSError as e:
        fix = f"make {path.parent} writable for you"
        raise refusal(path, 0, f"cannot be written: {e.strerror}", fix, FileCode.UNWRITABLE) from e


def _encoding_without_mark(data: bytes) -> str:
    """JSON and TOML begin with an ASCII character (RFC 4627 section 3): where its zero byte is, tells UTF-16."""
    if data[:1] == b"\0" and data[1:2] not in (b"\0", b""):
        return "utf-16-be"
    if data[1:2] == b"\0" and data[:1] not in (b"\0", b""):
        return "utf-16-le"
    return "utf-8"
