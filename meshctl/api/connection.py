"""One session with a control service: the greeting, lines both ways, raw bytes after a line."""

import json
import re

from meshctl.api import JsonObject
from meshctl.api.errors import (
    CannotReach,
    CommandRefused,
    NotTrusted,
    ProtocolMismatch,
    Refused,
    SessionLost,
)
from meshctl.api.opening import open_transport
from meshctl.api.settings import Address, TlsSettings
from meshctl.api.transport import RECEIVE_BYTES, Transport

MAX_GREETING = 4096
"""Longest greeting in bytes, with room for any node ID; other services speak longer first lines."""

LINE_BYTES = 16 * 1024
"""Bytes asked for when a line begins: nearly all are shorter, and the room for a large piece costs
more than reading one."""

MAX_REPLY = 256 * 1024 * 1024
"""Longest reply line in bytes. ``work list`` is one line: this is about half a million units."""

_GREETING = re.compile(r"Receptor Control, node (.+)")
_ERROR = re.compile(r"ERROR:\s?(.*)")

_TLS_ALERT = "\x15\x03"
"""How an alert of TLS begins, by which a service with TLS turns a client without it away. A newline
ends it, as it does a greeting: its last byte, 10, stands for "unexpected message"."""

CLOSED = "the node closed the session before it answered"


class Connection:
    """A session whose greeting has been read.

    Attributes:
        node_id: The node that greeted.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._buffer = bytearray()
        self.node_id = ""

    @classmethod
    def open(cls, address: Address, name: str, tls: TlsSettings, timeout: float) -> "Connection":
        """Connect and read the greeting, each wait bounded by ``timeout`` seconds.

        Raises:
            CannotReach: nobody answers, or not in time.
            ProtocolMismatch: what answers is no control service.
        """
        transport = open_transport(address, name, tls, timeout)
        connection = cls(transport)
        try:
            connection.read_greeting(name)
            transport.set_timeout(None)
        except BaseException:
            connection.close()
            raise
        return connection

    def read_greeting(self, name: str) -> None:
        """Read ``Receptor Control, node <id>`` and keep the id. ``name`` is for messages.

        Raises:
            CannotReach: it did not come in time, or the node takes no more sessions.
            ProtocolMismatch: it is another, or none.
        """
        try:
            line = self._read_line(MAX_GREETING)
        except SessionLost as error:
            if isinstance(error.__cause__, TimeoutError):
                reason = "no greeting in time. Is it a control service (with TLS: tls://)?"
                raise CannotReach(name, reason) from error
            if isinstance(error.__cause__, Refused):
                raise NotTrusted(name, str(error.__cause__.strerror)) from error
            raise ProtocolMismatch(
                f"{name} closed the session without a greeting. "
                "Is its node ending, or is it no control service?"
            ) from error
        match = _GREETING.fullmatch(line)
        if match is None and (refusal := _ERROR.fullmatch(line)):
            raise CannotReach(name, f"the node refused the session: {refusal[1]}")
        if line.startswith(_TLS_ALERT):
            raise CannotReach(name, "it speaks TLS: write tls://")
        if match is None:
            raise ProtocolMismatch(f"{name} is no control service: it greets with {line[:60]!r}")
        self.node_id = match[1]

    def send_line(self, line: str) -> None:
        """Send one command line. Raises SessionLost."""
        try:
            self._transport.send_all(f"{line}\n".encode())
        except OSError as error:
            raise SessionLost(f"the session is gone: {error.strerror or error}") from error

    def read_line(self) -> str:
        """Return the next line, stripped. Raises SessionLost and, for an ERROR, CommandRefused."""
        return _unless_error(self._read_line(MAX_REPLY))

    def read_json(self) -> JsonObject:
        """Return the next line as a JSON object. Raises as :meth:`read_line`, ProtocolMismatch."""
        line = self.read_line()
        try:
            reply = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ProtocolMismatch(f"the node's reply is not JSON: {line[:60]!r}") from error
        if not isinstance(reply, dict):
            raise ProtocolMismatch(f"the node's reply is not a JSON object: {line[:60]!r}")
        return reply

    def read_line_guarded(self) -> str:
        """As :meth:`read_line`; from here until :meth:`end_payload` closing is a reset."""
        try:
            line = self._transport.receive_line_guarded(MAX_GREETING)
        except OSError as error:
            raise SessionLost(f"{CLOSED}: {error.strerror or error}") from error
        if not line:
            raise SessionLost(CLOSED)
        return _unless_error(_text(line))

    def end_payload(self) -> None:
        """Drop the guard and end our half: the node takes what it got as complete."""
        self._transport.drop_guard()
        self._transport.send_eof()

    def receive(self, max_bytes: int = RECEIVE_BYTES) -> bytes:
        """Return raw bytes as they come, ``b""`` at the end. Raises SessionLost."""
        if self._buffer:
            data = bytes(self._buffer[:max_bytes])
            del self._buffer[:max_bytes]
            return data
        try:
            return self._transport.receive(max_bytes)
        except OSError as error:
            raise SessionLost(f"the session broke: {error.strerror or error}") from error

    def send(self, data: bytes | memoryview) -> None:
        """Send raw bytes. Raises SessionLost."""
        try:
            self._transport.send_all(data)
        except OSError as error:
            raise SessionLost(f"the session broke: {error.strerror or error}") from error

    def send_eof(self) -> None:
        """End our half; the other goes on. Raises SessionLost."""
        try:
            self._transport.send_eof()
        except OSError as error:
            raise SessionLost(f"the session broke: {error.strerror or error}") from error

    def set_timeout(self, seconds: float | None) -> None:
        """Bound each later wait; one that takes longer is a SessionLost caused by TimeoutError."""
        self._transport.set_timeout(seconds)

    def is_idle(self) -> bool:
        """Whether another command can be sent: the connection is up and nothing is unread."""
        return not self._buffer and self._transport.is_idle()

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._transport.fileno()

    @property
    def is_closed(self) -> bool:
        """Whether it was closed on this side."""
        return self._transport.fileno() < 0

    def interrupt(self) -> None:
        """Make a receive in another thread return."""
        self._transport.interrupt()

    def close(self) -> None:
        """Close at once."""
        self._transport.close()

    def _read_line(self, max_bytes: int) -> str:
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched >= max_bytes:
                raise ProtocolMismatch(f"the other side sent a line of over {max_bytes} bytes")
            try:
                data = self._transport.receive(RECEIVE_BYTES if searched else LINE_BYTES)
            except OSError as error:
                raise SessionLost(f"{CLOSED}: {error.strerror or error}") from error
            if not data:
                raise SessionLost(CLOSED)
            self._buffer += data
        line = _text(bytes(self._buffer[:end]))
        del self._buffer[: end + 1]
        return line


class ControlStream:
    """A stream to a service on the mesh, as bytes both ways; a context manager.

    One thread may send while another receives.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __enter__(self) -> "ControlStream":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        """Send all of ``data``. Raises SessionLost."""
        self._connection.send(data)

    def send_eof(self) -> None:
        """End the direction to the service; :meth:`receive` goes on. Raises SessionLost."""
        self._connection.send_eof()

    def receive(self, max_bytes: int = RECEIVE_BYTES) -> bytes:
        """Return what is there, waiting for at least a byte; ``b""`` when the service has ended.

        Raises:
            SessionLost: the stream broke.
        """
        return self._connection.receive(max_bytes)

    def is_idle(self) -> bool:
        """Whether the stream is up and nothing is unread."""
        return self._connection.is_idle()

    def fileno(self) -> int:
        """Return the descriptor of the socket under the stream."""
        return self._connection.fileno()

    def interrupt(self) -> None:
        """Break the stream: a receive in another thread returns, and later calls fail."""
        self._connection.interrupt()

    def close(self) -> None:
        """Close the stream at once."""
        self._connection.close()


