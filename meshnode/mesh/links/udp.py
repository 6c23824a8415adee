"""UDP links: one datagram carries one message (reference section 1).

A listener has one socket for all its links and tells them apart by the other end's address. No
goodbye exists: the session above ends a link from which nothing comes any more.
"""

import errno
import math
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import trio

from meshnode.config import UdpListener as UdpListenerDirective
from meshnode.config import UdpPeer as UdpPeerDirective
from meshnode.config import split_address
from meshnode.logs import subject_logger
from meshnode.mesh.links.addresses import format_address
from meshnode.mesh.links.base import Link, LinkDialer, LinkListener, Message
from meshnode.mesh.links.tcp import DIAL_TIMEOUT
from meshnode.mesh.links.turns import Turns
from meshnode.protocol.framing import MAX_MESSAGE
from meshnode.protocol.messages import MessageType

MAX_SESSIONS = 1024
"""Addresses that one listener talks with at once."""

ADMITTED_AT_ONCE = 100
ADMITTED_PER_SECOND = 40.0
"""New addresses that are admitted in a burst, and for each second since. Anybody can write another
source address into each datagram, and each costs a session for 10 s, eleven answers and a line of
log. What is not admitted now may be by its next hello, a second later."""

COMPLAINT_INTERVAL = 60.0
"""Seconds between two log lines about addresses that are not admitted."""

QUEUE_BYTES = 1024 * 1024
"""Bytes that may wait on one link to be received: what a socket's own buffer would hold."""

LISTENER_QUEUE_BYTES = 32 * 1024 * 1024
"""Bytes that may wait on all links of one listener."""

DATAGRAM_OVERHEAD = 256
"""Bytes that a waiting datagram takes beside its own, so that tiny ones are bounded too."""

SOCKET_BUFFER = 4 * 1024 * 1024
"""Bytes of kernel buffer asked for each way, as what comes in bursts and finds no room is lost. The
kernel gives at most its ``net.core.rmem_max`` and ``wmem_max``."""

READS_AT_ONCE = 128
"""Datagrams read before other tasks get their turn."""

LOST = frozenset({errno.EMSGSIZE, errno.ENOBUFS, errno.EPERM})
"""Errors that mean a lost datagram, which any datagram may be: too large for UDP or for the path,
no room in the device's queue, a packet filter."""

Address = tuple[Any, ...]
"""A socket address: host and port, and for IPv6 flow and scope."""


class _DatagramSocket:
    """A non-blocking UDP socket for many datagrams at a time; owns ``sock``."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray(MAX_MESSAGE)
        self._writing = trio.Lock()
        sock.setblocking(False)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER)

    async def read(self) -> list[tuple[Address, bytearray]]:
        """Wait, and return what has arrived; nothing if that was only news of a lost datagram.

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
                if exc.errno not in LOST:
                    raise
            else:
                arrived.append((address, self._buffer[:size]))
        return arrived

    async def write(self, messages: Sequence[Message], address: Address | None) -> int:
        """Send each message as a datagram, to ``address`` or where the socket is connected to.

        Returns:
            The size of the largest message that got lost at once; 0 if none was.

        Raises:
            OSError: the other end is not there.
            trio.ClosedResourceError: the socket was closed.
        """
        send: Callable[[Message], int] = self._sock.send
        if address is not None:
            send = lambda message: self._sock.sendto(message, address)  # noqa: E731
        lost = 0
        # Links share a listener's socket, and only one task may wait until it takes more.
        async with self._writing:
            for message in messages:
                try:
                    await self._write_one(send, message)
                except OSError as exc:
                    if exc.errno not in LOST:
                        raise
                    lost = max(lost, len(message))
        return lost

    async def _write_one(self, send: Callable[[Message], int], message: Message) -> None:
        while True:
            try:
                send(message)
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._sock)
            else:
                return

    def close(self) -> None:
        """Close it; tasks that wait for it get ClosedResourceError."""
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()


class _UdpLink(Link):
    """What both ends have in common."""

    def __init__(self, address: Address) -> None:
        self.name = f"udp {format_address(address)}"
        self._log = subject_logger("link", self.name)
        self._complained = False

    def _note_lost(self, size: int) -> None:
        # Most are caught up on by who sent them; a routing update that never fits is not.
        if size and not self._complained:
            self._complained = True
            self._log.warning("a message of %d bytes could not be sent as a datagram", size)


