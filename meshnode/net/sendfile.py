"""Clients at a plain socket, without TLS or a mesh between: sendfile, and short sends at once.

The kernel sends files from the page cache. A short send that the socket takes whole needs none of
what trio's streams do for each send: it wakes no task and sets no time-out.
"""

import errno
import os
import socket

import trio

from meshnode.resources import in_thread

BLOCK = 1024 * 1024
"""Bytes that one call of the kernel sends: more would delay the other sessions."""

READ_BLOCK = 256 * 1024
"""Bytes that are read and sent at a time where the kernel cannot send: what one reader costs."""

SOCKET_BUFFER = 1024 * 1024
"""Bytes that may wait in a unix socket. A gigabyte then wakes us 600 times and not 4,000, which
takes half the time. For TCP the kernel finds the size that fits the path."""

THREAD_WAIT = 30.0
"""Seconds for which a reader of a file waits for a thread, while the system has none."""

_NO_SENDFILE = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
"""Errors of sendfile(2) for files of file systems that do not support it."""

_UNREACHED = frozenset({errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN})
"""Errors of it for a lost client, besides ConnectionError."""


def is_cached(descriptor: int, position: int, size: int) -> bool:
    """Whether both ends of a part of a file are in memory, so that reading it waits for no disk.

    Where the file system cannot tell, the answer is no.
    """
    byte = bytearray(1)
    try:
        return all(
            os.preadv(descriptor, [byte], at, os.RWF_NOWAIT)
            for at in (position, position + size - 1)
        )
    except OSError:
        return False


async def read_part(descriptor: int, position: int, size: int) -> bytes:
    """Return up to READ_BLOCK bytes of a file; a thread waits for the disk where that may be.

    Raises:
        OSError: the file cannot be read.
    """
    size = min(size, READ_BLOCK)
    if is_cached(descriptor, position, size):
        return os.pread(descriptor, size, position)
    return await in_thread(os.pread, descriptor, size, position, wait=THREAD_WAIT)


class BareSocket:
    """The socket of a stream that adds nothing to it. The stream closes it."""

    def __init__(self, sock: trio.socket.SocketType, timeout: float) -> None:
        """``timeout`` is the seconds in which the client must take something."""
        self._socket = sock
        self._timeout = timeout
        self._widened = False
        self._sends_files = True

    @classmethod
    def of(cls, stream: trio.abc.Stream, timeout: float) -> "BareSocket | None":
        """Return the bare socket of a stream, if that is what it is."""
        return cls(stream.socket, timeout) if isinstance(stream, trio.SocketStream) else None

    def send_now(self, data: bytes) -> int:
        """Send as much as the socket takes without waiting; return how many bytes.

        Raises:
            trio.BrokenResourceError: the client is gone.
        """
        try:
            return os.write(self._socket.fileno(), data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise trio.BrokenResourceError from error

    async def receive_some(self, max_bytes: int) -> bytes:
        """Return what is there, waiting for at least a byte; ``b""`` at the end.

        Raises:
            trio.BrokenResourceError: the client is gone.
            trio.ClosedResourceError: this end was closed.
        """
        while True:
            # Waits before it reads: a client asks after it was answered, so nothing is there yet.
            await trio.lowlevel.wait_readable(self._socket)
            try:
                return os.read(self._socket.fileno(), max_bytes)
            except BlockingIOError:
                continue
            except OSError as error:
                raise trio.BrokenResourceError from error

    async def send_file(self, descriptor: int, position: int, size: int) -> int | None:
        """Send up to BLOCK bytes; return how many, 0 at the file's end.

        None says that nothing was sent and the bytes must be read: the disk would have to be
        waited for, or the file is of a kind that cannot be sent.

        Raises:
            trio.BrokenResourceError: the client is gone.
            trio.TooSlowError: it takes nothing.
            OSError: the file cannot be read.
        """
        size = min(size, BLOCK)
        if not self._sends_files or not is_cached(descriptor, position, size):
            return None
        self._widen()
        sent = 0
        while sent < size:
            try:
                count = os.sendfile(self._socket.fileno(), descriptor, position + sent, size - sent)
            except BlockingIOError:
                with trio.fail_after(self._timeout):
                    await trio.lowlevel.wait_writable(self._socket)
                continue
            except OSError as error:
                if error.errno in _NO_SENDFILE and not sent:
                    self._sends_files = False
                    return None
                if isinstance(error, ConnectionError) or error.errno in _UNREACHED:
                    raise trio.BrokenResourceError from error
                raise
            if not count:
                break
            sent += count
        await trio.lowlevel.checkpoint()
        return sent

    def _widen(self) -> None:
        if not self._widened and self._socket.family == socket.AF_UNIX:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
        self._widened = True
