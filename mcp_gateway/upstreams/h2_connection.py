"""One HTTP/2 connection to an upstream, shared by many exchanges, bounded whatever the other side sends.

The `h2` library is the state machine: frames, header compression, windows. What it leaves to us stands here and in
`h2_frames`: how much may be held, what answers what, when a request was certainly not looked at, and when a connection
takes no more of them. The window of the whole connection is opened as things come, that of a stream as its body is
read: whoever does not read holds up nobody else, and holds `WINDOW_BYTES`.

Knows nothing of pools, addresses or JSON.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import h2.connection
import h2.errors
import h2.events
import h2.exceptions
from h2.config import H2Configuration
from h2.settings import SettingCodes, Settings
from hpack import HeaderTuple

from mcp_gateway.upstreams.h2_fields import BadFields
from mcp_gateway.upstreams.h2_frames import GOAWAY, MAX_FRAME_BYTES, BadFrames, Frame, Frames
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

TABLE_BYTES: Final = 4096
"""Of headers that are remembered for compression; a server may ask for any number."""

_BROKEN: Final = "broke the connection or the HTTP protocol"
_NOT_LOOKED_AT: Final = "did not take the request"


class _Silent:
    """The library formats nothing for a log that nobody keeps."""

    def debug(self, *_: object) -> None: ...

    def trace(self, *_: object) -> None: ...


class _Machine(h2.connection.H2Connection):
    MAX_CLOSED_STREAMS = 4096


def _machine() -> _Machine:
    # Headers are judged by `h2_fields`, where a malformed answer is one stream's fault and not all others' end.
    config = H2Configuration(
        header_encoding=None,
        validate_outbound_headers=False,
        normalize_outbound_headers=False,
        validate_inbound_headers=False,
        normalize_inbound_headers=False,
        logger=_Silent(),  # type: ignore[arg-type]
    )
    machine = _Machine(config)
    own = {
        SettingCodes.ENABLE_PUSH: 0,
        SettingCodes.INITIAL_WINDOW_SIZE: WINDOW_BYTES,
        SettingCodes.MAX_FRAME_SIZE: MAX_FRAME_BYTES,
        SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEAD_BYTES,
    }
    machine.local_settings = Settings(client=True, initial_values=own)
    del machine.local_settings[SettingCodes.ENABLE_CONNECT_PROTOCOL]  # only servers have that to say
    return machine


class SharedConnection(asyncio.Protocol):
    """One connection, carrying many exchanges. `on_change`: it was lost, or may take an exchange that it could not."""

    is_shared: Literal[True] = True

    def __init__(self, on_change: Callable[[SharedConnection], None]) -> None:
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._h2 = _machine()
        self._frames = Frames(self._loop.time)
        self._streams: dict[int, Stream] = {}
        self._unsent: deque[Stream] = deque()
        self._uncredited = 0
        self._heard = 0
        self._is_made = self._is_lost = self._is_going = self._is_stuck = self._is_doubted = False
        self._will_flush = False
        self._limit = 1
        self._timer: asyncio.TimerHandle | None = None
        self.is_settled = False
        """The server has said how many streams it takes."""
        self.idle_since = self._loop.time()

    @property
    def is_open(self) -> bool:
        """Whether the transport would still take anything."""
        return not self._is_lost and not self._transport.is_closing()

    @property
    def has_room(self) -> bool:
        """Whether another exchange may begin here."""
        is_barred = self._is_going or self._is_stuck or self._is_doubted
        return self.is_open and not is_barred and len(self._streams) < self._limit

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

    def begin(self, stream: Stream, fields: Sequence[HeaderTuple]) -> None:
        """Send a request's headers, and of its body what the server takes. Raises `Unprocessed`."""
        try:
            stream_id = self._h2.get_next_available_stream_id()
            self._h2.send_headers(stream_id, fields, end_stream=not stream.unsent)
        except h2.exceptions.ProtocolError as e:  # no numbers left, or closed in this very moment
            self._is_going = True
            raise Unprocessed(_NOT_LOOKED_AT) from e
        stream.id, stream.heard_before = stream_id, self._heard
        self._streams[stream_id] = stream
        self._is_going |= stream_id + 1 >= 2 * MAX_EXCHANGES  # ours are the odd numbers
        if stream.unsent:
            self._unsent.append(stream)
        self._flush_soon()

    def leave(self, stream: Stream) -> None:
        """Nobody waits for this answer any more."""
        if self._streams.pop(stream.id, None) is None:
            return
        if self.is_open:
            if self._heard == stream.heard_before:  # not a byte since: does anybody live there?
                self._is_doubted = True
                self._h2.ping(b"\0" * 8)
            self._reset(stream, h2.errors.ErrorCodes.CANCEL)
        self._left()

    def credit(self, stream: Stream, size: int) -> None:
        """So much of its body was read: as much more may come."""
        if stream.id in self._streams and self.is_open:
            self._h2.increment_flow_control_window(size, stream.id)
            self._flush_soon()

    # -- asyncio.Protocol ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._is_made = True
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(CONNECTION_WINDOW_BYTES - self._h2.inbound_flow_control_window)
        self._timer = self._loop.call_later(SETTLE_S, self._look_after)
        self._flush_soon()

    def data_received(self, data: bytes) -> None:
        self._heard += 1
        self._is_doubted = False
        try:
            for frame in self._frames.of(data):
                self._take(frame)
        except BadFrames as e:
            self._fail(str(e))
        except h2.exceptions.ProtocolError:
            self._fail(_BROKEN)
        if self._transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            self._fail("does not read what it is sent")
        self._flush_soon()

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

    def _take(self, frame: Frame) -> None:
        if frame.kind == GOAWAY:
            self._take_going(frame.last_stream())
            return
        for event in self._h2.receive_data(frame.whole):
            if (take := _TAKEN_BY.get(type(event))) is not None:
                take(self, event)

    def _take_going(self, last_stream: int) -> None:
        """The server closes; what it has begun may still be answered."""
        self._is_going = True
        for stream_id in [stream_id for stream_id in self._streams if stream_id > last_stream]:
            self._streams.pop(stream_id).fail(_NOT_LOOKED_AT, is_unprocessed=True)
        self._left()

    def _take_answer(self, event: h2.events.ResponseReceived) -> None:
        self._take_head(event, is_answer=True)
        self._frames.note_progress()

    def _take_more_head(self, event: h2.events.InformationalResponseReceived | h2.events.TrailersReceived) -> None:
        self._take_head(event, is_answer=False)

    def _take_head(self, event: Any, *, is_answer: bool) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None:
            return
        try:
            stream.take_head(event.headers, is_answer=is_answer)
        except BadFields as e:
            self._give_up(stream, str(e))

    def _take_data(self, event: h2.events.DataReceived) -> None:
        size = event.flow_controlled_length
        self._uncredited += size
        if self._uncredited >= CONNECTION_WINDOW_BYTES // 2:
            self._h2.increment_flow_control_window(self._uncredited)
            self._uncredited = 0
        stream = self._streams.get(event.stream_id)
        if stream is not None and event.data:
            self._frames.note_progress()
            stream.take_body(event.data, size - len(event.data))

    def _take_end(self, event: h2.events.StreamEnded) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is not None:
            try:
                stream.take_end()
            except BadFields as e:
                self._give_up(stream, str(e))
            if stream.is_over:
                del self._streams[stream.id]
                self._left()

    def _take_reset(self, event: h2.events.StreamReset) -> None:
        stream = self._streams.pop(event.stream_id, None)
        if stream is not None:
            is_refused = event.error_code == h2.errors.ErrorCodes.REFUSED_STREAM
            stream.fail(_NOT_LOOKED_AT if is_refused else "broke off the exchange", is_unprocessed=is_refused)
            self._left()

    def _take_settings(self, event: h2.events.RemoteSettingsChanged) -> None:
        self._limit = min(MAX_STREAMS, self._h2.remote_settings.max_concurrent_streams)
        if self._h2.encoder.header_table_size > TABLE_BYTES:
            self._h2.encoder.header_table_size = TABLE_BYTES
        if not self.is_settled:
            self.is_settled = True
            self._wait_for_idleness()
        self._on_change(self)

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

    def _give_up(self, stream: Stream, words: str) -> None:
        """One answer is malformed; the others are not touched."""
        del self._streams[stream.id]
        stream.fail(words)
        self._reset(stream, h2.errors.ErrorCodes.PROTOCOL_ERROR)
        self._left()

    def _reset(self, stream: Stream, code: h2.errors.ErrorCodes) -> None:
        try:
            self._h2.reset_stream(stream.id, code)
        except h2.exceptions.ProtocolError:  # it has just been closed by the other side
            return
        self._flush_soon()

    def _fail(self, words: str) -> None:
        """Give the connection up, and all that is under way on it."""
        self._is_going = True
        streams, self._streams = list(self._streams.values()), {}
        for stream in streams:
            stream.fail(words)
        if not self._is_lost:
            self.abort()

    # -- what goes -----------------------------------------------------------------------------------------------------

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
        if data := self._h2.data_to_send():
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
        size = min(self._h2.local_flow_control_window(stream.id), self._h2.max_outbound_frame_size, len(stream.unsent))
        size = min(size, PUMP_BYTES)
        if size <= 0:
            return 0
        piece, stream.unsent = stream.unsent[:size], stream.unsent[size:]
        self._h2.send_data(stream.id, piece, end_stream=not stream.unsent)
        if stream.is_over:
            del self._streams[stream.id]
            self._left()
        return size


_TAKEN_BY: Final[dict[type[h2.events.Event], Callable[[SharedConnection, Any], None]]] = {
    h2.events.DataReceived: SharedConnection._take_data,
    h2.events.InformationalResponseReceived: SharedConnection._take_more_head,
    h2.events.RemoteSettingsChanged: SharedConnection._take_settings,
    h2.events.ResponseReceived: SharedConnection._take_answer,
    h2.events.StreamEnded: SharedConnection._take_end,
    h2.events.StreamReset: SharedConnection._take_reset,
    h2.events.TrailersReceived: SharedConnection._take_more_head,
}
