"""An HTTP/2 server over TLS that does exactly what a test wants, on the h2 library, or beside it in raw frames."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from tempfile import TemporaryDirectory

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
import trustme

from mcp_gateway.upstreams import over_tls
from mcp_gateway.upstreams.fast_wire import FastClient
from mcp_gateway.upstreams.wire import ALPN

Settings = dict[h2.settings.SettingCodes, int]


@cache
def _authority() -> tuple[trustme.CA, trustme.LeafCert]:
    ca = trustme.CA()
    return ca, ca.issue_cert("127.0.0.1", "localhost")


@cache
def client_tls(*, offers_h2: bool = True) -> ssl.SSLContext:
    """What `wire.shared_tls` gives, believing in the servers of tests only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _authority()[0].configure_trust(context)
    context.set_alpn_protocols([name for name in ALPN if offers_h2 or name != "h2"])
    return context


def server_tls(*protocols: str) -> ssl.SSLContext:
    """For a server that speaks these."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _authority()[1].configure_cert(context)
    context.set_alpn_protocols(list(protocols))
    return context


@asynccontextmanager
async def trusting_client(
    monkeypatch: pytest.MonkeyPatch, connect_timeout_s: float = 5, *, offers_h2: bool = True
) -> AsyncIterator[FastClient]:
    """The client towards upstreams, which trusts the servers here and no other."""
    monkeypatch.setattr(over_tls, "shared_tls", client_tls)
    client = FastClient(connect_timeout_s, offers_h2=offers_h2)
    try:
        yield client
    finally:
        await client.close()


@contextmanager
def certificate() -> Iterator[str]:
    """A file with a key and its certificate, for servers that want one."""
    with TemporaryDirectory() as folder:
        path = f"{folder}/server.pem"
        _authority()[1].private_key_and_cert_chain_pem.write_to_path(path)
        yield path


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame, whatever it may say."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def going_away(last_stream: int, code: int = 0) -> bytes:
    """A GOAWAY."""
    return frame(7, 0, 0, last_stream.to_bytes(4, "big") + code.to_bytes(4, "big"))


@dataclass
class Asked:
    """One request as it arrived, and the connection it came on."""

    peer: "Peer"
    stream: int
    headers: list[tuple[str, str]]
    body: bytes = b""

    def value(self, name: str) -> str:
        return dict(self.headers)[name]

    def answer(self, body: bytes = b"ok", *headers: tuple[str, str], status: int = 200, end: bool = True) -> None:
        """Answer it; `end`: that was all."""
        self.start(*headers, status=status)
        self.peer.send(self.stream, body, end=end)

    def start(self, *headers: tuple[str, str], status: int = 200) -> None:
        self.peer.machine.send_headers(self.stream, [(":status", str(status)), *headers])
        self.peer.flush()

    def reset(self, code: int) -> None:
        self.peer.machine.reset_stream(self.stream, code)
        self.peer.flush()


@dataclass
class Peer:
    """One connection, from the server's side."""

    served: "Served"
    machine: h2.connection.H2Connection
    writer: asyncio.StreamWriter
    resets: list[tuple[int, int]] = field(default_factory=list)
    """Streams that the client gave up, and with what code."""
    is_closed: bool = False
    pings: int = 0
    _open: dict[int, Asked] = field(default_factory=dict)
    _unsent: dict[int, tuple[bytes, bool]] = field(default_factory=dict)

    def raw(self, data: bytes) -> None:
        """Send bytes that the library knows nothing of."""
        self.writer.write(data)

    def flush(self) -> None:
        self.writer.write(self.machine.data_to_send())

    def close(self) -> None:
        self.writer.transport.abort()

    def send(self, stream: int, body: bytes, *, end: bool = True) -> None:
        """Send a body as fast as the client's windows allow."""
        while True:
            room = max(0, min(self.machine.local_flow_control_window(stream), len(body), 16384))
            piece, body = body[:room], body[room:]
            if piece or not body:
                self.machine.send_data(stream, piece, end_stream=end and not body)
            if not body or not room:
                break
        if body:
            self._unsent[stream] = (body, end)
        self.flush()

    def unsent(self, stream: int) -> int:
        """What the client's windows have not let through yet."""
        return len(self._unsent.get(stream, (b"", True))[0])

    def take(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived():
                told = [(name.decode(), value.decode()) for name, value in event.headers]
                self._open[event.stream_id] = Asked(self, event.stream_id, told)
            case h2.events.DataReceived():
                self._open[event.stream_id].body += event.data
                if self.served.reads:
                    self.machine.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.StreamEnded():
                asked = self._open[event.stream_id]
                self.served.asked.append(asked)
                self.served.answerer(asked)
            case h2.events.StreamReset():
                self.resets.append((event.stream_id, int(event.error_code)))
                self._unsent.pop(event.stream_id, None)
            case h2.events.WindowUpdated():
                for stream, (body, end) in list(self._unsent.items()):
                    del self._unsent[stream]
                    self.send(stream, body, end=end)
            case h2.events.PingReceived():
                self.pings += 1


@dataclass
class Served:
    """The server: its URL, its connections, and what it was asked."""

    answerer: Callable[[Asked], None]
    url: str = ""
    peers: list[Peer] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    plain_connections: int = 0
    """Connections on which HTTP/1.1 was chosen; every request there is answered with `one`."""
    reads: bool = True
    """Whether it opens its windows as bodies of requests come."""


async def _serve(served: Served, settings: Settings, greets: bool, streams: tuple[object, object]) -> None:
    reader, writer = streams
    assert isinstance(reader, asyncio.StreamReader)
    assert isinstance(writer, asyncio.StreamWriter)
    machine = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, validate_outbound_headers=False))
    machine.local_settings = h2.settings.Settings(client=False, initial_values=settings)
    machine.decoder.max_allowed_table_size = machine.local_settings.header_table_size
    peer = Peer(served, machine, writer)
    served.peers.append(peer)
    machine.initiate_connection()
    if greets:
        peer.flush()
    try:
        while data := await reader.read(65536):
            for event in machine.receive_data(data):
                peer.take(event)
            if greets:
                peer.flush()
    except (ConnectionError, ssl.SSLError):
        pass
    finally:
        peer.is_closed = True
        writer.transport.abort()


async def answer_plainly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer whatever is asked in HTTP/1.1, without a body, with `one`."""
    try:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\none")
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.transport.abort()


@asynccontextmanager
async def h2_serving(
    answerer: Callable[[Asked], None] = Asked.answer,
    settings: Settings | None = None,
    *,
    greets: bool = True,
    protocols: Iterable[str] = ("h2",),
) -> AsyncIterator[Served]:
    """A server on a port of its own until the block is left. `greets`: it says its SETTINGS, as it has to."""
    served = Served(answerer)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        with suppress(asyncio.CancelledError):
            chosen = writer.get_extra_info("ssl_object").selected_alpn_protocol()
            if chosen == "h2":
                await _serve(served, settings or {}, greets, (reader, writer))
            elif chosen == "http/1.1":
                served.plain_connections += 1
                await answer_plainly(reader, writer)
            else:
                writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_tls(*protocols), backlog=1024)
    served.url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp"
    try:
        yield served
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
