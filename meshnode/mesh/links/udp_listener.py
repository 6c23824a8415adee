"""The listener's end of UDP links: one socket for all links, told apart by the peer's address.

No task belongs to the socket: the links and the accept loop take turns in reading it for all
(:class:`SharedReader`). An address has a link once it is proven (``unproven.py``).
"""

import socket
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager

import trio

from meshnode.logs import subject_logger
from meshnode.mesh.links.base import AddressProbe, Link, LinkListener, Message
from meshnode.mesh.links.unproven import (
    ANSWER_TYPE,
    PREFIX_LENGTH,
    REQUEST,
    REQUEST_TYPE,
    CookieJar,
    Proven,
    UnprovenAddresses,
)
from meshnode.net.addresses import format_address, network_of
from meshnode.net.udp import Address, UdpSocket, bound_sockets

MAX_NEW = 64
"""Links that may wait to be accepted; an accept loop that is at work takes them at once."""

QUEUE_BYTES = 1024 * 1024
"""Bytes that may wait on one link to be received: what a socket's own buffer would hold."""

LISTENER_QUEUE_BYTES = 32 * 1024 * 1024
"""Bytes that may wait on all links of one listener."""

QUEUE_SHARE = 8 * 1024
"""Bytes that may wait on a link whatever waits on others."""

DATAGRAM_OVERHEAD = 256
"""Bytes that a waiting datagram takes beside its own, so that tiny ones are bounded too."""


class UdpLink(Link):
    """What links at both ends have in common."""

    forgeable = True

    def __init__(self, address: Address) -> None:
        self.name = f"udp {format_address(address)}"
        self.holder = network_of(str(address[0]))
        self._log = subject_logger("link", self.name)
        self._logged_loss = False

    def _note_lost(self, size: int) -> None:
        # Logged, because a routing update that never fits is never made good.
        if size and not self._logged_loss:
            self._logged_loss = True
            self._log.warning("a message of %d bytes could not be sent as a datagram", size)


