"""A UDP socket that reads and writes many datagrams at a time, for many addresses.

An error that one datagram meets is never reported for another address.
"""

import errno
import socket
from collections.abc import Callable, Sequence
from typing import Any

import trio

from meshnode.protocol.framing import MAX_MESSAGE

SOCKET_BUFFER = 4 * 1024 * 1024
"""Bytes of kernel buffer that are asked for in each direction: a burst that finds no room is lost.
The kernel gives at most its ``net.core.rmem_max`` and ``wmem_max``."""

READS_AT_ONCE = 128
"""Datagrams that are read before other tasks run."""

LOST = frozenset({errno.EMSGSIZE, errno.ENOBUFS, errno.EPERM})
"""Errors that mean a lost datagram: too large for UDP or for the path, no room in the device's
queue, a packet filter."""

Datagram = bytes | bytearray | memoryview

Address = tuple[Any, ...]
"""A socket address: host and port, and for IPv6 flow and scope."""


class UdpSocket:
    """A non-blocking UDP socket for many datagrams at a time; owns ``sock``."""

    def __init__(
        self, sock: socket.socket, bears: Callable[[OSError], bool] = lambda _: False
    ) -> None:
        """``bears``: whether an error is no reason to stop; of what became of earlier datagrams."""
        self._sock = sock
        self._bears = bears
        self._buffer = bytearray(MAX_MESSAGE)
        self._writing = trio.Lock()
        sock.setblocking(False)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER)

    async def read(self) -> list[tuple[Address, bytearray]]:
        """Wait, and return what has arrived; nothing if only the error of a lost datagram has.

        Raises:
            OSError: the other end of a connected socket is not there.
            trio.ClosedResourceError: the socket was closed.
        """
        await trio.lowlevel.wait_readable(self._sock)
        arrived: list[tuple[Address, bytearray]] = []
        for _ in range(READS_AT_ONCE):
            try:
                size, address = self._sock.recvfrom_into(self._buffer)
            except BlockingIOError:
                break
            except OSError as exc:
                if exc.errno not in LOST and not self._bears(exc):
                    raise
            else:
                arrived.append((address, self._buffer[:size]))
        return arrived

    async def write(self, messages: Sequence[Datagram], address: Address | None) -> int:
        """Send each message as a datagram, to ``address`` or where the socket is connected to.

        Returns:
            The size of the largest message that got lost at once; 0 if none was.

        Raises:
            OSError: the other end is not there.
            trio.ClosedResourceError: the socket was closed.
        """
        send: Callable[[Datagram], int] = self._sock.send
        if address is not None:
            send = lambda message: self._sock.sendto(message, address)  # noqa: E731
        lost = 0
        # Links share a listener's socket, and only one task may wait until it takes more.
        async with self._writing:
            for message in messages:
                try:
                    await self._write_one(send, message)
                except OSError as exc:
                    if exc.errno in LOST:
                        lost = max(lost, len(message))
                    elif self._bears(exc):
                        await self._write_again(send, message)
                    else:
                        raise
        return lost

    async def _write_again(self, send: Callable[[Datagram], int], message: Datagram) -> None:
        """Send a datagram in whose place news of an earlier one came; now it goes or is lost."""
        try:
            await self._write_one(send, message)
        except OSError as exc:
            if not self._bears(exc):
                raise

    async def _write_one(self, send: Callable[[Datagram], int], message: Datagram) -> None:
        while True:
            try:
                send(message)
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._sock)
            else:
                return

    def try_to_write(self, message: Datagram, address: Address) -> None:
        """Send a datagram that nobody waits for: it gets lost if it cannot go at once."""
        try:
            self._sock.sendto(message, address)
        except OSError:
            return  # it may get lost on the path as well

    def close(self) -> None:
        """Close it; tasks that wait for it get ClosedResourceError."""
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()


async def bound_sockets(host: str, port: int) -> list[socket.socket]:
    """Bind a UDP port of every address that ``host`` means ("" is all of them).

    Raises:
        OSError: the address is not ours or the port is taken.
    """
    found = await trio.socket.getaddrinfo(
        host or None, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE
    )
    bound: list[socket.socket] = []
    try:
        for family, _, _, _, address in found:
            # A kernel without IPv6 still names its wildcard address.
            if (sock := _bound(family, address)) is not None:
                bound.append(sock)
    except OSError:
        for sock in bound:
            sock.close()
        raise
    if not bound:
        raise OSError(errno.EAFNOSUPPORT, "this system has none of its address families")
    return bound


def _bound(family: int, address: Address) -> socket.socket | None:
    """Return a socket bound to an address; None if the system does not have its family."""
    try:
        sock = socket.socket(family, socket.SOCK_DGRAM)
    except OSError as exc:
        if exc.errno == errno.EAFNOSUPPORT:
            return None
        raise
    try:
        if family == socket.AF_INET6:
            # The IPv4 wildcard has a socket of its own.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock
