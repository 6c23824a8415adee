"""A connection's bytes as Hypercorn takes them, with bounds of ours: how long headers may take to
come, how long a client may read nothing, how many frames it may send for nothing.
"""

from collections.abc import Callable, Mapping
from http import HTTPStatus
from math import inf
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import trio

from meshnode.logs import SubjectLogger
from meshnode.net.sendfile import BareSocket, read_part
from meshnode.net.sockets import bare
from meshnode.web.frames import FrameWatch, TooManyFrames
from meshnode.web.guard import SAFE_HEADERS, SEND_TIMEOUT, TOO_LONG
from meshnode.web.identity import Connection
from meshnode.web.problems import MALFORMED, MEDIA_TYPE, TOO_LARGE, Kind, Problem, encode

if TYPE_CHECKING:  # OpenSSL is loaded only for who asks for TLS
    from meshnode.net.tls import TlsStream

PROTOCOLS: Final = (b"h2", b"http/1.1")
"""What is spoken over TLS, best first."""

HTTP2_BEGINS: Final = b"PRI * HTTP/2.0"
"""What is said first by a client that knows that HTTP/2 is spoken here."""

HEADER_TIMEOUT: Final = 20.0
"""Seconds from the first byte of a request until its headers are there: a client sends them at
once."""

ANSWER_TIMEOUT: Final = 2.0
"""Seconds in which a request is still answered whose client says that it sends nothing more: most
such clients are gone."""

LINGER_TIMEOUT: Final = 2.0
"""Seconds for which a connection that closes reads and drops what still comes. A socket that is
closed with bytes unread is reset, and the client would lose the response."""

UNREADABLE: Final[Mapping[HTTPStatus, tuple[Kind, str]]] = MappingProxyType(
    {
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: (TOO_LARGE, TOO_LONG),
        HTTPStatus.NOT_IMPLEMENTED: (MALFORMED, "a body has a length, or comes in chunks"),
    }
)
"""What Hypercorn says to requests that it cannot read, in our words."""

MARK: Final = SAFE_HEADERS[0][0].encode()
"""What stands in the head of each response of ours, and in none of Hypercorn's own."""

CHUNK: Final = 64 * 1024
"""Bytes read at a time of what is dropped, and sent at a time."""


