"""Parts of a file to a client: by the kernel itself where the client's stream is a bare socket."""

import errno
import os
import socket

import trio

BLOCK = 1024 * 1024
"""Bytes that one call of the kernel is asked to send: more would hold up the other sessions."""

READ_BLOCK = 256 * 1024
"""Bytes read and sent at once where the kernel cannot: all that one reader costs in memory, however
slow it is."""

SOCKET_BUFFER = 1024 * 1024
"""Bytes that may wait in a unix socket. A gigabyte then wakes us 600 times and not 4,000, which
takes half the time. TCP is left alone: there the kernel finds the size that fits the way."""

_NO_SENDFILE = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
"""What sendfile(2) answers for files of file systems that do not know it."""

_UNREACHED = frozenset({errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN})
"""What it answers for a lost client, beside those that Python makes a ConnectionError of."""


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
    return await trio.to_thread.run_sync(os.pread, descriptor, size, position)


class KernelSender:
    """Sends files to the client of a stream without their bytes passing through this process."""

    def __init__(self, stream: trio.abc.Stream, timeout: float) -> None:
        """``timeout`` is the seconds in which the client must take something."""
        self._socket = stream.socket if isinstance(stream, trio.SocketStream) else None
        self._timeout = timeout
        self._widened = False

    async def send(self, descriptor: int, position: int, size: int) -> int | None:
        """Send up to BLOCK bytes; return how many, 0 at the file's end.

        None says that nothing was sent and the bytes must be read: the stream is more than a
        socket, the disk would have to be waited for, or the file is of a kind that cannot be sent.

        Raises:
            trio.BrokenResourceError: the client is gone.
            trio.TooSlowError: it takes nothing.
            OSError: the file cannot be read.
        """
        size = min(size, BLOCK)
        if self._socket is None or not is_cached(descriptor, position, size):
            return None
        self._widen(self._socket)
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
                    self._socket = None
                    return None
                if isinstance(error, ConnectionError) or error.errno in _UNREACHED:
                    raise trio.BrokenResourceError from error
                raise
            if not count:
                break
            sent += count
        await trio.lowlevel.checkpoint()
        return sent

    def _widen(self, sock: trio.socket.SocketType) -> None:
        if not self._widened and sock.family == socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
        self._widened = True
