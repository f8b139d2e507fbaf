"""One HTTP/2 connection to an upstream, shared by many exchanges, bounded whatever the other side sends.

Frames in and frames out (RFC 9113), of which a client without server push needs little: headers, bodies, windows, who
may still be answered when the server goes. Compression of headers is `hpack`'s. The window of the whole connection is
opened as things come, that of a stream as its body is read: whoever does not read holds up nobody else, and holds
`WINDOW_BYTES`. What is wrong with one answer is that exchange's fault; what is wrong with the frames ends all.

Why not the h2 library: docs/decisions/0004-http-client.md. Knows nothing of pools, addresses or JSON.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Literal

from hpack import HPACKError

from mcp_gateway.upstreams import h2_fields, h2_frames
from mcp_gateway.upstreams.h2_fields import BadFields, Heads
from mcp_gateway.upstreams.h2_frames import MAX_FRAME_BYTES, BadFrames, Frame, Frames, frame, window_update
from mcp_gateway.upstreams.h2_stream import WINDOW_BYTES, Stream
from mcp_gateway.upstreams.wire import KEEPALIVE_S, Unprocessed
from mcp_gateway.upstreams.wire_connection import MAX_HEAD_BYTES, has_news

MAX_STREAMS: Final = 100
"""At once on one connection; what RFC 9113 wants servers to allow at least. A server may allow less."""

MAX_EXCHANGES: Final = 900
"""Below the 1000 after which nginx and hypercorn close a connection, the latter in the middle of answers."""

CONNECTION_WINDOW_BYTES: Final = 2**21
"""What may be under way of all bodies together; each is held back by the window of its own."""

SETTLE_S: Final = 10.0
"""For the server's first SETTINGS, which have to be the first that it says."""

MAX_UNSENT_BYTES: Final = 2**20
"""What may wait to be sent to a server that makes us answer and does not read."""

PUMP_BYTES: Final = 64 * 1024
"""Of request bodies, at one go: what the socket takes decides when more follows."""

_FIRST_WINDOW_BYTES: Final = 65535
"""Of everything, until something else is said."""

_MOST_WINDOW_BYTES: Final = 2**31 - 1

_HEADER_TABLE_SIZE, _ENABLE_PUSH, _MAX_CONCURRENT_STREAMS, _INITIAL_WINDOW_SIZE, _MAX_FRAME_SIZE, _MAX_HEAD = range(
    1, 7
)
_OUR_SETTINGS: Final = {_ENABLE_PUSH: 0, _INITIAL_WINDOW_SIZE: WINDOW_BYTES, _MAX_HEAD: MAX_HEAD_BYTES}

_PROTOCOL_ERROR: Final = 0x1
_REFUSED_STREAM: Final = 0x7
_CANCEL: Final = 0x8
_HTTP_1_1_REQUIRED: Final = 0xD

_BROKEN: Final = "broke the connection or the HTTP protocol"
_NOT_LOOKED_AT: Final = "did not take the request"


