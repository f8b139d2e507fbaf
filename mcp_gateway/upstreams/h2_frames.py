"""HTTP/2 frames as they arrive: cut apart, and counted before anything is made of them.

The state machine behind (the `h2` library) says what frames mean; how many of them a server may send for nothing is
said here. GOAWAY never reaches it: it would take it for the end of everything, while the answers that the server has
begun still come (RFC 9113, section 6.8).

Knows nothing of streams, headers or sockets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from mcp_gateway.upstreams.wire_connection import MAX_HEAD_BYTES

HEADERS: Final = 0x1
PUSH_PROMISE: Final = 0x5
GOAWAY: Final = 0x7
CONTINUATION: Final = 0x9
END_HEADERS: Final = 0x4

MAX_FRAME_BYTES: Final = 16 * 1024
"""What RFC 9113 gives everybody who asks for no more."""

MAX_FRUITLESS: Final = 1000
FRUITLESS_S: Final = 10.0
"""How many frames may come in a row, and within what time, that bring no answer further: PING, SETTINGS, WINDOW_UPDATE,
PRIORITY, empty DATA, unknown ones, whatever comes for streams that are over."""

_HEAD_BYTES: Final = 9


class BadFrames(Exception):
    """What came is no HTTP/2, or more of it than anybody needs. The text holds nothing of what came."""


class Frame(NamedTuple):
    """One whole frame, as it came."""

    kind: int
    whole: bytes

    def last_stream(self) -> int:
        """Of a GOAWAY: the last of our streams that the server may have acted on."""
        return int.from_bytes(self.whole[_HEAD_BYTES : _HEAD_BYTES + 4], "big") & 0x7FFF_FFFF


class Frames:
    """Bytes in, whole frames out."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._rest = b""
        self._fruitless = 0
        self._counted_since = clock()
        self._head_bytes = 0
        self._is_in_head = False

    def note_progress(self) -> None:
        """What just came was an answer, or a part of one."""
        self._fruitless = 0

    def of(self, data: bytes) -> Iterator[Frame]:
        """The frames that are whole by now. Raises `BadFrames`."""
        data = self._rest + data if self._rest else data
        at, end = 0, len(data)
        self._rest = b""
        while end - at >= _HEAD_BYTES:
            size = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
            if size > MAX_FRAME_BYTES:
                raise BadFrames("sent a frame larger than it may")
            after = at + _HEAD_BYTES + size
            if after > end:
                break
            self._judge(data[at + 3], data[at + 4], size)
            yield Frame(data[at + 3], data[at:after])
            at = after
        self._rest = data[at:]

    def _judge(self, kind: int, flags: int, size: int) -> None:
        if self._is_in_head or kind in (HEADERS, PUSH_PROMISE):
            self._judge_head(kind, flags, size)
        elif kind == GOAWAY and size < 8:
            raise BadFrames("sent a frame that is none")
        self._fruitless += 1
        if self._fruitless <= MAX_FRUITLESS:
            return
        now = self._clock()
        if now - self._counted_since < FRUITLESS_S:
            raise BadFrames("sent more frames than anybody needs")
        self._fruitless, self._counted_since = 0, now

    def _judge_head(self, kind: int, flags: int, size: int) -> None:
        """Headers may come in any number of frames, of which the machine keeps all until the last has come."""
        if self._is_in_head and kind != CONTINUATION:
            raise BadFrames("sent other frames in the middle of headers")
        self._head_bytes += size + _HEAD_BYTES
        if self._head_bytes > MAX_HEAD_BYTES:
            raise BadFrames("sent more headers than anybody needs")
        self._is_in_head = not flags & END_HEADERS
        if not self._is_in_head:
            self._head_bytes = 0
