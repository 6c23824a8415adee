"""Byte streams between services of nodes, as trio sees them."""

import operator
from collections import deque
from typing import TYPE_CHECKING, Protocol

import trio

from meshnode.errors import MeshError
from meshnode.net.pump import TellsRefusal
from meshnode.net.sockets import FromNode
from meshnode.shares import Holder

if TYPE_CHECKING:
    from meshnode.security.certificates import Certificate

RECEIVE_SIZE = 64 * 1024
"""Bytes that ``receive_some`` returns at most when it is not told how many."""

SEND_CHUNK = 64 * 1024
"""Bytes handed to the engine at a time, so that other streams write in between."""

JOINED_MOST = 1024
"""Bytes up to which small pieces are joined. Each piece costs forty bytes more than it has, and a
peer may send its whole credit in pieces of one byte."""


class StreamHost(Protocol):
    """What a stream needs of its connection; all calls return at once."""

    @property
    def heard_at(self) -> float:
        """When the other end last showed that it lives."""
        ...

    @property
    def certificate(self) -> "Certificate | None":
        """The other end's certificate, verified."""
        ...

    def write(self, stream_id: int, data: bytes | memoryview, end: bool) -> None:
        """Hand bytes (and the FIN) to the engine, which copies them."""
        ...

    def room(self, stream_id: int) -> int:
        """Return how many bytes may be written now."""
        ...

    def consumed(self, stream_id: int, count: int) -> None:
        """Note that the reader took that many bytes."""
        ...

    def release(self, stream_id: int, *, graceful: bool, stop_reading: bool) -> None:
        """Note that the stream's user is done with it."""
        ...