class SharedConnection(asyncio.Protocol):
    """One connection, carrying many exchanges. `on_change`: it was lost, or may take an exchange that it could not."""

    is_shared: Literal[True] = True

    def __init__(self, on_change: Callable[[SharedConnection], None]) -> None:
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._frames = Frames(self._loop.time)
        self._heads = Heads()
        self._block: list[Frame] = []
        self._to_send: list[bytes] = []
        self._next_id = 1
        self._send_window = _FIRST_WINDOW_BYTES
        self._first_send_window = _FIRST_WINDOW_BYTES
        self._streams: dict[int, Stream] = {}
        self._unsent: deque[Stream] = deque()
        self._uncredited = 0
        self._heard = 0
        self._is_made = self._is_lost = self._is_going = self._is_stuck = self._is_doubted = False
        self._will_flush = False
        self._limit = MAX_STREAMS
        self._timer: asyncio.TimerHandle | None = None
        self.is_settled = False
        """The server has said how many streams it takes."""
        self.wants_http_1 = False
        """The server has said that HTTP/1.1 is required: nothing more is asked here."""
        self.idle_since = self._loop.time()

    @property
    def is_open(self) -> bool:
        """Whether the transport would still take anything."""
        return not self._is_lost and not self._transport.is_closing()

    @property
    def has_room(self) -> bool:
        """Whether another exchange may begin here."""
        is_barred = self._is_going or self._is_stuck or self._is_doubted
        return self.is_open and not is_barred and len(self._streams) < (self._limit if self.is_settled else 1)

    @property
    def is_idle(self) -> bool:
        """Whether it carries nothing."""
        return not self._streams

    def has_news(self) -> bool:
        """See `wire_connection.has_news`."""
        return has_news(self._transport)

    def stream(self) -> Stream:
        """For one exchange, to be asked on without delay."""
        return Stream(self)

    def abort(self) -> None:
        """Close at once; what is under way fails."""
        if self._is_made:
            self._transport.abort()

    # -- for streams ---------------------------------------------------------------------------------------------------

    def begin(self, stream: Stream, block: bytes, *, has_body: bool) -> None:
        """Send a request's headers, and of its body what the server takes. Raises `Unprocessed`."""
        if not self.is_open or self._is_going:
            raise Unprocessed(_NOT_LOOKED_AT)
        if self._next_id == 1:
            block = h2_fields.NOTHING_REMEMBERED + block
        stream.id, self._next_id = self._next_id, self._next_id + 2
        stream.heard_before, stream.send_window = self._heard, self._first_send_window
        self._streams[stream.id] = stream
        self._is_going |= self._next_id > 2 * MAX_EXCHANGES  # ours are the odd numbers
        self._send(h2_frames.head_frames(stream.id, block, is_all=not has_body))
        if has_body:
            self._unsent.append(stream)

    def leave(self, stream: Stream) -> None:
        """Nobody waits for this answer any more."""
        if self._streams.pop(stream.id, None) is None:
            return
        if self.is_open:
            if self._heard == stream.heard_before:  # not a byte since: does anybody live there?
                self._is_doubted = True
                self._send(frame(h2_frames.PING, 0, 0, b"\0" * 8))
            self._reset(stream.id, _CANCEL)
        self._left()

    def credit(self, stream: Stream, size: int) -> None:
        """So much of its body was read: as much more may come."""
        if stream.id in self._streams:
            self._send(window_update(stream.id, size))

    # -- asyncio.Protocol ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._is_made = True
        self._timer = self._loop.call_later(SETTLE_S, self._look_after)
        self._send(h2_frames.PREFACE + h2_frames.settings(_OUR_SETTINGS))
        self._send(window_update(0, CONNECTION_WINDOW_BYTES - _FIRST_WINDOW_BYTES))

    def data_received(self, data: bytes) -> None:
        self._heard += 1
        self._is_doubted = False
        try:
            for one in self._frames.of(data):
                self._take(one)
        except BadFrames as e:
            self._fail(str(e))
        if self._transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            self._fail("does not read what it is sent")

    def pause_writing(self) -> None:
        self._is_stuck = True

    def resume_writing(self) -> None:
        self._is_stuck = False
        self._flush_soon()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        if self._timer is not None:
            self._timer.cancel()
        self._fail(_BROKEN)
        self._on_change(self)

    # -- what comes ----------------------------------------------------------------------------------------------------

    def _take(self, one: Frame) -> None:
        take = _TAKEN_BY.get(one.kind)
        if not self.is_settled and (one.kind != h2_frames.SETTINGS or one.flags & h2_frames.ACK):
            raise BadFrames("did not begin as HTTP/2 begins")
        if take is not None:  # unknown ones are to be ignored
            take(self, one)

    def _take_headers(self, one: Frame) -> None:
        self._block.append(one)
        if not one.flags & h2_frames.END_HEADERS:
            return
        frames, self._block = self._block, []
        stream = self._stream_of(one)
        try:
            head = self._heads.read(b"".join([each.content for each in frames]))
        except HPACKError as e:
            raise BadFrames("sent headers that cannot be decoded, or more than anybody needs") from e
        except BadFields as e:
            if stream is not None:
                self._give_up(stream, e)
            return
        if stream is not None:
            is_end = bool(frames[0].flags & h2_frames.END_STREAM)
            self._judged(stream, lambda: stream.take_head(head, is_end=is_end))
            if stream.status:
                self._frames.note_progress()

    def _take_data(self, one: Frame) -> None:
        size, content = len(one.payload), one.content
        self._uncredited += size
        if self._uncredited > CONNECTION_WINDOW_BYTES:
            raise BadFrames("sent more than it may")
        if self._uncredited >= CONNECTION_WINDOW_BYTES // 2:
            self._send(window_update(0, self._uncredited))
            self._uncredited = 0
        stream = self._stream_of(one)
        if stream is None:
            return
        stream.receive_window -= size
        if stream.receive_window < 0:
            raise BadFrames("sent more than it may")
        if content or not stream.status:
            self._frames.note_progress()
            self._judged(stream, lambda: stream.take_body(content, size - len(content)))
        if one.flags & h2_frames.END_STREAM and stream.id in self._streams:
            self._judged(stream, stream.take_end)

    def _judged(self, stream: Stream, take: Callable[[], None]) -> None:
        try:
            take()
        except BadFields as e:
            self._give_up(stream, e)
        if stream.is_over:
            self._end(stream)

    def _give_up(self, stream: Stream, error: BadFields) -> None:
        """One answer that is malformed ends that exchange; the others are not touched."""
        del self._streams[stream.id]
        stream.fail(str(error))
        self._reset(stream.id, _PROTOCOL_ERROR)
        self._left()

    def _take_reset(self, one: Frame) -> None:
        stream = self._stream_of(one)
        if stream is not None:
            del self._streams[stream.id]
            self._note_reason(one.number())
            is_refused = one.number() in (_REFUSED_STREAM, _HTTP_1_1_REQUIRED)
            stream.fail(_NOT_LOOKED_AT if is_refused else "broke off the exchange", is_unprocessed=is_refused)
            self._left()

    def _note_reason(self, code: int) -> None:
        """RFC 9113, section 7: a server may know only when it sees the request that it takes it in HTTP/1.1 alone."""
        if code == _HTTP_1_1_REQUIRED:
            self.wants_http_1 = self._is_going = True
            self._on_change(self)  # before anybody tries again

    def _take_settings(self, one: Frame) -> None:
        if one.flags & h2_frames.ACK:
            return
        if len(one.payload) % 6:
            raise BadFrames("sent a frame that is none")
        for at in range(0, len(one.payload), 6):
            self._take_setting(int.from_bytes(one.payload[at : at + 2], "big"), one.number(at + 2))
        self._send(frame(h2_frames.SETTINGS, h2_frames.ACK, 0))
        if not self.is_settled:
            self.is_settled = True
            self._wait_for_idleness()
        self._on_change(self)

    def _take_setting(self, key: int, value: int) -> None:
        if key == _MAX_CONCURRENT_STREAMS:
            self._limit = min(MAX_STREAMS, value)
        elif key == _INITIAL_WINDOW_SIZE:
            if value > _MOST_WINDOW_BYTES:
                raise BadFrames("opened a window too far")
            more, self._first_send_window = value - self._first_send_window, value
            for stream in self._streams.values():
                stream.send_window += more
        elif (key == _MAX_FRAME_SIZE and value < MAX_FRAME_BYTES) or (key == _ENABLE_PUSH and value):
            raise BadFrames("sent a setting that is none")

    def _take_push(self, one: Frame) -> None:
        raise BadFrames("sent what nobody asked for")

    def _take_ping(self, one: Frame) -> None:
        if not one.flags & h2_frames.ACK:
            self._send(frame(h2_frames.PING, h2_frames.ACK, 0, one.payload))

    def _take_going(self, one: Frame) -> None:
        """The server closes; what it has begun may still be answered."""
        self._is_going = True
        self._note_reason(one.number(4))
        last = one.number() & 0x7FFF_FFFF
        for stream_id in [stream_id for stream_id in self._streams if stream_id > last]:
            self._streams.pop(stream_id).fail(_NOT_LOOKED_AT, is_unprocessed=True)
        self._left()

    def _take_window(self, one: Frame) -> None:
        size = one.number() & 0x7FFF_FFFF
        if not size:
            raise BadFrames("opened a window by nothing")
        if not one.stream:
            self._send_window = window = self._send_window + size
        elif (stream := self._stream_of(one)) is not None:
            stream.send_window = window = stream.send_window + size
        else:
            return
        if window > _MOST_WINDOW_BYTES:
            raise BadFrames("opened a window too far")
        if self._unsent:
            self._flush_soon()

    def _stream_of(self, one: Frame) -> Stream | None:
        """Whose frame it is; None for an exchange that is over."""
        stream = self._streams.get(one.stream)
        if stream is None and (one.stream >= self._next_id or not one.stream & 1):
            raise BadFrames("answered what nobody asked")
        return stream

    # ------------------------------------------------------------------------------------------------------------------

    def _left(self) -> None:
        """An exchange is over: there is room for another, or nothing left to do."""
        if not self._streams:
            self.idle_since = self._loop.time()
            if self._is_going:
                self.abort()
                return
            if self._timer is None:
                self._wait_for_idleness()
        self._on_change(self)

    def _wait_for_idleness(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(KEEPALIVE_S, self._look_after)

    def _look_after(self) -> None:
        """Close what never said a word, or was idle for too long."""
        self._timer = None
        if not self.is_settled:
            self._fail(_BROKEN)
        elif not self._streams:  # else the last one to leave sees to it
            left_s = self.idle_since + KEEPALIVE_S - self._loop.time()
            if left_s <= 0:
                self.abort()
            else:
                self._timer = self._loop.call_later(left_s, self._look_after)

    def _end(self, stream: Stream) -> None:
        """Both sides have said all."""
        if self._streams.pop(stream.id, None) is not None:
            self._left()

    def _reset(self, stream_id: int, code: int) -> None:
        self._send(frame(h2_frames.RST_STREAM, 0, stream_id, code.to_bytes(4, "big")))

    def _fail(self, words: str) -> None:
        """Give the connection up, and all that is under way on it."""
        self._is_going = True
        streams, self._streams = list(self._streams.values()), {}
        for stream in streams:
            stream.fail(words)
        if not self._is_lost:
            self.abort()

    # -- what goes -----------------------------------------------------------------------------------------------------

    def _send(self, data: bytes) -> None:
        self._to_send.append(data)
        self._flush_soon()

    def _flush_soon(self) -> None:
        """Send in a moment, together with what others want to send by then."""
        if not self._will_flush:
            self._will_flush = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._will_flush = False
        if not self.is_open:
            return
        if self._unsent and not self._is_stuck:
            self._pump()
        if self._to_send:
            data, self._to_send = b"".join(self._to_send), []
            self._transport.write(data)

    def _pump(self) -> None:
        """Of every body in turn, what the server's windows take."""
        left, stuck = PUMP_BYTES, 0
        while stuck < len(self._unsent):
            if left <= 0:
                self._flush_soon()
                return
            stream = self._unsent.popleft()
            if stream.id not in self._streams:
                continue
            sent = self._send_of(stream)
            left -= sent
            stuck = 0 if sent else stuck + 1
            if stream.unsent:
                self._unsent.append(stream)

    def _send_of(self, stream: Stream) -> int:
        size = min(stream.send_window, self._send_window, MAX_FRAME_BYTES, len(stream.unsent))
        if size <= 0:
            return 0
        piece, stream.unsent = stream.unsent[:size], stream.unsent[size:]
        stream.send_window -= size
        self._send_window -= size
        self._frames.note_sent(size)
        self._to_send.append(frame(h2_frames.DATA, 0 if stream.unsent else h2_frames.END_STREAM, stream.id, piece))
        if stream.is_over:
            self._end(stream)
        return size


_TAKEN_BY: Final[dict[int, Callable[[SharedConnection, Frame], None]]] = {
    h2_frames.CONTINUATION: SharedConnection._take_headers,
    h2_frames.DATA: SharedConnection._take_data,
    h2_frames.GOAWAY: SharedConnection._take_going,
    h2_frames.HEADERS: SharedConnection._take_headers,
    h2_frames.PING: SharedConnection._take_ping,
    h2_frames.PUSH_PROMISE: SharedConnection._take_push,
    h2_frames.RST_STREAM: SharedConnection._take_reset,
    h2_frames.SETTINGS: SharedConnection._take_settings,
    h2_frames.WINDOW_UPDATE: SharedConnection._take_window,
}
