"""Hypercorn over our own streams: one connection, from its first byte to its last.

Everything that is touched of Hypercorn, whose one version is pinned, is in this file.
"""

import logging
from typing import TYPE_CHECKING, Any, Final, cast

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.logging import Logger
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext

from meshnode.net.sockets import bare
from meshnode.web.guard import App
from meshnode.web.identity import CONNECTION, IDLE_TIMEOUT, Connection

if TYPE_CHECKING:  # OpenSSL is loaded only for who asks for TLS
    from meshnode.net.tls import TlsStream

MAX_HEADERS: Final = 32 * 1024
"""Bytes of the request line and headers together."""

MAX_STREAMS: Final = 100
"""Requests at a time on one connection of HTTP/2; browsers want that many."""

MAX_REQUESTS: Final = 100_000
"""Requests after which a connection is to be made anew."""

PROTOCOLS: Final = (b"h2", b"http/1.1")
"""What is spoken over TLS, best first."""

QUEUED: Final = 4
"""Pieces of a body, of up to 64 KiB, that wait for a command to take them."""

SEND_TIMEOUT: Final = 600.0
"""Seconds in which a client must take the next piece; people stop output with a pager."""

LINGER_TIMEOUT: Final = 2.0
"""Seconds for which a connection that closes reads and drops what still comes. A socket that is
closed with bytes unread is reset, and the client would lose the response."""

CHUNK: Final = 64 * 1024
"""Bytes read at a time of what is dropped."""


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
    config.websocket_max_message_size = 1024 * 1024
    return config


class Server:
    """Serves the connections of one HTTP service with an application."""

    def __init__(self, app: App) -> None:
        self._app = ASGIWrapper(cast("Any", app))
        self._config = hypercorn_config()
        self._context = WorkerContext(None)

    async def serve(self, stream: "trio.SocketStream | TlsStream", connection: Connection) -> None:
        """Serve one connection to its end."""
        wire: Any = Wire(stream) if isinstance(stream, trio.SocketStream) else SecureWire(stream)
        state: Any = {CONNECTION: connection}
        server = TCPServer(self._app, self._config, self._context, state, wire)
        async with trio.open_nursery() as nursery:
            connection.abort = nursery.cancel_scope.cancel
            nursery.start_soon(wire.close_when_cancelled)
            await server.run()
            nursery.cancel_scope.cancel()


class Wire:
    """A stream as Hypercorn takes it, with bounds of time for who does not read."""

    def __init__(self, stream: "trio.SocketStream | TlsStream") -> None:
        self._stream = stream
        transport = bare(stream)
        assert isinstance(transport, trio.SocketStream)
        self.socket = transport.socket
        self._reading = trio.CancelScope()
        self._closing = False

    async def close_when_cancelled(self) -> None:
        """Close at once when cancelled: Hypercorn does not let go of what it is sending."""
        try:
            await trio.sleep_forever()
        finally:
            self._closing = True
            self.socket.close()

    async def send_all(self, data: bytes) -> None:
        """Send, within a time for each piece. Raises BrokenResourceError."""
        for start in range(0, len(data), CHUNK):
            with trio.move_on_after(SEND_TIMEOUT) as sending:
                await self._stream.send_all(memoryview(data)[start : start + CHUNK])
            if sending.cancelled_caught:
                self.socket.close()
                raise trio.BrokenResourceError(f"the client read nothing for {SEND_TIMEOUT:g} s")

    async def receive_some(self, max_bytes: int) -> bytes:
        """Return what has come. Raises ClosedResourceError once the connection closes."""
        if self._closing:
            raise trio.ClosedResourceError
        with trio.CancelScope() as self._reading:
            return bytes(await self._stream.receive_some(max_bytes))
        raise trio.ClosedResourceError

    async def send_eof(self) -> None:
        """Say that nothing more comes."""
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


class SecureWire(Wire):
    """The same over TLS, as Hypercorn takes that: the handshake is done already."""

    def __init__(self, stream: "TlsStream") -> None:
        super().__init__(stream)
        self.transport_stream = stream.transport
        self._agreed = stream.protocol.decode("ascii")

    async def do_handshake(self) -> None:
        """Do nothing."""
        await trio.lowlevel.checkpoint()

    def selected_alpn_protocol(self) -> str:
        """Return which HTTP was agreed on."""
        return self._agreed or "http/1.1"