class _OneAtATime:
    """Refuses a second task with trio's error, instead of mixing what the two do."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._held = False

    def __enter__(self) -> None:
        if self._held:
            raise trio.BusyResourceError(self._text)
        self._held = True

    def __exit__(self, *exc_info: object) -> None:
        self._held = False


class MeshStream(trio.abc.HalfCloseableStream, FromNode, TellsRefusal):
    """One stream to a service of another node.

    ``peer_node`` and ``peer_service`` say who is at the other end, and ``holder`` on whose account
    the stream is. Reading returns ``b""`` after the other end's :meth:`send_eof`; a connection
    that ends otherwise raises :exc:`trio.BrokenResourceError` with the reason, and the connection's
    error as its cause. :meth:`aclose`
    delivers what was written and then the end of the stream, in the background; closed while
    cancelled (:func:`trio.aclose_forcefully`) it is reset instead, which the other end sees as
    broken, so that half of something never looks like all of it.
    """

    def __init__(
        self,
        host: StreamHost,
        stream_id: int,
        peer_node: str,
        peer_service: str,
        holder: Holder | None = None,
    ) -> None:
        self.peer_node = peer_node
        self.peer_service = peer_service
        self.holder = holder or Holder(peer_node)
        self._host = host
        self._id = stream_id
        self._incoming: deque[bytes] = deque()
        self._peer_ended = False
        self._eof_sent = False
        self._closed = False
        self._broken: str | None = None
        self._write_broken: str | None = None
        self._cause: MeshError | None = None
        self._readers = trio.lowlevel.ParkingLot()
        self._writers = trio.lowlevel.ParkingLot()
        self._receiving = _OneAtATime("another task is receiving from this stream")
        self._sending = _OneAtATime("another task is sending on this stream")

    @property
    def heard_at(self) -> float:
        """When the other end last showed that it lives, in trio's time."""
        return self._host.heard_at

    @property
    def certificate(self) -> "Certificate | None":
        """The other end's certificate, verified; None if it had to show none."""
        return self._host.certificate

    # --- called by the connection ------------------------------------------------------------

    def feed(self, data: bytes, end: bool) -> None:
        """Take bytes that arrived."""
        if self._closed:
            self._host.consumed(self._id, len(data))
            return
        if data:
            incoming = self._incoming
            if incoming and len(incoming[-1]) + len(data) <= JOINED_MOST:
                incoming[-1] += data
            else:
                incoming.append(data)
        self._peer_ended = self._peer_ended or end
        if self._readers:
            self._readers.unpark_all()

    def lose(self, reason: str, cause: MeshError | None = None) -> None:
        """Take the end of the connection, or a reset of the other end's direction."""
        if self._broken is None:
            self._broken, self._cause = reason, cause
        self.refuse_writes(reason)
        self._readers.unpark_all()

    def refuse_writes(self, reason: str) -> None:
        """Note that the other end reads no more."""
        self._write_broken = self._write_broken or reason
        self._writers.unpark_all()

    def wake_writers(self) -> None:
        """Let writers go on that find room now."""
        if self._writers and self._host.room(self._id):
            self._writers.unpark_all()

    # --- reading -----------------------------------------------------------------------------

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for bytes; ``b""`` is the end of the stream.

        Raises:
            trio.BrokenResourceError: the connection ended before the stream did.
            trio.ClosedResourceError: the stream was closed here.
        """
        if max_bytes is None:
            max_bytes = RECEIVE_SIZE
        # A fraction is refused here, as by sockets, and not when data happens to arrive.
        elif operator.index(max_bytes) < 1:
            raise ValueError("max_bytes must be at least 1")
        with self._receiving:
            await trio.lowlevel.checkpoint()
            while not self._incoming or self._closed:
                if self._closed:
                    raise trio.ClosedResourceError
                if self._peer_ended:
                    return b""
                if self._broken is not None:
                    raise trio.BrokenResourceError(self._broken) from self._cause
                await self._readers.park()
            data = self._take(max_bytes)
            self._host.consumed(self._id, len(data))
            return data

    def _take(self, max_bytes: int) -> bytes:
        parts: list[bytes] = []
        size = 0
        while self._incoming and size < max_bytes:
            part = self._incoming.popleft()
            room = max_bytes - size
            if len(part) > room:
                self._incoming.appendleft(part[room:])
                part = part[:room]
            parts.append(part)
            size += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    # --- writing -----------------------------------------------------------------------------

    def _check_writable(self) -> None:
        if self._closed or self._eof_sent:
            raise trio.ClosedResourceError
        if self._write_broken is not None:
            raise trio.BrokenResourceError(self._write_broken) from self._cause

    async def _wait_room(self) -> int:
        """Wait until bytes may be written, and return how many."""
        self._check_writable()
        while not (room := self._host.room(self._id)):
            await self._writers.park()
            self._check_writable()
        return room

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes; returns when the connection has taken them.

        Raises:
            trio.BrokenResourceError: the connection ended, or the other end reads no more.
            trio.ClosedResourceError: the stream or its write side was closed here.
        """
        with self._sending:
            await trio.lowlevel.checkpoint()
            self._check_writable()
            rest = memoryview(data)
            while rest:
                size = min(SEND_CHUNK, await self._wait_room())
                self._host.write(self._id, rest[:size], False)
                rest = rest[size:]

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until ``send_all`` would take some bytes at once."""
        with self._sending:
            await trio.lowlevel.checkpoint()
            await self._wait_room()

    async def wait_refused(self) -> None:
        """Return when nobody reads what is written here any more: it is lost, or refused."""
        await trio.lowlevel.checkpoint()
        while self._write_broken is None and not self._closed:
            await self._writers.park()

    async def send_eof(self) -> None:
        """End this direction: the other end reads ``b""`` after all that was sent."""
        with self._sending:
            await trio.lowlevel.checkpoint()
            if self._eof_sent and not self._closed:
                return
            self._check_writable()
            self._eof_sent = True
            self._host.write(self._id, b"", True)

    # --- closing -----------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Close both directions; see the class for what happens to what was written."""
        if self._closed:
            await trio.lowlevel.checkpoint()
            return
        self._closed = True
        self._readers.unpark_all()
        self._writers.unpark_all()
        graceful = False
        try:
            await trio.lowlevel.checkpoint()
            graceful = True
        finally:
            self._finish(graceful)

    def _finish(self, graceful: bool) -> None:
        unread = sum(map(len, self._incoming))
        self._incoming.clear()
        if unread:
            self._host.consumed(self._id, unread)
        if graceful and not self._eof_sent and self._write_broken is None:
            self._eof_sent = True
            self._host.write(self._id, b"", True)
        self._host.release(
            self._id,
            graceful=graceful or self._eof_sent,
            stop_reading=not self._peer_ended and self._broken is None,
        )
