"""Hypercorn, one connection at a time: HTTP/1.1, HTTP/2 and websockets over a stream of ours.

All that is touched of Hypercorn, whose one version is pinned, is in this file; ``wire.py`` has the
stream as Hypercorn takes it.
"""

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, cast

import h11
import trio
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from hypercorn.config import Config
from hypercorn.events import RawData
from hypercorn.logging import Logger
from hypercorn.protocol.events import Body, Data
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h2 import (
    BUFFER_HIGH_WATER,
    BUFFER_LOW_WATER,
    BufferCompleteError,
    H2Protocol,
    StreamBuffer,
)
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.protocol.ws_stream import WSStream
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import EventWrapper, WorkerContext
from hypercorn.utils import UnexpectedMessageError
from hyperframe.frame import GoAwayFrame

from meshnode.errors import leaves_of
from meshnode.logs import SubjectLogger
from meshnode.web.frames import MessageWatch
from meshnode.web.guard import MAX_HEADERS, App
from meshnode.web.identity import CONNECTION, IDLE_TIMEOUT, STREAM, Connection
from meshnode.web.leaving import GRACE, LAST_WORDS, Leaving
from meshnode.web.session import FILES
from meshnode.web.wire import SecureWire, Wire

if TYPE_CHECKING:  # OpenSSL is loaded only for who asks for TLS
    from meshnode.net.tls import TlsStream

MAX_STREAMS: Final = 100
"""Requests at a time on one connection of HTTP/2; browsers want that many."""

MAX_REQUESTS: Final = 100_000
"""Requests after which a connection is to be made anew."""

MAX_MESSAGE: Final = 1024 * 1024
"""Bytes of one message of a websocket."""

PING_INTERVAL: Final = 30.0
"""Seconds between two pings of a websocket: proxies end what is silent for a minute."""

QUEUED: Final = 4
"""Pieces of a body, of up to 64 KiB, that wait for a command to take them."""


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
        self._open: dict[Connection, TCPServer] = {}
        self._ended = trio.lowlevel.ParkingLot()
        """Wakes when one of them has ended."""

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
                _hand_on_slowly(stream)
            _bound_buffer(server.protocol.protocol, stream.stream_id)
            carrier = scope["state"][STREAM] = Stream(stream, server, wire)
            if connection.leaving.begun.is_set() and wire.is_http2():
                # Its client was told so, or is about to be, and may ask another node.
                await carrier.reset(ErrorCodes.REFUSED_STREAM)
                return
            if carrier.sends_files:
                scope["extensions"][FILES] = {}

            async def send_or_file(message: Any) -> None:
                if message["type"] == FILES:
                    await carrier.send_file(message["file"], message["offset"], message["count"])
                    return
                try:
                    await send(message)
                except (h11.LocalProtocolError, UnexpectedMessageError) as error:
                    if not isinstance(stream, WSStream):
                        raise
                    # What its client has sent before it might has ended it meanwhile.
                    raise trio.BrokenResourceError(f"the websocket has ended: {error}") from error

            await self._app(scope, receive, send_or_file)

        state: Any = {CONNECTION: connection}
        server = TCPServer(run_app, self._config, WorkerContext(None), state, wire)
        self._open[connection] = server
        wire.is_http2 = lambda: isinstance(server.protocol.protocol, H2Protocol)
        try:
            async with trio.open_nursery() as nursery:
                connection.abort = nursery.cancel_scope.cancel
                nursery.start_soon(wire.close_when_cancelled)
                nursery.start_soon(_let_go, wire, server, connection)
                if connection.leaving.begun.is_set():
                    nursery.start_soon(_say_goodbye, server, connection)
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
        finally:
            del self._open[connection]
            self._ended.unpark_all()

    async def leave(self, leaving: Leaving, nursery: trio.Nursery) -> None:
        """Have all connections end with their requests; return soon, whatever they do.

        ``nursery`` is for what their clients do not take: who reads nothing is not waited for.
        """
        for connection, server in self._open.items():
            nursery.start_soon(_say_goodbye, server, connection)
        leaving.begin()
        with trio.move_on_after(GRACE):
            await self._wait_ended()
        leaving.finish()
        with trio.move_on_after(LAST_WORDS):
            await self._wait_ended()

    async def _wait_ended(self) -> None:
        while self._open:
            await self._ended.park()


async def _say_goodbye(server: TCPServer, connection: Connection) -> None:
    """Have a connection take no more requests; close it if it has none now."""
    protocol = _protocol_of(server)
    if isinstance(protocol, H2Protocol):
        # Not by the engine, which would then let nothing more of the responses through. A client
        # that has read the last of them closes: only it knows when that is.
        last = protocol.connection.highest_inbound_stream_id
        await server.protocol_send(RawData(GoAwayFrame(0, last).serialize()))
        is_idle = not protocol.stream_buffers
    else:
        await server.context.terminated.set()
        is_idle = True
    if is_idle and not connection.requests:
        connection.abort()


