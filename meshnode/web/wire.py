"""Hypercorn over our own streams: one connection, from its first byte to its last.

Everything that is touched of Hypercorn, whose one version is pinned, is in this file. Its bounds
are ours: how long headers may take to come, how long a client may read nothing, how many frames it
may send for nothing.
"""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import trio
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from hypercorn.config import Config
from hypercorn.events import RawData
from hypercorn.logging import Logger
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.protocol.ws_stream import WSStream
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext

from meshnode.errors import leaves_of
from meshnode.logs import SubjectLogger
from meshnode.net.sockets import bare
from meshnode.web.frames import FrameWatch, TooManyFrames
from meshnode.web.guard import SAFE_HEADERS, App
from meshnode.web.identity import CONNECTION, IDLE_TIMEOUT, STREAM, Connection
from meshnode.web.problems import MALFORMED, MEDIA_TYPE, TOO_LARGE, Kind, Problem, encode

if TYPE_CHECKING:  # OpenSSL is loaded only for who asks for TLS
    from meshnode.net.tls import TlsStream

MAX_HEADERS: Final = 32 * 1024
"""Bytes of the request line and headers together."""

MAX_STREAMS: Final = 100
"""Requests at a time on one connection of HTTP/2; browsers want that many."""

MAX_REQUESTS: Final = 100_000
"""Requests after which a connection is to be made anew."""

MAX_MESSAGE: Final = 1024 * 1024
"""Bytes of one message of a websocket."""

PING_INTERVAL: Final = 30.0
"""Seconds between two pings of a websocket: proxies end what is silent for a minute."""

PROTOCOLS: Final = (b"h2", b"http/1.1")
"""What is spoken over TLS, best first."""

QUEUED: Final = 4
"""Pieces of a body, of up to 64 KiB, that wait for a command to take them."""

HEADER_TIMEOUT: Final = 20.0
"""Seconds from the first byte of a request until its headers are there: a client sends them at
once."""

SEND_TIMEOUT: Final = 600.0
"""Seconds in which a client must take the next piece; people stop output with a pager."""

LINGER_TIMEOUT: Final = 2.0
"""Seconds for which a connection that closes reads and drops what still comes. A socket that is
closed with bytes unread is reset, and the client would lose the response."""

UNREADABLE: Final[Mapping[HTTPStatus, tuple[Kind, str]]] = MappingProxyType(
    {
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: (
            TOO_LARGE,
            f"a request has at most {MAX_HEADERS // 1024} KiB of headers",
        ),
        HTTPStatus.NOT_IMPLEMENTED: (MALFORMED, "a body has a length, or comes in chunks"),
    }
)
"""What Hypercorn says to requests that it cannot read, in our words."""

CHUNK: Final = 64 * 1024
"""Bytes read at a time of what is dropped, and sent at a time."""