class DialedUdpLink(_UdpLink):
    """A link over a socket of its own, connected to a listener."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock.getpeername())
        self._socket = _DatagramSocket(sock)
        self._closed = False

    async def send(self, messages: Sequence[Message]) -> None:
        """Send each message as a datagram."""
        self._check_open()
        try:
            self._note_lost(await self._socket.write(messages, None))
        except OSError as exc:  # the port is closed there, or there is no way
            raise trio.BrokenResourceError(str(exc)) from exc

    async def receive(self) -> list[memoryview]:
        """Return the datagrams that have arrived."""
        self._check_open()
        while True:
            try:
                arrived = await self._socket.read()
            except OSError as exc:  # the system was told so after a datagram of ours
                raise trio.BrokenResourceError(str(exc)) from exc
            messages = [memoryview(data) for _, data in arrived if data]
            if messages:
                return messages

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError

    async def aclose(self) -> None:
        """Close the socket; the other end learns of it when it sends."""
        self._closed = True
        self._socket.close()
        await trio.lowlevel.checkpoint()


class AcceptedUdpLink(_UdpLink):
    """A link to one of the addresses that talk with a listener."""

    def __init__(self, listener: "UdpListener", address: Address) -> None:
        super().__init__(address)
        self.address = address
        self._listener = listener
        self._arrived: deque[bytearray] = deque()
        self._bytes = 0
        self._closed = False

    def put(self, data: bytearray) -> None:
        """Queue a datagram, or drop it: the reader is behind."""
        size = len(data) + DATAGRAM_OVERHEAD
        if self._bytes + size <= QUEUE_BYTES and self._listener.take_room(size):
            self._bytes += size
            self._arrived.append(data)

    async def send(self, messages: Sequence[Message]) -> None:
        """Send each message as a datagram."""
        if self._closed:
            raise trio.ClosedResourceError
        self._note_lost(await self._listener.send_to(messages, self.address))

    async def receive(self) -> list[memoryview]:
        """Return the datagrams that have arrived."""
        try:
            await self._listener.turns.wait(self, lambda: self._arrived or self._closed)
        except OSError as exc:
            raise trio.BrokenResourceError(str(exc)) from exc
        if self._closed:
            raise trio.ClosedResourceError
        return [memoryview(data) for data in self._take()]

    def _take(self) -> list[bytearray]:
        arrived = list(self._arrived)
        self._arrived.clear()
        self._listener.give_room(self._bytes)
        self._bytes = 0
        return arrived

    async def aclose(self) -> None:
        """Forget the address: its next routing update begins another link."""
        if not self._closed:
            self._closed = True
            self._take()
            self._listener.forget(self)
        await trio.lowlevel.checkpoint()


class UdpListener(LinkListener):
    """Accepts UDP links on one socket; ``port`` is the real one where 0 was asked for."""

    def __init__(self, sock: socket.socket) -> None:
        address = sock.getsockname()
        self.name = f"udp {format_address(address)}"
        self.port: int = address[1]
        self.turns = Turns(self._read)
        self._socket = _DatagramSocket(sock)
        self._links: dict[Address, AcceptedUdpLink] = {}
        self._new: deque[AcceptedUdpLink] = deque()
        self._room = LISTENER_QUEUE_BYTES
        self._closed = False
        self._admissible: float = ADMITTED_AT_ONCE
        self._counted_at = -math.inf
        self._complained_at = -math.inf
        self._log = subject_logger("listener", self.name)

    @classmethod
    async def open(cls, port: int, bind_address: str = "127.0.0.1") -> list["UdpListener"]:
        """Listen on a port of every address that ``bind_address`` means ("" is all of them).

        Raises:
            OSError: the address is not ours or the port is taken.
        """
        found = await trio.socket.getaddrinfo(
            bind_address or None, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE
        )
        listeners: list[UdpListener] = []
        try:
            for family, _, _, _, address in found:
                sock = _bound(family, address)
                # A kernel without IPv6 still names its wildcard address.
                if sock is not None:
                    listeners.append(cls(sock))
        except OSError:
            for listener in listeners:
                await listener.aclose()
            raise
        if not listeners:
            raise OSError(errno.EAFNOSUPPORT, "this system has none of its address families")
        return listeners

    async def accept(self) -> AcceptedUdpLink:
        """Wait for a routing update from an address that no link exists to."""
        await self.turns.wait(self, lambda: self._new or self._closed)
        if self._closed:
            raise trio.ClosedResourceError
        return self._new.popleft()

    async def aclose(self) -> None:
        """Stop listening; the socket closes with its last link."""
        if not self._closed:
            self._closed = True
            self.turns.wake(self)
            for link in list(self._new):
                await link.aclose()
            self._close_if_unused()
        await trio.lowlevel.checkpoint()

    # --- what its links use ------------------------------------------------------------------

    async def send_to(self, messages: Sequence[Message], address: Address) -> int:
        """Send datagrams to an address; returns the size of the largest that got lost."""
        try:
            return await self._socket.write(messages, address)
        except OSError as exc:
            # The socket serves other addresses too. If this one stays away its link gets idle.
            self._log.debug("cannot send to %s: %s", format_address(address), exc.strerror)
            return 0

    def take_room(self, size: int) -> bool:
        """Count a datagram that waits on some link; False means that there is no room for it."""
        if size > self._room:
            return False
        self._room -= size
        return True

    def give_room(self, size: int) -> None:
        """Count datagrams that wait no more."""
        self._room += size

    def forget(self, link: AcceptedUdpLink) -> None:
        """Drop a link that was closed."""
        del self._links[link.address]
        self.turns.wake(link)
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        if self._closed and not self._links:
            self._socket.close()

    # --- reading -----------------------------------------------------------------------------

    async def _read(self) -> None:
        for address, data in await self._socket.read():
            if not data:
                continue  # no message; anybody may have sent it in the peer's name
            link = self._links.get(address) or self._admit(address, data)
            if link is not None:
                link.put(data)
                self.turns.wake(link)

    def _admit(self, address: Address, data: bytearray) -> AcceptedUdpLink | None:
        """Return a new link, if this is how one begins and there is room for it."""
        if self._closed or data[0] != MessageType.ROUTE:
            return None
        if not self._may_admit():
            return None
        link = self._links[address] = AcceptedUdpLink(self, address)
        self._new.append(link)
        self.turns.wake(self)
        return link

    def _may_admit(self) -> bool:
        now = trio.current_time()
        earned = (now - self._counted_at) * ADMITTED_PER_SECOND
        self._admissible = min(ADMITTED_AT_ONCE, self._admissible + earned)
        self._counted_at = now
        if self._admissible >= 1 and len(self._links) < MAX_SESSIONS:
            self._admissible -= 1
            return True
        if now >= self._complained_at + COMPLAINT_INTERVAL:
            self._complained_at = now
            self._log.warning(
                "too many addresses begin links; %d have one, others must wait", len(self._links)
            )
        return False


def _bound(family: int, address: Address) -> socket.socket | None:
    """Return a socket bound to an address, or None if the system does not have its family."""
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


class UdpDialer(LinkDialer):
    """Dials one host and port; the name is looked up anew each time.

    Opening says nothing about the other end: that only shows by an answer, or by none.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self.name = f"udp {format_address((host, port))}"

    async def dial(self) -> DialedUdpLink:
        """Open a socket that is connected to the first address that can be."""
        try:
            with trio.fail_after(DIAL_TIMEOUT):
                found = await trio.socket.getaddrinfo(
                    self._host, self._port, type=socket.SOCK_DGRAM
                )
        except trio.TooSlowError:
            raise OSError(f"no answer to the name within {DIAL_TIMEOUT:g} s") from None
        except UnicodeError as exc:
            raise OSError(f"{self._host} is no name that could be looked up") from exc
        fault = OSError(f"{self._host} has no address")
        for family, _, _, _, address in found:
            sock = socket.socket(family, socket.SOCK_DGRAM)
            try:
                sock.connect(address)
            except OSError as exc:
                sock.close()
                fault = exc
            else:
                return DialedUdpLink(sock)
        raise fault


async def listen(directive: UdpListenerDirective) -> list[UdpListener]:
    """Listen as the directive says.

    Raises:
        OSError: the address is not ours or the port is taken.
    """
    return await UdpListener.open(directive.port, directive.bindaddr)


def dialer(directive: UdpPeerDirective) -> UdpDialer:
    """Return what opens the directive's link."""
    return UdpDialer(*split_address(directive.address))
