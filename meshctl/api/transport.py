"""Bytes to and from a control service over a plain socket.

The guard: a node takes the end of our half of a session for the end of the payload, and starts the
unit. Should this process die while it sends, half a payload must not run. So while a payload is
under way the transport is *guarded*: however the socket gets closed then, kernel included, the node
sees a reset connection and no end of file.
"""

import errno
import socket
from typing import Protocol

RECEIVE_BYTES = 256 * 1024
"""Most bytes taken from a socket at once: larger pieces were no faster, smaller ones were."""

_LOOK = socket.MSG_PEEK | socket.MSG_DONTWAIT


class Transport(Protocol):
    """What a session needs of its connection. Sending and receiving may be in two threads."""

    def send_all(self, data: bytes | memoryview) -> None:
        """Send everything. Raises OSError."""

    def receive(self, max_bytes: int) -> bytes:
        """Return what is there, waiting for at least a byte; ``b""`` at the end. Raises OSError."""

    def receive_line_guarded(self, max_bytes: int) -> bytes:
        """Return the next line without its newline and set the guard; short of a line at the end.

        Nothing received before may still be waiting in a buffer of the caller.
        """

    def drop_guard(self) -> None:
        """End what :meth:`receive_line_guarded` began."""

    def send_eof(self) -> None:
        """End our half; the other goes on. Raises OSError."""

    def is_idle(self) -> bool:
        """Whether the connection is up with nothing received and unread."""

    def set_timeout(self, seconds: float | None) -> None:
        """Bound each later wait for the other side."""

    def fileno(self) -> int:
        """Return the socket's descriptor."""

    def interrupt(self) -> None:
        """Make a receive in another thread return, and every later call fail."""

    def close(self) -> None:
        """Close at once; never raises."""


class PlainTransport:
    """A connected unix or TCP socket.

    Its guard is one byte: while it stands, the newline of the line before the payload is left
    unread, and Linux resets a unix or TCP connection that is closed with unread bytes.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def send_all(self, data: bytes | memoryview) -> None:
        """Send everything."""
        self._socket.sendall(data)

    def receive(self, max_bytes: int) -> bytes:
        """Return what is there, waiting for at least a byte."""
        return self._socket.recv(max_bytes)

    def receive_line_guarded(self, max_bytes: int) -> bytes:
        """Return the next line and leave its newline unread."""
        line = b""
        while len(line) < max_bytes:
            seen = self._socket.recv(max_bytes - len(line), socket.MSG_PEEK)
            end = seen.find(b"\n")
            # recv(0) would not tell the end of the session from a line that is complete.
            take = len(seen) if end < 0 else end
            if take:
                line += self._socket.recv(take)
            if end >= 0 or not seen:
                break
        return line

    def drop_guard(self) -> None:
        """Read the newline that was left."""
        self._socket.recv(1)

    def send_eof(self) -> None:
        """End our half."""
        self._socket.shutdown(socket.SHUT_WR)

    def is_idle(self) -> bool:
        """Whether the connection is up with nothing received and unread."""
        try:
            self._socket.recv(1, _LOOK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def set_timeout(self, seconds: float | None) -> None:
        """Bound each later wait."""
        self._socket.settimeout(seconds)

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def interrupt(self) -> None:
        """Shut both halves down."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError as error:
            # The other side was first, or the thread that reads has closed it meanwhile.
            if error.errno not in (errno.ENOTCONN, errno.EBADF):
                raise

    def close(self) -> None:
        """Close at once."""
        self._socket.close()