class ResultStream:
    """A unit's stdout, piece by piece as it comes; an iterator and a context manager.

    It closes itself at its end and on an error; close it when you stop before that.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __enter__(self) -> "ResultStream":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __iter__(self) -> "ResultStream":
        return self

    def __next__(self) -> bytes:
        """Return the next piece. Raises SessionLost when the session broke."""
        if self._connection.is_closed:
            raise StopIteration
        try:
            data = self._connection.receive()
        except BaseException:
            self.close()
            raise
        if not data:
            self.close()
            raise StopIteration
        return data

    def interrupt(self) -> None:
        """Make a wait for the next piece in another thread end."""
        self._connection.interrupt()

    def close(self) -> None:
        """Stop reading; the unit goes on."""
        self._connection.close()


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace").strip()


def _unless_error(line: str) -> str:
    if match := _ERROR.fullmatch(line):
        raise CommandRefused(match[1])
    return line


# --- A stream in frames (docs/control-protocol.md) -----------------------------------------------
#
# A frame is 4 bytes of length, most significant first, and that many bytes. A length of 0 ends
# the direction; one with the highest bit set comes from the node alone and brings the reason why
# the stream broke. Plain bytes have no such end: a file that is copied through them may be cut
# short without a word.

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

    def is_idle(self) -> bool:
        """Whether the stream is up and nothing is unread, not even a part of a frame."""
        return not (self._left or self._ended) and super().is_idle()

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