def last_response(problem: Problem, status: HTTPStatus) -> bytes:
    """Return the last response of a connection of HTTP/1.1, to what has reached no route."""
    content = encode(problem, status)
    headers = (
        ("content-type", MEDIA_TYPE),
        ("content-length", str(len(content))),
        ("connection", "close"),
        ("cache-control", "no-store"),
        *SAFE_HEADERS,
        *((name, said) for name, said in problem.headers.items() if isinstance(said, str)),
    )
    head = f"HTTP/1.1 {int(status)} \r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers)
    return head.encode() + b"\r\n" + content


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
        self._bare = BareSocket.of(stream, SEND_TIMEOUT)
        self._sending = trio.Lock()
        self._reading = trio.CancelScope()
        self._closing = False
        self._frames: FrameWatch | None = None
        self._rest = b""
        """What has come and is not handed on yet, of a client that sends very many frames."""
        self.is_http2: Callable[[], bool] = lambda: False
        """Whether Hypercorn has come to speak HTTP/2: it is asked for it in several ways."""
        self._first = b""
        """The first bytes, for as long as they may become those of HTTP/2."""
        self._may_begin = True
        self._served = 0
        """Requests that had begun when the bytes of another one were first seen."""
        self._deadline = inf
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
        if data.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5")) and MARK not in data:
            data = self._in_our_words(data)
        if self._frames is not None:
            self._frames.sent(len(data))
        async with self._sending:
            for start in range(0, len(data), CHUNK):
                with trio.move_on_after(SEND_TIMEOUT) as sending:
                    await self._stream.send_all(memoryview(data)[start : start + CHUNK])
                if sending.cancelled_caught:
                    self._refuse(f"it has read nothing for {SEND_TIMEOUT:g} s")
                    self.socket.close()
                    raise trio.BrokenResourceError

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing between the bytes and the socket."""
        return self._bare is not None

    async def send_file(
        self, before: bytes, after: bytes, descriptor: int, offset: int, count: int
    ) -> None:
        """Send a part of a file between some bytes, all of it or nothing more on this connection.

        Raises:
            trio.BrokenResourceError: the client is gone, or the file ends before.
        """
        assert self._bare is not None
        try:
            async with self._sending:
                await self._stream.send_all(before)
                end = offset + count
                while offset < end:
                    offset += await self._send_part(self._bare, descriptor, offset, end - offset)
                await self._stream.send_all(after)
        except BaseException:
            # Half of a chunk may be sent: nothing that follows would be understood.
            self.socket.close()
            raise

    async def _send_part(
        self, bare_socket: BareSocket, descriptor: int, offset: int, most: int
    ) -> int:
        try:
            sent = await bare_socket.send_file(descriptor, offset, most)
        except trio.TooSlowError:
            self._refuse(f"it has read nothing for {SEND_TIMEOUT:g} s")
            raise trio.BrokenResourceError from None
        if sent is None:
            data = await read_part(descriptor, offset, most)
            await self._stream.send_all(data)
            sent = len(data)
        if not sent:
            raise trio.BrokenResourceError("the file has ended")
        return sent

    async def receive_some(self, max_bytes: int) -> bytes:
        """Return what has come, nothing at the end of the connection."""
        try:
            data = await self._receive(max_bytes)
            if not data:
                # It may have ended its direction alone, and wait for what it has asked for.
                with trio.move_on_after(ANSWER_TIMEOUT):
                    await self._connection.finish()
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            data = b""
        if not data and not self._closing:
            self.over.set()
        return data

    async def _receive(self, max_bytes: int) -> bytes:
        while not self._closing:
            self._reading = trio.CancelScope(deadline=self._when_headers_must_be_there())
            with self._reading:
                data, self._rest = self._rest, b""
                if data:
                    await trio.lowlevel.checkpoint()
                else:
                    data = bytes(await self._stream.receive_some(max_bytes))
                return self._note(data)
            # A request begins a moment after its last byte was read: by now it may have.
            if not self._closing and self._when_headers_must_be_there() < inf:
                self._refuse(f"its headers were not there within {HEADER_TIMEOUT:g} s")
                break
        raise trio.ClosedResourceError

    def _when_headers_must_be_there(self) -> float:
        if self._connection.requests or self._connection.served != self._served:
            self._deadline = inf
        return self._deadline

    def _note(self, data: bytes) -> bytes:
        """Look at what has come, and return as much of it as is handed on now.

        Raises:
            trio.ClosedResourceError: it is too much.
        """
        counted = data if self._frames is not None else self._begin_http2(data)
        if self._frames is not None:
            try:
                end = self._frames.feed(counted, trio.current_time())
            except TooManyFrames as error:
                self._refuse(str(error))
                raise trio.ClosedResourceError from None
            here = len(data) - (len(counted) - end)
            data, self._rest = data[:here], data[here:]
        elif self._deadline == inf and not self._connection.requests:
            self._served = self._connection.served
            self._deadline = trio.current_time() + HEADER_TIMEOUT
        return data

    def _begin_http2(self, data: bytes) -> bytes:
        """Count frames from now on if HTTP/2 has begun; return what is to be counted.

        Raises:
            trio.ClosedResourceError: it began where its frames cannot be told from what was before.
        """
        if self._may_begin:
            # Without TLS, by a client that knows: a tool, or a proxy. Networks cut it anywhere.
            before, self._first = self._first, self._first + data[: len(HTTP2_BEGINS)]
            self._may_begin = HTTP2_BEGINS.startswith(self._first)
            if not self._first.startswith(HTTP2_BEGINS):
                return data
            self._frames = FrameWatch(trio.current_time())
            return before + data
        if data and self.is_http2():
            # By an upgrade: the client waits for the answer, and then begins.
            if not data.startswith(HTTP2_BEGINS[: len(data)]):
                self._refuse("HTTP/2 must begin with it, or behind the answer to an upgrade")
                raise trio.ClosedResourceError
            self._frames = FrameWatch(trio.current_time())
        return data

    def _in_our_words(self, data: bytes) -> bytes:
        """Return our own response to a request that cannot be read, and log it."""
        status = HTTPStatus(int(data[9:12]))
        kind, why = UNREADABLE.get(status, (MALFORMED, "it is no request of HTTP"))
        self._refuse(why)
        return last_response(Problem(kind, why), status)

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
