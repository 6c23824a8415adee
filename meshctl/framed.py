"""A stream to a service in frames: its end can be told from its loss (docs/control-protocol.md).

A frame is 4 bytes of length, most significant first, and that many bytes. A length of 0 ends the
direction; one with the highest bit set comes from the node alone and brings the reason why the
stream broke. Plain bytes have no such end: a file that is copied through them may be cut short
without a word.
"""

from meshctl.connection import Connection, ControlStream
from meshctl.errors import ProtocolMismatch, SessionLost
from meshctl.transport import RECEIVE_BYTES

LENGTH_BYTES = 4

BROKEN = 1 << 31
"""The bit of a length that says that the stream broke."""

MAX_FRAME = 1 << 24
"""Bytes of one frame at most, either way."""

MAX_REASON = 64 * 1024
"""Bytes of the text that says why a stream broke."""


class FramedStream(ControlStream):
    """A stream to a service of the mesh whose other end is known to be whole or broken.

    The descriptor of :meth:`fileno` is readable when there is something to receive, but may not be
    while a part of a frame is held here.
    """

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._left = 0
        self._ended = False

    def send(self, data: bytes) -> None:
        """Send all of ``data``. Raises SessionLost."""
        view = memoryview(data)
        for start in range(0, len(view), MAX_FRAME):
            part = view[start : start + MAX_FRAME]
            self._connection.send(len(part).to_bytes(LENGTH_BYTES, "big") + part)

    def send_eof(self) -> None:
        """End the direction to the service; :meth:`receive` goes on. Raises SessionLost."""
        self._connection.send(bytes(LENGTH_BYTES))

    def receive(self, max_bytes: int = RECEIVE_BYTES) -> bytes:
        """Return what is there, waiting for at least a byte; ``b""`` when the service has ended.

        Raises:
            SessionLost: the stream broke; the text says why, where the node knows.
        """
        if self._ended:
            return b""
        if not self._left:
            self._left = self._next_length()
            if not self._left:
                self._ended = True
                return b""
        data = self._some(min(max_bytes, self._left))
        self._left -= len(data)
        return data

    def _next_length(self) -> int:
        length = int.from_bytes(self._exactly(LENGTH_BYTES), "big")
        if length & BROKEN:
            size = min(length ^ BROKEN, MAX_REASON)
            raise SessionLost(f"the stream broke: {self._exactly(size).decode(errors='replace')}")
        if length > MAX_FRAME:
            raise ProtocolMismatch("the node sends what is no frame")
        return length

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            data += self._some(count - len(data))
        return data

    def _some(self, max_bytes: int) -> bytes:
        data = self._connection.receive(max_bytes)
        if not data:
            raise SessionLost("the stream broke: the node is gone, or has ended the session")
        return data