class AcceptedUdpLink(UdpLink):
    """A link to one of the addresses that send to a listener."""

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
        if self._bytes + size > QUEUE_BYTES:
            return
        if self._listener.take_room(size, always=self._bytes + size <= QUEUE_SHARE):
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
            await self._listener.reader.wait(self, lambda: self._arrived or self._closed)
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
        """Forget the address, which must be proven again."""
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
        self.reader = SharedReader(self._read)
        self._socket = UdpSocket(sock)
        self._cookies = CookieJar()
        self._unproven: UnprovenAddresses | None = None
        self._links: dict[Address, AcceptedUdpLink] = {}
        self._new: deque[AcceptedUdpLink] = deque()
        self._room = LISTENER_QUEUE_BYTES
        self._closed = False
        self._log = subject_logger("listener", self.name)

    @classmethod
    async def open(cls, port: int, bind_address: str = "127.0.0.1") -> list["UdpListener"]:
        """Listen on a port of every address that ``bind_address`` means ("" is all of them).

        Raises:
            OSError: the address is not ours or the port is taken.
        """
        return [cls(sock) for sock in await bound_sockets(bind_address, port)]

    def probe_by(self, probe: AddressProbe) -> None:
        """Take what probes addresses without a cookie; without it they get no links."""
        self._unproven = UnprovenAddresses(probe, self._take_proven)

    async def accept(self) -> AcceptedUdpLink:
        """Wait for the link of a proven address."""
        await self.reader.wait(self, lambda: self._new or self._closed)
        if self._closed:
            raise trio.ClosedResourceError
        return self._new.popleft()

    async def aclose(self) -> None:
        """Stop listening; the socket closes with its last link."""
        if not self._closed:
            self._closed = True
            self.reader.wake(self)
            if self._unproven is not None:
                self._unproven.clear()
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
            # The socket serves other addresses too. This link ends when it is idle for long.
            self._log.debug("cannot send to %s: %s", format_address(address), exc.strerror)
            return 0

    def take_room(self, size: int, *, always: bool) -> bool:
        """Count a datagram that waits on some link; False means that there is no room for it."""
        if size > self._room and not always:
            return False
        self._room -= size
        return True

    def give_room(self, size: int) -> None:
        """Count datagrams that wait no more."""
        self._room += size

    def forget(self, link: AcceptedUdpLink) -> None:
        """Drop a link that was closed."""
        del self._links[link.address]
        self.reader.wake(link)
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        if self._closed and not self._links:
            self._socket.close()

    # --- reading -----------------------------------------------------------------------------

    async def _read(self) -> None:
        unproven = self._unproven
        if unproven is None or not unproven:
            await self._read_socket()
            return
        with trio.move_on_at(unproven.next_due()):
            await self._read_socket()
        with self._boundary("a probe"):
            for address, message in unproven.due(trio.current_time()):
                self._socket.try_to_write(message, address)

    async def _read_socket(self) -> None:
        for address, data in await self._socket.read():
            link = self._links.get(address)
            if link is not None and data and data[0] < REQUEST_TYPE:
                self._put(link, data)
            else:
                with self._boundary("a datagram"):
                    self._take(link, address, data)

    @contextmanager
    def _boundary(self, what: str) -> Iterator[None]:
        """Keep a fault that a datagram causes from the link whose task reads for all."""
        try:
            yield
        except Exception:  # noqa: BLE001 - a datagram must cost no other link
            self._log.exception("dropped %s: a fault of this node", what)

    def _take(self, link: AcceptedUdpLink | None, address: Address, data: bytearray) -> None:
        """Take a datagram that is not just another message of a link."""
        if not data:
            return  # no message
        if data == REQUEST:
            challenge = self._cookies.challenge(address, trio.current_time())
            self._socket.try_to_write(challenge, address)
        elif data[0] == ANSWER_TYPE and len(data) >= PREFIX_LENGTH:
            if link is None and self._cookies.accepts(data, address, trio.current_time()):
                link = self._admit(address)
            if link is not None:
                self._put(link, data[PREFIX_LENGTH:])
        elif link is not None:
            self._put(link, data)
        elif self._unproven is not None and not self._closed:
            self._unproven.take(address, data, trio.current_time())

    def _put(self, link: AcceptedUdpLink, data: bytearray) -> None:
        if data:
            link.put(data)
            self.reader.wake(link)

    def _admit(self, address: Address) -> AcceptedUdpLink | None:
        """Return a new link, if there is room for it."""
        if self._unproven is not None:
            self._unproven.forget(address)
        if self._closed or len(self._new) >= MAX_NEW:
            return None
        link = self._links[address] = AcceptedUdpLink(self, address)
        self._new.append(link)
        self.reader.wake(self)
        return link

    def _take_proven(self, proven: Proven) -> None:
        link = self._links.get(proven.address) or self._admit(proven.address)
        if link is not None:
            self._put(link, bytearray(proven.hello))


class SharedReader:
    """Shares one piece of repeated work, such as reading a socket, among the tasks that need it.

    One of the waiting tasks does the work; when it stops waiting, another goes on. So the work
    needs no task of its own, and is not done while nobody waits.
    """

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        """``work`` is done again and again; it may be cancelled where it waits."""
        self._work = work
        self._worker: Hashable = None
        self._scope = trio.CancelScope()
        self._waiting: dict[Hashable, trio.Event] = {}

    async def wait(self, who: Hashable, ready: Callable[[], object]) -> None:
        """Return once ``ready()`` is true; ``who`` is what :meth:`wake` is given when it may be.

        Raises whatever the work raises, if it was this task that did it.
        """
        await trio.lowlevel.checkpoint()
        try:
            while not ready():
                if self._worker is None:
                    await self._do_work(who)
                else:
                    self._waiting[who] = trio.Event()
                    await self._waiting[who].wait()
        finally:
            self._waiting.pop(who, None)
            if self._worker is None and self._waiting:
                next(iter(self._waiting.values())).set()

    async def _do_work(self, who: Hashable) -> None:
        self._worker = who
        self._scope = trio.CancelScope()
        try:
            with self._scope:
                await self._work()
        finally:
            self._worker = None

    def wake(self, who: Hashable) -> None:
        """Let ``who``, if it waits, look again whether it is ready."""
        if self._worker == who:
            self._scope.cancel()
        elif who in self._waiting:
            self._waiting[who].set()