class _Quiet(Logger):
    """What Hypercorn has to say goes to our log; requests are logged by whoever refuses them."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.access_logger = None
        self.error_logger = logging.getLogger("meshnode.http")


def hypercorn_config() -> Config:
    """Return how Hypercorn is to serve connections."""
    config = Config()
    config.logger_class = _Quiet
    config.errorlog = None
    config.include_server_header = False
    config.h11_max_incomplete_size = MAX_HEADERS
    config.h2_max_header_list_size = MAX_HEADERS
    config.h2_max_concurrent_streams = MAX_STREAMS
    config.keep_alive_timeout = IDLE_TIMEOUT
    config.keep_alive_max_requests = MAX_REQUESTS
    config.max_app_queue_size = QUEUED
    config.websocket_max_message_size = MAX_MESSAGE
    config.websocket_ping_interval = PING_INTERVAL
    return config


class Server:
    """Serves the connections of one HTTP service with an application."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._config = hypercorn_config()
        self._context = WorkerContext(None)

    async def serve(
        self,
        stream: "trio.SocketStream | TlsStream",
        connection: Connection,
        log: SubjectLogger,
    ) -> None:
        """Serve one connection to its end."""
        is_plain = isinstance(stream, trio.SocketStream)
        wire: Any = (Wire if is_plain else SecureWire)(stream, connection, log)  # type: ignore[arg-type]

        async def run_app(
            scope: Any, receive: Any, send: Any, sync_spawn: object, call_soon: object
        ) -> None:
            stream = send.__self__
            if isinstance(stream, WSStream):
                # What is compressed can be a thousand times as long, all of it at once.
                stream.handshake.extensions = None
            scope["state"][STREAM] = Stream(stream, server)
            await self._app(scope, receive, send)

        state: Any = {CONNECTION: connection}
        server = TCPServer(run_app, self._config, self._context, state, wire)
        try:
            async with trio.open_nursery() as nursery:
                connection.abort = nursery.cancel_scope.cancel
                nursery.start_soon(wire.close_when_cancelled)
                nursery.start_soon(_let_go, wire, server, connection)
                await server.run()
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            # What comes here has passed the guard, so it is Hypercorn's, which stumbles over frames
            # for a stream that is answered, and over odd bytes in headers.
            faults = [fault for fault in leaves_of(group) if isinstance(fault, Exception)]
            if not faults or any(not isinstance(fault, Exception) for fault in leaves_of(group)):
                raise
            log.info("%s broke off: %r", connection.client, faults[0])
            log.debug("where it broke off", exc_info=faults[0])


async def _let_go(wire: "Wire", server: TCPServer, connection: Connection) -> None:
    """Have a connection end with its client: Hypercorn keeps one for as long as an idle one.

    Of HTTP/2 it also keeps responses for ever that wait for the client to read them.
    """
    await wire.over.wait()
    protocol = server.protocol.protocol
    if isinstance(protocol, H2Protocol):
        for buffer in list(protocol.stream_buffers.values()):
            await buffer.close()
    connection.end()


class Stream:
    """What carries one response: see :class:`meshnode.web.identity.ResponseStream`."""

    def __init__(self, stream: HTTPStream | WSStream, server: TCPServer) -> None:
        self._stream = stream
        self._server = server

    @property
    def is_over(self) -> bool:
        """Whether the client is gone, or has reset it: what is sent then goes nowhere, at once."""
        return self._stream.closed

    async def reset(self) -> None:
        """Break it off. Over HTTP/1.1 the connection ends, and with it what was not whole."""
        protocol = self._server.protocol.protocol
        if not isinstance(protocol, H2Protocol):
            return
        try:
            protocol.connection.reset_stream(self._stream.stream_id, ErrorCodes.INTERNAL_ERROR)
        except ProtocolError:
            return  # it, or all of the connection, has ended
        await self._server.protocol_send(RawData(protocol.connection.data_to_send()))


