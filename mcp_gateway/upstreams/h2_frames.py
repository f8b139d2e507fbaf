"""HTTP/2 frames (RFC 9113, section 4 and 6): cut out of what arrives and counted, and put together to be sent.

How many a server may send for nothing is said here; what they mean, in `h2_connection`.

Knows nothing of streams, headers or sockets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from mcp_gateway.upstreams.wire_connection import MAX_HEAD_BYTES

DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
WITH_PRIORITY: Final = 0x20

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

MAX_FRAME_BYTES: Final = 16 * 1024
"""What everybody gets who asks for no more."""

MAX_FRUITLESS: Final = 1000
FRUITLESS_S: Final = 10.0
"""How many frames may come in a row, and within what time, that bring no answer further: PING, SETTINGS, WINDOW_UPDATE,
PRIORITY, empty DATA, unknown ones, whatever comes for streams that are over."""

WORTH_A_FRAME_BYTES: Final = 64
"""Of a request's body that a server took: it may have opened two windows a few times for that."""

_HEAD_BYTES: Final = 9
_SIZES: Final = {PRIORITY: 5, RST_STREAM: 4, PING: 8, WINDOW_UPDATE: 4}
_NOT_OF_STREAMS: Final = frozenset({SETTINGS, PING, GOAWAY})
_OF_STREAMS: Final = frozenset({DATA, HEADERS, PRIORITY, RST_STREAM, PUSH_PROMISE, CONTINUATION})


class BadFrames(Exception):
    """What came is no HTTP/2, or more of it than anybody needs. The text holds nothing of what came."""


class Frame(NamedTuple):
    """One whole frame."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def content(self) -> bytes:
        """What a DATA or HEADERS frame brings, without padding and priority. Raises `BadFrames`."""
        flags = self.flags if self.kind == HEADERS else self.flags & PADDED
        if not flags & (PADDED | WITH_PRIORITY):
            return self.payload
        padding = self.payload[0] if flags & PADDED and self.payload else 0
        start = (1 if flags & PADDED else 0) + (5 if flags & WITH_PRIORITY else 0)
        if start + padding > len(self.payload):
            raise BadFrames("sent a frame that is none")
        return self.payload[start : len(self.payload) - padding]

    def number(self, at: int = 0) -> int:
        """Four bytes of it, as a number."""
        return int.from_bytes(self.payload[at : at + 4], "big")


class Frames:
    """Bytes in, whole frames out."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._rest = b""
        self._fruitless = 0
        self._counted_since = clock()
        self._head_bytes = 0
        self._head_of = 0

    def note_progress(self) -> None:
        """What just came was an answer, or a part of one."""
        self._fruitless = 0

    def note_sent(self, size: int) -> None:
        """So much of a request's body was let through: whoever opens windows by a few bytes earns nothing by it."""
        self._fruitless = max(self._fruitless - size // WORTH_A_FRAME_BYTES, 0)

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
            stream = int.from_bytes(data[at + 5 : at + 9], "big") & 0x7FFF_FFFF
            frame = Frame(data[at + 3], data[at + 4], stream, data[at + _HEAD_BYTES : after])
            self._judge(frame, size)
            yield frame
            at = after
        self._rest = data[at:]

    def _judge(self, frame: Frame, size: int) -> None:
        kind = frame.kind
        if self._head_of or kind in (HEADERS, CONTINUATION):
            self._judge_head(frame, size)
        if _SIZES.get(kind, size) != size or (kind == GOAWAY and size < 8):
            raise BadFrames("sent a frame that is none")
        if (kind in _OF_STREAMS and not frame.stream) or (kind in _NOT_OF_STREAMS and frame.stream):
            raise BadFrames("sent a frame where it does not belong")
        self._fruitless += 1
        if self._fruitless <= MAX_FRUITLESS:
            return
        now = self._clock()
        if now - self._counted_since < FRUITLESS_S:
            raise BadFrames("sent more frames than anybody needs")
        self._fruitless, self._counted_since = 0, now

    def _judge_head(self, frame: Frame, size: int) -> None:
        """Headers may come in any number of frames, with nothing in between, and are kept until the last has come."""
        is_next = frame.kind == CONTINUATION and frame.stream == self._head_of
        if not is_next and (self._head_of or frame.kind == CONTINUATION):
            raise BadFrames("sent other frames in the middle of headers")
        self._head_bytes += size + _HEAD_BYTES
        if self._head_bytes > MAX_HEAD_BYTES:
            raise BadFrames("sent more headers than anybody needs")
        self._head_of = frame.stream
        if frame.flags & END_HEADERS:
            self._head_of = self._head_bytes = 0


def frame(kind: int, flags: int, stream: int, payload: bytes | memoryview = b"") -> bytes:
    """One frame, to be sent."""
    size = len(payload)
    head = b"%c%c%c%c%c%b" % (
        size >> 16,
        size >> 8 & 0xFF,
        size & 0xFF,
        kind,
        flags,
        stream.to_bytes(4, "big"),
    )
    return b"".join((head, payload))


def settings(values: dict[int, int]) -> bytes:
    """A SETTINGS frame, to be sent."""
    pairs = [key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in values.items()]
    return frame(SETTINGS, 0, 0, b"".join(pairs))


def window_update(stream: int, size: int) -> bytes:
    """A WINDOW_UPDATE, to be sent: so much more may come."""
    return frame(WINDOW_UPDATE, 0, stream, size.to_bytes(4, "big"))


def head_frames(stream: int, block: bytes, *, is_all: bool) -> bytes:
    """A request's headers, to be sent. `is_all`: no body follows."""
    flags = END_STREAM if is_all else 0
    if len(block) <= MAX_FRAME_BYTES:
        return frame(HEADERS, flags | END_HEADERS, stream, block)
    pieces = [block[at : at + MAX_FRAME_BYTES] for at in range(0, len(block), MAX_FRAME_BYTES)]
    first, *middle, last = pieces
    return b"".join(
        [
            frame(HEADERS, flags, stream, first),
            *(frame(CONTINUATION, 0, stream, piece) for piece in middle),
            frame(CONTINUATION, END_HEADERS, stream, last),
        ]
    )