def _protocol_of(server: TCPServer) -> object:
    """Return what speaks with a client; None with one that was gone before it was spoken to."""
    return server.protocol.protocol if hasattr(server, "protocol") else None


async def _let_go(wire: Wire, server: TCPServer, connection: Connection) -> None:
    """Have a connection end with its client: Hypercorn keeps one for as long as an idle one.

    Of HTTP/2 it also keeps responses for ever that wait for the client to read them.
    """
    await wire.over.wait()
    protocol = _protocol_of(server)
    if isinstance(protocol, H2Protocol):
        for buffer in list(protocol.stream_buffers.values()):
            await buffer.close()
    connection.end()


class _Buffer(StreamBuffer):
    """What waits of a response until its client grants HTTP/2 room for it.

    Hypercorn's own lets more in whenever it could send nothing: a client that grants no room would
    have all of a response in our memory.
    """

    async def push(self, data: bytes) -> None:
        """Take bytes in, and wait until there is room for more."""
        if self._complete:
            raise BufferCompleteError
        self.buffer.extend(data)
        await self._is_empty.clear()
        if len(self.buffer) >= BUFFER_HIGH_WATER:
            await self._paused.clear()
            await self._paused.wait()

    async def pop(self, max_length: int) -> bytes:
        """Take bytes out, and say when there is room."""
        data = bytes(self.buffer[:max_length])
        del self.buffer[:max_length]
        if len(self.buffer) < BUFFER_LOW_WATER:
            await self._paused.set()
        if not self.buffer:
            await self._is_empty.set()
        return data


def _bound_buffer(protocol: object, stream_id: int) -> None:
    """Have the response of a stream wait in a buffer of ours; nothing is in its own yet."""
    if isinstance(protocol, H2Protocol) and stream_id in protocol.stream_buffers:
        protocol.stream_buffers[stream_id] = _Buffer(EventWrapper)


def _hand_on_slowly(stream: WSStream) -> None:
    """Have what a websocket's client sends taken some frames at a time, and others in between."""
    watch, take = MessageWatch(), stream.handle

    async def handle(event: StreamEvent) -> None:
        if not isinstance(event, Body | Data):
            await take(event)
            return
        rest = event.data
        while rest:
            end = watch.feed(rest)
            await take(replace(event, data=rest[:end]))
            rest = rest[end:]
            if rest:
                await trio.lowlevel.checkpoint()

    stream.handle = handle  # type: ignore[method-assign]


class _Span:
    """Stands for bytes of a file where h11 asks how many there are."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count


class Stream:
    """What carries one response: see :class:`meshnode.web.identity.ResponseStream`."""

    def __init__(self, stream: HTTPStream | WSStream, server: TCPServer, wire: Wire) -> None:
        self._stream = stream
        self._server = server
        self._wire = wire

    @property
    def sends_files(self) -> bool:
        """Whether the kernel can send files for it: over HTTP/1.1, without TLS."""
        return (
            self._wire.is_plain
            and isinstance(self._stream, HTTPStream)
            and isinstance(self._server.protocol.protocol, H11Protocol)
            and self._stream.scope["method"] != "HEAD"
        )

    async def send_file(self, descriptor: int, offset: int, count: int) -> None:
        """Send exactly so many bytes of an open file as a part of the body.

        Raises:
            trio.BrokenResourceError: the client is gone, or the file ends before.
        """
        protocol = self._server.protocol.protocol
        assert isinstance(protocol, H11Protocol)
        engine = protocol.connection
        assert isinstance(engine, h11.Connection)
        body = h11.Data(data=cast("bytes", _Span(count)))
        pieces = engine.send_with_data_passthrough(body) or []
        at = next(i for i, piece in enumerate(pieces) if isinstance(piece, _Span))
        async with self._server.send_lock:
            await self._wire.send_file(
                b"".join(pieces[:at]), b"".join(pieces[at + 1 :]), descriptor, offset, count
            )

    @property
    def is_over(self) -> bool:
        """Whether the client is gone, or has reset it: what is sent then goes nowhere, at once."""
        return self._stream.closed

    async def reset(self, why: ErrorCodes = ErrorCodes.INTERNAL_ERROR) -> None:
        """Break it off. Over HTTP/1.1 the connection ends, and with it what was not whole."""
        protocol = self._server.protocol.protocol
        if not isinstance(protocol, H2Protocol):
            return
        try:
            protocol.connection.reset_stream(self._stream.stream_id, why)
        except ProtocolError:
            return  # it, or all of the connection, has ended
        await self._server.protocol_send(RawData(protocol.connection.data_to_send()))