class Wire:
    """A stream as Hypercorn takes it, with bounds of time for who does not read or write."""

    def __init__(
        self, stream: "trio.SocketStream | TlsStream", connection: Connection, log: SubjectLogger
    ) -> None:
        self._stream = stream
        transport = bare(stream)
        assert isinstance(transport, trio.SocketStream)
        self.socket = transport.socket
        self._connection = connection
        self._log = log
        self.over = trio.Event()
        """Set when nothing more comes, or goes."""
        self._sending = trio.Lock()
        self._reading = trio.CancelScope()
        self._closing = False
        self._frames: FrameWatch | None = None
        self._served = 0
        """Requests that had begun when the bytes of another one were first seen."""
        self._deadline = float("inf")
        """When the headers of that one must be there."""

    async def close_when_cancelled(self) -> None:
        """Close at once when cancelled: Hypercorn does not let go of what it is sending."""
        try:
            await trio.sleep_forever()
        finally:
            self._closing = True
            self.socket.close()

    async def send_all(self, data: bytes) -> None:
        """Send, within a time for each piece. Raises BrokenResourceError."""
        if not self._connection.requests and data.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5")):
            data = self._in_our_words(data)
        async with self._sending:
            for start in range(0, len(data), CHUNK):
                with trio.move_on_after(SEND_TIMEOUT) as sending:
                    await self._stream.send_all(memoryview(data)[start : start + CHUNK])
                if sending.cancelled_caught:
                    self._refuse(f"it has read nothing for {SEND_TIMEOUT:g} s")
                    self.socket.close()
                    raise trio.BrokenResourceError

    async def receive_some(self, max_bytes: int) -> bytes:
        """Return what has come, nothing at the end of the connection."""
        try:
            data = await self._receive(max_bytes)
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            data = b""
        if not data and not self._closing:
            self.over.set()
        return data

    async def _receive(self, max_bytes: int) -> bytes:
        if self._closing:
            raise trio.ClosedResourceError
        self._reading = trio.CancelScope(deadline=self._when_headers_must_be_there())
        with self._reading:
            data = bytes(await self._stream.receive_some(max_bytes))
            self._note(data)
            return data
        if not self._closing:
            self._refuse(f"its headers were not there within {HEADER_TIMEOUT:g} s")
        raise trio.ClosedResourceError

    def _when_headers_must_be_there(self) -> float:
        if self._connection.requests or self._connection.served != self._served:
            self._deadline = float("inf")
        return self._deadline

    def _note(self, data: bytes) -> None:
        """Look at what has come. Raises ClosedResourceError if it is too much."""
        if self._frames is not None:
            try:
                self._frames.feed(data, trio.current_time())
            except TooManyFrames as error:
                self._refuse(str(error))
                raise trio.ClosedResourceError from None
        elif data.startswith(b"PRI * HTTP/2.0") and not self._connection.served:
            # Without TLS, by a client that knows: a tool, or a proxy.
            self._frames = FrameWatch(trio.current_time())
            self._note(data)
        elif self._deadline == float("inf") and not self._connection.requests:
            self._served = self._connection.served
            self._deadline = trio.current_time() + HEADER_TIMEOUT

    def _in_our_words(self, data: bytes) -> bytes:
        """Return our own response to a request that has reached nobody, and log it."""
        status = HTTPStatus(int(data[9:12]))
        kind, why = UNREADABLE.get(status, (MALFORMED, "it is no request of HTTP"))
        self._refuse(why)
        content = encode(Problem(kind, why), status)
        headers = (
            ("content-type", MEDIA_TYPE),
            ("content-length", str(len(content))),
            ("connection", "close"),
            ("cache-control", "no-store"),
            *SAFE_HEADERS,
        )
        head = f"HTTP/1.1 {int(status)} \r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers)
        return head.encode() + b"\r\n" + content

    def _refuse(self, why: str) -> None:
        self._log.warning("refused %s: %s", self._connection.client, why)

    async def send_eof(self) -> None:
        """Say that nothing more comes. Raises BusyResourceError while something is being sent."""
        if self._sending.locked():
            raise trio.BusyResourceError("something is being sent")
        async with self._sending:
            await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close, once the client has had the time to read what was sent."""
        if self._closing:
            return
        self._closing = True
        self._reading.cancel()
        with trio.move_on_after(LINGER_TIMEOUT):
            await trio.lowlevel.checkpoint()
            try:
                while await self._stream.receive_some(CHUNK):
                    pass
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
        await self._stream.aclose()
        self.over.set()


class SecureWire(Wire):
    """The same over TLS, as Hypercorn takes that: the handshake is done already."""

    def __init__(self, stream: "TlsStream", connection: Connection, log: SubjectLogger) -> None:
        super().__init__(stream, connection, log)
        self.transport_stream = stream.transport
        self._agreed = stream.protocol.decode("ascii")
        if self._agreed == "h2":
            self._frames = FrameWatch(trio.current_time())

    async def do_handshake(self) -> None:
        """Do nothing."""
        await trio.lowlevel.checkpoint()

    def selected_alpn_protocol(self) -> str:
        """Return which HTTP was agreed on."""
        return self._agreed or "http/1.1"
